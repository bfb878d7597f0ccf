"""Counters that live as long as the process, where nothing asks for a database.

The same contract as the SQLite counters. It knows nothing of who counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import gmtime, strftime
from typing import Final

import attrs
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from llmproxy.interfaces import ICounterStore
from llmproxy.values import UsageFilter, UsageTotal

KEPT_DAYS: Final = 62
"""Totals of older days go: memory is no archive. This month and the one before it are whole."""


@implementer(ICounterStore)
class MemoryCounters:
    """Counters in dictionaries.

    Args:
        now: Seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._quotas: dict[str, tuple[int, int]] = {}
        self._days: dict[str, dict[tuple[str, str, str], UsageTotal]] = {}

    def __repr__(self) -> str:
        return f"<MemoryCounters quotas={len(self._quotas)} days={len(self._days)}>"

    def begin_quota_use(
        self, starts: Mapping[str, tuple[int, int]]
    ) -> Deferred[Mapping[str, tuple[int, int]]]:
        """Begin to count the use of quotas; see `ICounterStore`."""
        return succeed(
            {key_id: self._quotas.setdefault(key_id, start) for key_id, start in starts.items()}
        )

    def add_quota_use(
        self, uses: Mapping[str, tuple[int, int]]
    ) -> Deferred[Mapping[str, tuple[int, int]]]:
        """Add what was used of quotas; see `ICounterStore`."""
        result = {}
        for key_id, (period_start_s, tokens) in uses.items():
            stands, used = self._quotas.get(key_id, (period_start_s, 0))
            if period_start_s > stands:
                stands, used = period_start_s, 0
            if period_start_s == stands:
                used = max(used + tokens, 0)
            result[key_id] = self._quotas[key_id] = (stands, used)
        return succeed(result)

    def set_quota_use(self, key_id: str, period_start_s: int, tokens: int) -> Deferred[None]:
        """Set what was used of a quota; see `ICounterStore`."""
        self._quotas[key_id] = (period_start_s, tokens)
        return succeed(None)

    def add_usage(self, totals: Mapping[tuple[str, str, str, str], UsageTotal]) -> Deferred[None]:
        """Add to the daily totals; see `ICounterStore`."""
        for (day, *place), total in totals.items():
            sums = self._days.setdefault(day, {})
            key_id, user_id, model = place
            known = sums.get((key_id, user_id, model), UsageTotal())
            sums[key_id, user_id, model] = _sum(known, total)
        oldest = strftime("%Y-%m-%d", gmtime(self._now() - KEPT_DAYS * 86400))
        for day in [day for day in self._days if day < oldest]:
            del self._days[day]
        return succeed(None)

    def usage(
        self, wanted: UsageFilter
    ) -> Deferred[Sequence[tuple[Mapping[str, str], UsageTotal]]]:
        """Give totals; see `ICounterStore`."""
        groups: dict[tuple[str, ...], UsageTotal] = {}
        if not wanted.group_by:
            groups[()] = UsageTotal()
        for day, sums in self._days.items():
            if (wanted.since and day < wanted.since) or (wanted.until and day > wanted.until):
                continue
            for (key_id, user_id, model), total in sums.items():
                if (
                    (wanted.key_id and key_id != wanted.key_id)
                    or (wanted.user_id and user_id != wanted.user_id)
                    or (wanted.model and model != wanted.model)
                ):
                    continue
                values = {"day": day, "key": key_id, "user": user_id, "model": model}
                group = tuple(values[name] for name in wanted.group_by)
                groups[group] = _sum(groups.get(group, UsageTotal()), total)
        names = [GROUP_NAMES[name] for name in wanted.group_by]
        return succeed(
            [(dict(zip(names, group, strict=True)), groups[group]) for group in sorted(groups)]
        )


GROUP_NAMES: Final[Mapping[str, str]] = {
    "day": "day",
    "key": "key_id",
    "user": "user_id",
    "model": "model",
}
"""What a group's value is called, by what usage is grouped by."""


def _sum(one: UsageTotal, other: UsageTotal) -> UsageTotal:
    """Add two totals."""
    mine, theirs = attrs.asdict(one), attrs.asdict(other)
    return UsageTotal(**{name: mine[name] + theirs[name] for name in mine})
