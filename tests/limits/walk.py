"""A limiter led through a random schedule, and held to the oracle at every step.

After each step: the decision was the oracle's, so was the wait; every key stands as the oracle
says (so a refusal changed nothing, no bucket is fuller than full, and what is used and reserved is
what was granted and settled); and as many requests run as were let in and not ended.
"""

from __future__ import annotations

from collections import deque
from random import Random

import attrs
from twisted.internet.defer import CancelledError

from llmproxy.config.model_stores import Limits, RateLimit
from llmproxy.entitlements import OwnLimits, Quota
from llmproxy.errors import GatewayError, QuotaExceeded, QuotaReserved, RateLimited
from llmproxy.interfaces import IGrant
from llmproxy.values import Demand, Principal
from tests.limits.oracle import GRANTED, HELD, LIMITED, SPENT, Oracle, Verdict
from tests.limits.rig import START_S, LimiterRig, MakesRigs, close_to

KINDS: dict[type[GatewayError], str] = {
    QuotaExceeded: SPENT,
    QuotaReserved: HELD,
    RateLimited: LIMITED,
}

KEYS = (
    Principal(key_id="plain"),
    Principal(key_id="budget", quota=Quota(900, used_before=20)),
    Principal(
        key_id="own",
        own_limits=OwnLimits(requests_per_second=0, tokens_per_minute=170, max_concurrent=3),
        quota=Quota(3_000),
    ),
)
MODELS = ("big", "small")


@attrs.define
class _Window:
    """When the requests of one scope were let in; the last ones are enough."""

    capacity: int
    per_us: float
    at_us: deque[int] = attrs.field(factory=lambda: deque(maxlen=40))

    def let_in(self, now_us: int) -> None:
        """See that in no window that ends now there were more than the rate allows."""
        self.at_us.append(now_us)
        for count, since_us in enumerate(reversed(self.at_us), start=1):
            assert count <= self.capacity + self.per_us * (now_us - since_us) + 1


class Walk:
    """One limiter under way.

    Args:
        rig: The limiter and its time.
        settings: What it was made with.
    """

    def __init__(self, rig: LimiterRig, settings: RateLimit) -> None:
        self._rig = rig
        self._now_us = round(START_S * 1_000_000)
        self._oracle = Oracle(settings, self._now_us)
        self._running: list[tuple[IGrant, int]] = []
        self._windows = [
            _Window(limits.burst_size or rate, rate / period_us)
            for limits in (settings.global_,)
            for rate, period_us in (
                (limits.requests_per_second, 1e6),
                (limits.requests_per_minute, 60e6),
            )
            if rate and settings.enabled
        ]

    async def acquire(self, key: int, model: int, tokens: int) -> None:
        """Ask for a request of one of `KEYS`."""
        asked = Demand(KEYS[key], MODELS[model], tokens)
        wanted, number = self._oracle.acquire(asked)
        try:
            grant = await self._rig.limiter.acquire(asked)
        except GatewayError as error:
            self._compare(wanted, error)
        else:
            assert wanted.what == GRANTED, f"granted, but {wanted}"
            self._running.append((grant, number))
            for window in self._windows:
                window.let_in(self._now_us)
        await self.look()

    def _compare(self, wanted: Verdict, error: GatewayError) -> None:
        assert KINDS[type(error)] == wanted.what, f"{error!r}, but {wanted}"
        if wanted.what == SPENT:
            assert error.retry_after_s is None
        else:
            assert error.retry_after_s is not None
            assert close_to(error.retry_after_s, max(float(wanted.wait_s), 0.001))

    async def cancel(self, key: int, model: int, tokens: int) -> None:
        """Ask, and do not want it any more; if it is granted all the same, nothing was used."""
        asked = Demand(KEYS[key], MODELS[model], tokens)
        deferred = self._rig.limiter.acquire(asked)
        deferred.cancel()
        try:
            grant = await deferred
        except CancelledError:
            # How far it came is not known: requests may have been counted, so no more is compared
            # of that than after a full bucket's time.
            await self._rig.rest()
            await self.advance(3_600_000_000)
        except GatewayError as error:
            self._compare(self._oracle.acquire(asked)[0], error)
        else:
            wanted, number = self._oracle.acquire(asked)
            assert wanted.what == GRANTED
            for window in self._windows:
                window.let_in(self._now_us)
            self._running.append((grant, number))
            await self.settle(len(self._running) - 1, 0)

    async def settle(self, which: int, tokens: int) -> None:
        """End one of the requests that run, if there is any."""
        if self._running:
            grant, number = self._running.pop(which % len(self._running))
            grant.settle(tokens)
            self._oracle.settle(number, tokens)
            await self._rig.rest()
        await self.look()

    async def advance(self, us: int) -> None:
        """Let time pass."""
        self._now_us += us
        self._rig.advance(us / 1_000_000)
        self._oracle.advance(us)
        await self.look()

    async def set_used(self, key: int, tokens: int) -> None:
        """Set what is used of a key's budget, if it has one."""
        principal = KEYS[key]
        budget = self._oracle.budget(principal)
        if principal.quota is not None and budget is not None:
            budget.used = tokens
            await self._rig.limiter.set_quota_used(principal.key_id, principal.quota, tokens)
        await self.look()

    async def look(self) -> None:
        """See that every key stands as it should."""
        for principal in KEYS:
            stands = await self._rig.limiter.standing(principal)
            wanted = self._oracle.standing(principal)
            assert set(stands.limits) == set(wanted)
            for name, (size, left, reset_s) in wanted.items():
                seen = stands.limits[name]
                assert (seen.limit, seen.remaining) == (size, left), f"{principal.key_id} {name}"
                assert close_to(seen.reset_s, float(reset_s))
            budget = self._oracle.budget(principal)
            if budget is None:
                assert stands.quota is None
            else:
                assert stands.quota is not None
                seen_use = (stands.quota.used, stands.quota.reserved)
                assert seen_use == (budget.used, budget.reserved), principal.key_id

    async def end(self) -> None:
        """End all that runs: then nothing is held, and in time every bucket is full."""
        while self._running:
            await self.settle(-1, 1)
        await self.advance(30 * 86_400 * 1_000_000)
        for principal in KEYS:
            stands = await self._rig.limiter.standing(principal)
            assert all(one.remaining == one.limit for one in stands.limits.values())
            assert stands.quota is None or stands.quota.reserved == 0


def random_settings(random: Random) -> RateLimit:
    """Make some limits: tight ones, so that all of them refuse now and then."""

    def some(*values: int) -> int:
        return random.choice((0, *values))

    def limits() -> Limits:
        return Limits(
            requests_per_second=some(1, 3, 7),
            requests_per_minute=some(7, 30, 60, 100),
            tokens_per_minute=some(100, 601, 5_000),
            max_concurrent=some(1, 2, 5),
            burst_size=some(1, 2, 10),
        )

    return RateLimit(
        enabled=random.random() > 0.1,
        global_=limits(),
        per_key=limits(),
        per_model={"big": limits()} if random.random() > 0.3 else {},
    )


async def random_walk(case: MakesRigs, random: Random, steps: int) -> None:
    """Lead a new limiter through a schedule that a source of randomness makes."""
    settings = random_settings(random)
    walk = Walk(await case.make_rig(settings), settings)
    for _ in range(steps):
        await _random_step(walk, random)
    await walk.end()


async def _random_step(walk: Walk, random: Random) -> None:
    key, model = random.randrange(len(KEYS)), random.randrange(len(MODELS))
    match random.choices(("acquire", "settle", "advance", "cancel", "set"), (50, 30, 20, 3, 1))[0]:
        case "acquire":
            await walk.acquire(key, model, random.choice((1, 1, 10, 99, 300, 10_000)))
        case "settle":
            await walk.settle(random.randrange(10), random.choice((0, 1, 30, 200, 700)))
        case "advance":
            await walk.advance(
                random.choice((1, 999, 1_000, 50_000, 142_857, 1_000_000, 9_000_001, 60_000_000))
            )
        case "cancel":
            await walk.cancel(key, model, random.choice((1, 50)))
        case "set":
            await walk.set_used(key, random.choice((0, 100, 899, 5_000)))
