"""The operations on usage, over its totals; the key store knows the names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from llmproxy.interfaces import IKeyStore, IUsageTotals
from llmproxy.resources.admin import operations
from llmproxy.resources.admin.envelope import Refusal
from llmproxy.resources.admin.operations import Done, Note, Operation, Run
from llmproxy.values import UsageTotal
from llmproxy.wire.admin_usage import SummarizeUsage, UsageSummary, usage_shown

MOST_GROUPS: Final = 10_000
"""In one answer: to write more would hold up the requests of others."""


class UsageOperations:
    """Adds up what was used.

    Args:
        totals: What was used.
        keys: Know the names of keys.
    """

    def __init__(self, totals: IUsageTotals, keys: IKeyStore) -> None:
        self._totals = totals
        self._keys = keys

    def runs(self) -> Mapping[Operation, Run]:
        """Give what does each operation."""
        return {operations.SUMMARIZE_USAGE: self._summarize}

    async def _summarize(self, request: SummarizeUsage, note: Note) -> Done:
        del note
        groups = await self._totals.usage(request.as_filter())
        if len(groups) > MOST_GROUPS:
            raise Refusal(
                400,
                f"There are over {MOST_GROUPS} groups; want fewer days, or less to group by.",
                param="group_by",
            )
        names: dict[str, str | None] = {}
        for by, _ in groups:
            key_id = by.get("key_id")
            if key_id is not None and key_id not in names:
                stored = await self._keys.get(key_id)
                # Keys of other sources are used, too.
                names[key_id] = None if stored is None else stored.record.name
        summary = UsageSummary(
            groups=tuple(
                usage_shown(total, by, names.get(by.get("key_id", ""))) for by, total in groups
            ),
            total=usage_shown(_sum([total for _, total in groups])),
        )
        return Done("This is what was used.", summary)


def _sum(totals: list[UsageTotal]) -> UsageTotal:
    return UsageTotal(
        **{
            field.name: sum(getattr(total, field.name) for total in totals)
            for field in attrs.fields(UsageTotal)
        }
    )
