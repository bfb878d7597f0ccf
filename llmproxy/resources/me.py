"""``/me``: what the holder of a key may know of it: models, limits, budget, and what was used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs

from llmproxy.errors import LimitsUnavailable, StoreUnavailable
from llmproxy.interfaces import ILimiter, IModelCatalog, IUsageTotals
from llmproxy.resources.base import EdgeResource, Identify, answer_json
from llmproxy.values import Principal, UsageFilter, UsageTotal

if TYPE_CHECKING:
    from llmproxy.site import EdgeRequest


class MeResource(EdgeResource):
    """Tells who asks about their own key.

    Args:
        identify: Says who asks.
        catalog: Knows the models.
        limiter: Knows how the key stands.
        totals: Know what was used.
        now: Seconds since the epoch.
    """

    methods = (b"GET", b"HEAD")

    def __init__(
        self,
        identify: Identify,
        catalog: IModelCatalog,
        limiter: ILimiter,
        totals: IUsageTotals,
        now: Callable[[], float],
    ) -> None:
        super().__init__(identify)
        self._catalog = catalog
        self._limiter = limiter
        self._totals = totals
        self._now = now

    async def answer(self, request: EdgeRequest, principal: Principal) -> None:
        """Answer with the key's models, limits, budget and usage.

        Raises:
            LimitsUnavailable: What counts them cannot be asked.
        """
        today = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%d")
        month = UsageFilter(
            since=f"{today[:8]}01", until=today, key_id=principal.key_id, group_by=("day",)
        )
        try:
            standing = await self._limiter.standing(principal)
            by_day = {values["day"]: total for values, total in await self._totals.usage(month)}
        except StoreUnavailable:
            raise LimitsUnavailable from None
        quota = standing.quota
        answer_json(
            request,
            200,
            {
                "id": principal.key_id,
                "name": principal.key_name,
                "user_id": principal.user_id,
                "expires_at": _shown_time(principal.expires_at_s),
                "models": [card.id for card in self._catalog.cards(principal)],
                "limits": {
                    name: {
                        "limit": limit.limit,
                        "remaining": limit.remaining,
                        "reset_seconds": round(limit.reset_s, 3),
                    }
                    for name, limit in standing.limits.items()
                },
                "quota": None
                if quota is None
                else {
                    "total": quota.total,
                    "used": quota.used,
                    "reserved": quota.reserved,
                    "remaining": max(quota.total - quota.used - quota.reserved, 0),
                    "period": quota.period,
                    "resets_at": _shown_time(quota.resets_at_s),
                },
                "usage": {
                    "today": attrs.asdict(by_day.get(today, UsageTotal())),
                    "this_month": attrs.asdict(_added_up(by_day.values())),
                },
            },
        )


def _added_up(totals: Iterable[UsageTotal]) -> UsageTotal:
    """Add totals up."""
    sums = dict.fromkeys((one.name for one in attrs.fields(UsageTotal)), 0)
    for total in totals:
        for name, value in attrs.asdict(total).items():
            sums[name] += value
    return UsageTotal(**sums)


def _shown_time(time_s: float | None) -> str | None:
    """Write a time as RFC 3339 has it, in UTC."""
    if time_s is None:
        return None
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
