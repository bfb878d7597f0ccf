"""What a request holds of the limits in Redis, until it is settled.

Settling hands on what is to be done; this knows nothing of how that gets to Redis.
"""

from __future__ import annotations

from typing import Final

from zope.interface import implementer

from llmproxy.interfaces import IGrant
from llmproxy.limits.redis_leases import Leases
from llmproxy.limits.redis_plan import Plan
from llmproxy.limits.redis_settlements import Settlement, Settlements

MOST_TOKENS: Final = 2**50
"""No request asks for more, whatever its client writes: larger numbers are not exact in Lua."""


@implementer(IGrant)
class Grant:
    """What Redis has granted.

    Args:
        leases: Keeps its lease, and takes its end.
        plan: What limits the request.
        lease: Its lease.
        asked: The tokens it asked for.
    """

    __slots__ = ("_asked", "_lease", "_leases", "_plan", "_settled")

    def __init__(self, leases: Leases, plan: Plan, lease: str, asked: int) -> None:
        self._leases = leases
        self._plan = plan
        self._lease = lease
        self._asked = asked
        self._settled = False

    def __repr__(self) -> str:
        return f"<Grant {self._lease} settled={self._settled}>"

    def settle(self, tokens: int) -> None:
        """Give back; see `IGrant`. The second time it does nothing."""
        if not self._settled:
            self._settled = True
            self._leases.end(Settlement(self._plan, "s", self._lease, self._asked, bounded(tokens)))


@implementer(IGrant)
class UncheckedGrant:
    """A request that passed while Redis was away: what it uses is counted all the same.

    Args:
        settlements: Take its end.
        plan: What would have limited it; with a quota.
        lease: The name that its lease would have had.
    """

    __slots__ = ("_lease", "_plan", "_settled", "_settlements")

    def __init__(self, settlements: Settlements, plan: Plan, lease: str) -> None:
        self._settlements = settlements
        self._plan = plan
        self._lease = lease
        self._settled = False

    def __repr__(self) -> str:
        return f"<Grant {self._lease} unchecked settled={self._settled}>"

    def settle(self, tokens: int) -> None:
        """Count; see `IGrant`. The second time it does nothing."""
        if not self._settled:
            self._settled = True
            self._settlements.add(Settlement(self._plan, "c", self._lease, 0, bounded(tokens)))


@implementer(IGrant)
class UncountedGrant:
    """Of a request that nothing limits."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<Grant without limits>"

    def settle(self, tokens: int) -> None:
        """Do nothing."""


UNCOUNTED: Final = UncountedGrant()
"""It has no state: one does for all."""


def bounded(tokens: int) -> int:
    """Give a number of tokens that Lua can count exactly."""
    return min(max(tokens, 0), MOST_TOKENS)
