"""Tests of ``llmproxy.limits.memory_limiter``."""

from __future__ import annotations

from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from llmproxy.config.model_stores import RateLimit
from llmproxy.entitlements import OwnLimits, Quota, QuotaStanding
from llmproxy.errors import LimitsUnavailable, RateLimited
from llmproxy.interfaces import IGrant, ILimiter
from llmproxy.stores.counters import SqliteCounters
from tests.limits.contract import LimiterContract
from tests.limits.memory_rig import MemoryRig
from tests.limits.rig import (
    START_S,
    demand,
    key,
    limits,
    now_or_never,
    refused,
    settle,
    standing,
    take,
)
from tests.limits.stores import FakeCounterStore
from tests.limits.walk import KEYS, MODELS, Walk, random_settings, random_walk
from tests.stores.sqlite_case import SqliteTestCase


class MemoryLimiterTests(LimiterContract, TestCase):
    """The contract, without a store."""

    async def make_rig(self, settings: RateLimit, *, now_s: float = START_S) -> MemoryRig:
        """Make a limiter."""
        return MemoryRig(settings, now_s)


class LimiterOverStoreTests(LimiterContract, TestCase):
    """The contract, with a store that answers in a later turn of the reactor."""

    async def make_rig(self, settings: RateLimit, *, now_s: float = START_S) -> MemoryRig:
        """Make a limiter."""
        return MemoryRig(settings, now_s, _LaterStore())


class LimiterOverSqliteTests(LimiterContract, SqliteTestCase):
    """The contract, with the store that is used in earnest."""

    async def make_rig(self, settings: RateLimit, *, now_s: float = START_S) -> MemoryRig:
        """Make a limiter."""
        return MemoryRig(settings, now_s, SqliteCounters(self.open(), lambda: now_s))


class _LaterStore(FakeCounterStore):
    def _do(self, *given: Any) -> Deferred[Any]:
        done = super()._do(*given)
        return deferLater(reactor, 0, lambda: done)


def run(coroutine: Coroutine[Deferred[Any], Any, Any]) -> Any:
    """Run what need not wait for anything."""
    return now_or_never(Deferred.fromCoroutine(coroutine))


_TOKENS = st.sampled_from((0, 1, 10, 99, 300, 10_000))
_KEY = st.integers(0, len(KEYS) - 1)
_MODEL = st.integers(0, len(MODELS) - 1)


class LimiterMachine(RuleBasedStateMachine):
    """Any schedule of requests, ends, cancellations and time, against the oracle."""

    @initialize(random=st.randoms(use_true_random=False), stored=st.booleans())
    def begin(self, random: Random, stored: bool) -> None:
        """Make the limiter."""
        settings = random_settings(random)
        self.rig = MemoryRig(settings, store=FakeCounterStore() if stored else None)
        self.rig.limiter.startService()
        self.walk = Walk(self.rig, settings)

    @rule(key=_KEY, model=_MODEL, tokens=_TOKENS)
    def acquire(self, key: int, model: int, tokens: int) -> None:
        """Ask."""
        run(self.walk.acquire(key, model, tokens))

    @rule(key=_KEY, model=_MODEL, tokens=_TOKENS)
    def cancel(self, key: int, model: int, tokens: int) -> None:
        """Ask, and give up."""
        run(self.walk.cancel(key, model, tokens))

    @rule(which=st.integers(0, 9), tokens=_TOKENS)
    def settle(self, which: int, tokens: int) -> None:
        """End one."""
        run(self.walk.settle(which, tokens))

    @rule(us=st.one_of(st.integers(0, 2_000), st.integers(0, 100_000_000)))
    def advance(self, us: int) -> None:
        """Let time pass, sweeps and flushes with it."""
        run(self.walk.advance(us))

    @rule(key=_KEY, tokens=_TOKENS)
    def set_used(self, key: int, tokens: int) -> None:
        """Set a budget's use."""
        run(self.walk.set_used(key, tokens))

    def teardown(self) -> None:
        """End all that runs."""
        if hasattr(self, "walk"):
            run(self.walk.end())
            now_or_never(self.rig.limiter.stopService())
            assert self.rig.clock.getDelayedCalls() == []


TestLimiterMachine = LimiterMachine.TestCase
TestLimiterMachine.settings = hypothesis_settings(
    deadline=None, max_examples=60, stateful_step_count=60
)


class LongWalkTests(TestCase):
    """Long random schedules."""

    async def make_rig(self, settings: RateLimit, *, now_s: float = START_S) -> MemoryRig:
        """Make a limiter."""
        return MemoryRig(settings, now_s, FakeCounterStore())

    async def test_walks(self) -> None:
        """Whatever comes in which order, the oracle agrees."""
        for seed in range(15):
            await random_walk(self, Random(seed), 200)


def test_interfaces() -> None:
    """A limiter and both kinds of its grants are what they say."""
    rig = MemoryRig(RateLimit())
    verifyObject(ILimiter, rig.limiter)
    free = run(take(rig))
    verifyObject(IGrant, free)
    assert "without limits" in repr(free)
    grant = run(take(rig, demand(key(quota=Quota(10)))))
    verifyObject(IGrant, grant)
    assert repr(grant) == "<grant of 'key-a', running>"
    run(settle(rig, grant))
    assert repr(grant) == "<grant of 'key-a', settled>"
    assert repr(rig.limiter) == (
        "<MemoryLimiter keys=0 <QuotaLedger keys=1 loading=0 unwritten=0>>"
    )


def test_one_grant_for_all_that_nothing_limits() -> None:
    """It costs nothing to be without limits."""
    rig = MemoryRig(RateLimit())
    assert run(take(rig)) is run(take(rig, demand(key("other"))))
    off = MemoryRig(RateLimit(enabled=False, per_key=limits(max_concurrent=1)))
    own = key(own=OwnLimits(max_concurrent=1))
    assert run(take(off)) is run(take(off, demand(own)))


def test_wall_clock_set_back() -> None:
    """Buckets do not see the wall clock: neither a day back nor a year forth changes them."""
    rig = MemoryRig(RateLimit(per_key=limits(requests_per_minute=2)))
    owner = key(quota=Quota(100, "daily"))
    run(take(rig, demand(owner, tokens=10)))
    for jump_us in (-86_400_000_000, 365 * 86_400_000_000):
        rig.start_us += jump_us
        assert run(standing(rig, owner)).limits["requests_per_minute"].remaining == 1
    run(take(rig, demand(owner)))
    run(refused(rig, demand(owner)))


def test_wall_clock_set_back_gives_no_budget_twice() -> None:
    """The later day stands until the clock has come to its end."""
    rig = MemoryRig(RateLimit())
    owner = key(quota=Quota(100, "daily"))
    run(settle(rig, run(take(rig, demand(owner))), 100))
    rig.start_us -= 86_400_000_000
    run(refused(rig, demand(owner)))
    rig.advance(86_400)
    run(refused(rig, demand(owner)))
    rig.advance(86_400)
    run(take(rig, demand(owner)))


def test_idle_keys_are_forgotten() -> None:
    """Within a minute or two after their buckets are full, and not while anything runs."""
    rig = MemoryRig(RateLimit(per_key=limits(requests_per_minute=60, max_concurrent=5)))
    rig.limiter.startService()
    running = run(take(rig, demand(key("runs"))))
    for number in range(500):
        grant = run(take(rig, demand(key(f"key-{number}"))))
        run(settle(rig, grant))
    assert "keys=501" in repr(rig.limiter)
    rig.advance(60)
    assert "keys=1 " in repr(rig.limiter)
    run(settle(rig, running))
    rig.advance(60)
    assert "keys=0 " in repr(rig.limiter)
    now_or_never(rig.limiter.stopService())
    assert rig.clock.getDelayedCalls() == []


def test_a_key_that_is_not_full_is_not_forgotten() -> None:
    """Its debt would be forgiven."""
    rig = MemoryRig(RateLimit(per_key=limits(tokens_per_minute=10)))
    rig.limiter.startService()
    run(settle(rig, run(take(rig, demand(tokens=10))), 100))
    for _ in range(9):
        rig.advance(60)
        run(refused(rig, demand(tokens=10)))
    rig.advance(60)
    run(take(rig, demand(tokens=10)))


def test_counter_is_loaded_once() -> None:
    """Requests that come while a key's counter is loaded wait for the same answer."""
    store = FakeCounterStore()
    store.counts["key-a"] = (0, 70)
    store.holds = True
    rig = MemoryRig(RateLimit(per_key=limits(max_concurrent=3)), store=store)
    owner = key(quota=Quota(100))
    asked = [rig.limiter.acquire(demand(owner, tokens=20)) for _ in range(4)]
    assert [call for call, _ in store.calls] == ["begin"]
    asked[1].cancel()
    with pytest.raises(CancelledError):
        now_or_never(asked[1])
    store.answer()
    assert _quota(rig) == QuotaStanding(100, 70, 30, "never")
    now_or_never(asked[0]).settle(0)
    now_or_never(asked[2]).settle(0)
    with pytest.raises(RateLimited):
        now_or_never(asked[3])
    assert _quota(rig) == QuotaStanding(100, 70, 0, "never")


def _quota(rig: MemoryRig) -> QuotaStanding:
    counter = rig.limiter.ledger.find("key-a", Quota(100), START_S)
    assert counter is not None
    return QuotaStanding(100, counter.used, counter.reserved, "never")


@pytest.mark.parametrize("deny", [False, True])
def test_store_is_down(deny: bool) -> None:
    """As configured: counting from ``used_before``, or nothing passes."""
    store = FakeCounterStore()
    store.fails = lambda: True
    rig = MemoryRig(RateLimit(on_storage_failure="deny" if deny else "allow"), store=store)
    owner = key(quota=Quota(100, used_before=95))
    if deny:
        assert type(run(refused(rig, demand(owner)))) is LimitsUnavailable
        store.fails = None
        run(take(rig, demand(owner)))
    else:
        run(take(rig, demand(owner, tokens=50)))
        run(refused(rig, demand(owner)))


def test_own_limits_made_anew() -> None:
    """An equal principal from another look-up is the same key with the same limits."""
    rig = MemoryRig(RateLimit())
    for _ in range(2):
        run(take(rig, demand(key(own=OwnLimits(requests_per_minute=2)))))
    run(refused(rig, demand(key(own=OwnLimits(requests_per_minute=2)))))
