"""What a suite over `ILimiter` needs of the one that it is run over, and short ways to ask it."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred

from llmproxy.config import model_stores
from llmproxy.config.model_stores import RateLimit
from llmproxy.entitlements import LimitStanding, OwnLimits, Quota, Standing
from llmproxy.errors import GatewayError
from llmproxy.interfaces import IGrant
from llmproxy.limits.memory_limiter import MemoryLimiter
from llmproxy.limits.redis_limiter import RedisLimiter
from llmproxy.values import Demand, Principal

START_S = 1_709_164_800.0
"""Thursday, 29 February 2024, 00:00 UTC."""

TOLERANCE_S = 0.000_005
"""Clocks of microseconds may round."""


class LimiterRig(Protocol):
    """A limiter, and its time, which stands still but for `advance`."""

    @property
    def limiter(self) -> MemoryLimiter | RedisLimiter:
        """The one under test."""

    def advance(self, seconds: float) -> None:
        """Let time pass, on all clocks; whole microseconds."""

    async def rest(self) -> None:
        """Wait until all that was settled or cancelled has been counted."""


class MakesRigs(Protocol):
    """A test case that knows how to make a limiter."""

    async def make_rig(self, settings: RateLimit, *, now_s: float = START_S) -> LimiterRig:
        """Make one with nothing counted yet, whose time is ``now_s``."""


def limits(**given: int) -> model_stores.Limits:
    """Make the limits of a scope, as configured."""
    return model_stores.Limits(**given)


def key(
    key_id: str = "key-a", *, own: OwnLimits | None = None, quota: Quota | None = None
) -> Principal:
    """Make a principal."""
    return Principal(key_id=key_id, own_limits=own, quota=quota)


def demand(principal: Principal | None = None, tokens: int = 1, model_id: str = "m") -> Demand:
    """Make a demand."""
    return Demand(principal or key(), model_id, tokens)


async def take(rig: LimiterRig, asked: Demand | None = None) -> IGrant:
    """Acquire; it must be granted."""
    return await rig.limiter.acquire(asked or demand())


async def refused(rig: LimiterRig, asked: Demand | None = None) -> GatewayError:
    """Acquire; it must be refused. Give the error."""
    try:
        grant = await rig.limiter.acquire(asked or demand())
    except GatewayError as error:
        return error
    raise AssertionError(f"granted: {grant!r}")


async def settle(rig: LimiterRig, grant: IGrant, tokens: int = 0) -> None:
    """Settle, and wait until that counts."""
    grant.settle(tokens)
    await rig.rest()


async def standing(rig: LimiterRig, principal: Principal | None = None) -> Standing:
    """Say how a key stands."""
    return await rig.limiter.standing(principal or key())


async def remaining(rig: LimiterRig, name: str, principal: Principal | None = None) -> int:
    """Say what is left of one limit of a key."""
    stands: LimitStanding = (await standing(rig, principal)).limits[name]
    return stands.remaining


def wait_of(error: GatewayError) -> float:
    """Give for how long a refusal asks."""
    assert error.retry_after_s is not None
    return error.retry_after_s


def close_to(seen_s: float, wanted_s: float) -> bool:
    """Say whether a time is the wanted one, up to a clock's rounding."""
    return abs(seen_s - wanted_s) <= TOLERANCE_S


def fields_of(error: GatewayError) -> dict[str, str]:
    """Give a refusal's header fields."""
    return {name.decode(): value.decode() for name, value in error.headers}


def now_or_never(deferred: Deferred[Any]) -> Any:
    """Give the result of a Deferred that has one, or raise its error."""
    results: list[Any] = []
    failures: list[Any] = []
    deferred.addCallbacks(results.append, failures.append)
    if failures:
        failures[0].raiseException()
    assert results, "no result yet"
    return results[0]
