"""Who of a pool is left out when breakers are open: never too many, and never all.

Pure. It knows breakers, and nothing of how one is chosen among those that are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from llmproxy.vitals.breaker import Breaker


class _HasBreaker(Protocol):
    @property
    def breaker(self) -> Breaker: ...


T = TypeVar("T", bound=_HasBreaker)


def left_in(pool: Sequence[T], max_ejected_percent: float, now_s: float) -> Sequence[T]:
    """Give those of a pool that may be sent a request, in their order.

    Those whose breakers do not admit one are left out, but for the least bad of them when they are
    more than may be, or all. The least bad is the one that failed longest ago.

    Args:
        pool: Those that could take the request, if it were not for their breakers.
        max_ejected_percent: Most of the pool that may be left out, rounded down to whole backends.
        now_s: The time.
    """
    out = [one for one in pool if not one.breaker.admits(now_s)]
    if not out:
        return pool
    most = min(int(len(pool) * max_ejected_percent / 100), len(pool) - 1)
    if len(out) > most:
        out.sort(key=lambda one: one.breaker.last_failure_s, reverse=True)
        del out[most:]
    gone = set(map(id, out))
    return [one for one in pool if id(one) not in gone]
