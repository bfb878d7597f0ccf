"""The JSON of usage in the admin API: which totals are wanted, and the totals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from llmproxy.errors import InvalidBody
from llmproxy.values import UsageFilter, UsageGroup, UsageTotal
from llmproxy.wire.admin import Count, Request, wrong

_DAY = "a day such as 2030-12-31"
NAME = "printable text of at most 1024 characters"
_GROUPS = "a list of day, key, user and model, each at most once"
_DAY_TEXT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

Day = Annotated[str, Meta(description=_DAY, extra_json_schema={"format": "date"})]
Name = Annotated[
    str,
    Meta(max_length=1024, description=NAME, extra_json_schema={"format": "printable"}),
]
Groups = Annotated[
    tuple[Annotated[UsageGroup, Meta(description="day, key, user or model")], ...],
    Meta(max_length=4, description=_GROUPS, extra_json_schema={"uniqueItems": True}),
]


class SummarizeUsage(Request, kw_only=True, forbid_unknown_fields=True):
    """``/admin/usage/summary``: of which days (UTC), whose, and told apart by what."""

    since: Day | None = None
    until: Day | None = None
    key_id: Name | None = None
    user_id: Name | None = None
    model: Name | None = None
    group_by: Groups | None = None

    def check(self, at: str) -> None:
        """Check what types cannot say; see `Request.check`."""
        for field in ("since", "until"):
            value = getattr(self, field)
            if value is not None and not _is_day(value):
                raise wrong(at, field, _DAY)
        if self.since and self.until and self.until < self.since:
            raise InvalidBody(f"{at}until must not be before {at}since.", param=f"{at}until")
        for field in ("key_id", "user_id", "model"):
            value = getattr(self, field)
            if value and not value.isprintable():
                raise wrong(at, field, NAME)
        groups = self.group_by or ()
        if len(set(groups)) < len(groups):
            raise wrong(at, "group_by", _GROUPS)

    def as_filter(self) -> UsageFilter:
        """Give which totals are wanted."""
        return UsageFilter(
            since=self.since or "",
            until=self.until or "",
            key_id=self.key_id or "",
            user_id=self.user_id or "",
            model=self.model or "",
            group_by=self.group_by or (),
        )


class UsageShown(Struct, kw_only=True):
    """Totals, with what tells them from others; ``key_name`` where the key is in the key store."""

    day: str | UnsetType = UNSET
    key_id: str | UnsetType = UNSET
    key_name: str | UnsetType = UNSET
    user_id: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    requests: Count
    errors: Count
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count


class UsageSummary(Struct, kw_only=True):
    """``/admin/usage/summary``: the totals of each group, and those of all together."""

    groups: tuple[UsageShown, ...]
    total: UsageShown


def usage_shown(
    total: UsageTotal, by: Mapping[str, str] | None = None, key_name: str | None = None
) -> UsageShown:
    """Give totals as the answer shows them.

    Args:
        total: The totals.
        by: What tells them from others: ``day``, ``key_id``, ``user_id``, ``model``.
        key_name: The name of the key, where it is known.
    """
    by = by or {}
    return UsageShown(
        day=by.get("day", UNSET),
        key_id=by.get("key_id", UNSET),
        key_name=UNSET if key_name is None else key_name,
        user_id=by.get("user_id", UNSET),
        model=by.get("model", UNSET),
        requests=total.requests,
        errors=total.errors,
        prompt_tokens=total.prompt_tokens,
        completion_tokens=total.completion_tokens,
        total_tokens=total.total_tokens,
    )


def _is_day(text: str) -> bool:
    try:
        return _DAY_TEXT.fullmatch(text) is not None and date.fromisoformat(text) is not None
    except ValueError:
        return False
