"""Tests of `llmproxy.limits.redis_settlements`: by themselves, and through a faulty network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any, Literal

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from llmproxy.config.model_stores import RateLimit
from llmproxy.config.setting import Duration
from llmproxy.entitlements import Quota
from llmproxy.errors import LimitsUnavailable, RateLimited, StoreUnavailable
from llmproxy.limits import redis_settlements
from llmproxy.limits.redis_outage import RedisOutage
from llmproxy.limits.redis_plan import Plan
from llmproxy.limits.redis_settlements import BATCH, RETRY_S, Settlement, Settlements
from tests.fault_proxy import FaultProxy
from tests.limits.fake_redis import FakeRedis
from tests.limits.redis_case import RedisLimitsCase
from tests.limits.rig import demand, key, limits
from tests.stores.reactor_case import reactor

PLAN = Plan([], "a", own_limits=None, quota=Quota(10), prefix=b"p:", ttl_us=30_000_000)


class Rig:
    """Settlements over a Redis that answers when the test says so."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.redis = FakeRedis()
        self.back = 0
        self.outage = RedisOutage(self.note_back)
        self.settlements = Settlements(
            self.redis, name=b"settled:p", clock=self.clock, now=lambda: "", outage=self.outage
        )

    def note_back(self) -> None:
        """Count how often Redis came back."""
        self.back += 1

    def add(self, *leases: str) -> None:
        """Settle requests."""
        for lease in leases:
            self.settlements.add(Settlement(PLAN, "s", lease, 5, 3))

    def sent(self) -> Sequence[tuple[int, list[str]]]:
        """Give the number and the leases of each batch that was sent."""
        return [
            (call.arguments[0], [item[2] for item in json.loads(call.arguments[3])])
            for call in self.redis.calls
        ]


def test_what_is_sent() -> None:
    """A batch names its number, and for each item where its keys begin."""
    rig = Rig()
    rig.add("p:1")
    (call,) = rig.redis.calls
    assert call.names == [b"settled:p", *PLAN.names]
    assert call.arguments[:2] == (1, "")
    assert json.loads(call.arguments[2]) == [[1, json.loads(PLAN.text)]]
    assert json.loads(call.arguments[3]) == [[1, "s", "p:1", 5, 3]]
    assert rig.settlements.pending == 1
    call.reply(0)
    assert rig.settlements.pending == 0
    assert repr(rig.settlements) == "<Settlements pending=0 dropped=0>"
    assert repr(Settlement(PLAN, "s", "p:1", 5, 3)) == "<Settlement s p:1 asked=5 spent=3>"


def test_one_batch_at_a_time() -> None:
    """What comes while one is on its way goes together in the next, in order."""
    rig = Rig()
    rig.add("p:1", "p:2", "p:3")
    assert rig.sent() == [(1, ["p:1"])]
    rig.redis.calls[0].reply(0)
    assert rig.sent()[1:] == [(2, ["p:2", "p:3"])]
    rig.redis.calls[1].reply(0)
    assert len(rig.redis.calls) == 2


def test_plans_are_told_once() -> None:
    """However many requests of a batch had the same one."""
    rig = Rig()
    other = Plan([], "b", own_limits=None, quota=Quota(10), prefix=b"p:", ttl_us=30_000_000)
    rig.add("p:1", "p:2", "p:3")
    rig.settlements.add(Settlement(other, "u", "p:4", 5))
    rig.redis.calls[0].reply(0)
    call = rig.redis.calls[1]
    assert call.names == [b"settled:p", *PLAN.names, *other.names]
    assert [offset for offset, _ in json.loads(call.arguments[2])] == [1, 1 + len(PLAN.names)]
    assert [item[0] for item in json.loads(call.arguments[3])] == [1, 1, 2]


def test_batches_are_bounded() -> None:
    """However much waits, one call stays short."""
    rig = Rig()
    rig.add(*(f"p:{number}" for number in range(2 * BATCH + 2)))
    for number in range(3):
        rig.redis.calls[number].reply(0)
    assert [len(leases) for _, leases in rig.sent()] == [1, BATCH, BATCH, 1]


def test_sent_again_under_the_same_number() -> None:
    """No reply: it may have been applied, so it is the same batch that is sent again."""
    rig = Rig()
    rig.add("p:1", "p:2")
    rig.redis.calls[0].fail(StoreUnavailable("gone"))
    rig.add("p:3")
    assert len(rig.redis.calls) == 1
    rig.clock.advance(RETRY_S)
    assert rig.sent() == [(1, ["p:1"]), (1, ["p:1"])]
    rig.redis.calls[1].fail(StoreUnavailable("gone"))
    assert rig.settlements.pending == 3
    rig.settlements.retry_now()
    assert not rig.clock.getDelayedCalls()
    rig.redis.calls[2].reply(0)
    assert rig.back == 1
    assert rig.sent()[2:] == [(1, ["p:1"]), (2, ["p:2", "p:3"])]


def test_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many the oldest is forgotten, but none that may have been applied."""
    monkeypatch.setattr(redis_settlements, "MOST_PENDING", 3)
    rig = Rig()
    rig.add("p:1")
    rig.redis.calls[0].fail(StoreUnavailable("gone"))
    rig.add("p:2", "p:3", "p:4", "p:5", "p:6")
    caught_up = rig.settlements.caught_up()
    assert caught_up is not None
    assert rig.settlements.dropped == 2
    assert rig.settlements.pending == 4
    rig.clock.advance(RETRY_S)
    rig.redis.calls[1].reply(0)
    assert not caught_up.called
    rig.redis.calls[2].reply(0)
    assert caught_up.called
    assert rig.sent()[1:] == [(1, ["p:1"]), (2, ["p:4", "p:5", "p:6"])]


def test_catching_up() -> None:
    """It ends with what was added before it, or when Redis cannot be asked."""
    rig = Rig()
    assert rig.settlements.caught_up() is None
    rig.add("p:1", "p:2")
    first = rig.settlements.caught_up()
    cancelled = rig.settlements.caught_up()
    assert first is not None
    assert cancelled is not None
    cancelled.addErrback(lambda _: None).cancel()
    rig.redis.calls[0].reply(0)
    rig.add("p:3")
    assert not first.called
    rig.redis.calls[1].reply(0)
    assert first.called
    second = rig.settlements.caught_up()
    assert second is not None
    rig.redis.calls[2].fail(StoreUnavailable("gone"))
    assert second.called


def test_what_redis_could_not_apply() -> None:
    """It is counted, and not tried again."""
    rig = Rig()
    rig.add("p:1")
    rig.redis.calls[0].reply(1)
    assert (rig.settlements.dropped, rig.settlements.pending) == (1, 0)
    assert rig.outage.failures == 0


def test_stopping() -> None:
    """It ends when all is sent, or at the first failure; later ones are tried once."""
    rig = Rig()
    rig.add("p:1", "p:2")
    stopped = Deferred.fromCoroutine(rig.settlements.stop())
    rig.redis.calls[0].reply(0)
    assert not stopped.called
    rig.redis.calls[1].fail(StoreUnavailable("gone"))
    assert stopped.called
    rig.add("p:3")
    assert rig.sent()[2:] == [(2, ["p:2"])]
    rig.redis.calls[2].fail(StoreUnavailable("gone"))
    assert not rig.clock.getDelayedCalls()


def test_stopping_with_nothing_to_send() -> None:
    """It is over at once."""
    assert Deferred.fromCoroutine(Rig().settlements.stop()).called


@pytest.mark.slow
class FaultTests(RedisLimitsCase):
    """Connections are cut, replies lost and late: each settlement still counts once."""

    timeout = 120

    async def test_deny(self) -> None:
        """With ``deny``."""
        await self.through_faults("deny", Random(1))

    async def test_allow(self) -> None:
        """With ``allow``: what passed unchecked is counted as well."""
        await self.through_faults("allow", Random(2))

    async def through_faults(self, on_failure: Literal["allow", "deny"], random: Random) -> None:
        """Lead requests through faults; in the end nothing is held and all is counted."""
        proxy = FaultProxy(self.redis_server.port)
        self.addCleanup(proxy.stop)
        redis = await self.connected(proxy.addr, pool_size=2, timeout=Duration(0.2))
        lease_ttl_s = 1.0
        limiter = await self.live(
            RateLimit(global_=limits(max_concurrent=40), per_key=limits(max_concurrent=20)),
            redis,
            on_storage_failure=on_failure,
            lease_ttl_s=lease_ttl_s,
        )
        spent = {"a": 0, "b": 0}
        quotas = {"a": Quota(10**9), "b": Quota(10**9, "monthly")}
        counts: dict[str, int] = {"granted": 0, "limited": 0, "unavailable": 0}
        over = False

        async def work() -> None:
            while not over:
                name = random.choice("ab")
                try:
                    asked = limiter.acquire(demand(key(name, quota=quotas[name]), tokens=100))
                    if random.random() < 0.05:
                        reactor.callLater(random.uniform(0, 0.01), asked.cancel)
                        asked.addCallback(give_back).addErrback(lambda _: None)
                        await self.sleep(0.01)
                        continue
                    grant = await asked
                except (RateLimited, LimitsUnavailable) as error:
                    kind = "limited" if isinstance(error, RateLimited) else "unavailable"
                    counts[kind] += 1
                    await self.sleep(0.01)
                    continue
                counts["granted"] += 1
                # Now and then longer than a lease lives.
                await self.sleep(random.choice((0.001, 0.01, 0.05, 0.05, 1.3 * lease_ttl_s)))
                tokens = random.randrange(200)
                spent[name] += tokens
                grant.settle(tokens)

        def give_back(grant: Any) -> None:
            grant.settle(0)

        async def disturb() -> None:
            for _ in range(20):
                await self.sleep(random.uniform(0.05, 0.4))
                match random.choice(("cut", "after", "swallow", "delay", "refuse")):
                    case "cut":
                        proxy.cut()
                    case "after":
                        proxy.cut_after_bytes = random.randrange(1, 200)
                    case "swallow":
                        proxy.swallow = True
                        await self.sleep(random.uniform(0.05, 0.4))
                        proxy.swallow = False
                        proxy.cut()  # what was lost in the middle cannot be followed by anything
                    case "delay":
                        proxy.delay_s = random.uniform(0.05, 0.3)
                        await self.sleep(random.uniform(0.05, 0.4))
                        proxy.delay_s = 0.0
                        proxy.cut()
                    case "refuse":
                        proxy.refuse()
                        proxy.cut()
                        await self.sleep(random.uniform(0.05, 0.4))
                        proxy.accept()
            proxy.cut_after_bytes = None

        workers = gatherResults([Deferred.fromCoroutine(work()) for _ in range(30)])
        await disturb()
        over = True
        await workers
        await self.settled(limiter)
        assert limiter.leases == 0
        assert limiter.dropped_settlements == 0
        assert limiter.failures > 20
        assert counts["granted"] > 50
        assert limiter.allowed_unchecked > 0 or on_failure == "deny"
        assert counts["unavailable"] > 0 or on_failure == "allow"
        assert dict(await limiter.quota_used(quotas)) == spent
        # What was granted without our knowing expires; who asks next tidies up.
        await self.sleep(lease_ttl_s)
        for name, quota in quotas.items():
            (await limiter.acquire(demand(key(name, quota=quota)))).settle(0)
        await self.settled(limiter)
        assert await self.kept(redis) == {}
