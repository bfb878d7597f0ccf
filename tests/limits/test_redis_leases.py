"""Tests of `llmproxy.limits.redis_leases`: by themselves, and over a Redis that is killed."""

from __future__ import annotations

import json
from functools import partial
from random import Random
from typing import Literal

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from llmproxy.config.model_stores import RateLimit
from llmproxy.entitlements import Limits, Quota
from llmproxy.errors import LimitsUnavailable, RateLimited, StoreUnavailable
from llmproxy.limits.redis_leases import BATCH, Leases
from llmproxy.limits.redis_limiter import RedisLimiter
from llmproxy.limits.redis_outage import RedisOutage
from llmproxy.limits.redis_plan import Plan
from llmproxy.limits.redis_scripts import RENEW, SETTLE
from llmproxy.limits.redis_settlements import Settlement, Settlements
from llmproxy.stores.redis import RedisConnections
from tests.limits.fake_redis import FakeRedis
from tests.limits.redis_case import RedisLimitsCase
from tests.limits.rig import demand, key, limits
from tests.services import RedisServer

TTL_S = 30.0
PLAN = Plan(
    [("key", b"a", Limits(max_concurrent=3)), ("global", b"", Limits(max_concurrent=9))],
    "a",
    own_limits=None,
    quota=Quota(10),
    prefix=b"p:",
    ttl_us=round(TTL_S * 1e6),
)


class LeasesTests(SynchronousTestCase):
    """Leases over a Redis that answers when the test says so."""

    def setUp(self) -> None:
        """Begin with no leases."""
        self.clock = Clock()
        self.redis = FakeRedis()
        self.outage = RedisOutage(lambda: None)
        self.settlements = Settlements(
            self.redis, name=b"settled:p", clock=self.clock, now=lambda: "", outage=self.outage
        )
        self.leases = Leases(
            self.redis,
            ttl_us=round(TTL_S * 1e6),
            clock=self.clock,
            now=lambda: "",
            outage=self.outage,
            settlements=self.settlements,
        )
        self.leases.start()

    def test_renewed_three_times_in_their_life(self) -> None:
        """All leases together, with their places and what they hold."""
        self.clock.advance(TTL_S / 3)
        assert self.redis.calls == []
        self.leases.begin("p:1", PLAN, 7)
        self.leases.begin("p:2", PLAN, 8)
        assert len(self.leases) == 2
        self.clock.advance(TTL_S / 3)
        (call,) = self.redis.calls
        assert call.script == RENEW
        assert call.names == list(PLAN.names)
        assert call.arguments[0] == 30_000_000
        first, second = json.loads(call.arguments[2])
        assert first[:3] == [0, "p:1", 7]
        assert second[:3] == [0, "p:2", 8]
        assert [PLAN.names[place - 1] for place in first[3]] == [
            b"p:leases:key:a",
            b"p:leases:global:",
        ]
        assert PLAN.names[first[4] - 1] == b"p:holds:a"
        assert repr(self.leases) == "<Leases alive=2 renewing=2>"
        call.reply(0)
        self.clock.advance(TTL_S / 3)
        assert len(self.redis.calls) == 2

    def test_many(self) -> None:
        """They go in several calls, one after the other; without those that end meanwhile."""
        for number in range(BATCH + 2):
            self.leases.begin(f"p:{number}", PLAN, 0)
        self.clock.advance(TTL_S / 3)
        assert len(json.loads(self.redis.calls[0].arguments[2])) == BATCH
        self.leases.end(Settlement(PLAN, "s", f"p:{BATCH}"))
        self.redis.calls[1].reply(0)
        self.redis.calls[0].reply(0)
        assert [item[1] for item in json.loads(self.redis.calls[2].arguments[2])] == [
            f"p:{BATCH + 1}"
        ]

    def test_ended_while_being_renewed(self) -> None:
        """That is told after the renewal, which would put the lease back."""
        self.leases.begin("p:1", PLAN, 7)
        self.clock.advance(TTL_S / 3)
        self.leases.end(Settlement(PLAN, "s", "p:1"))
        assert [call.script for call in self.redis.calls] == [RENEW]
        self.redis.calls[0].reply(0)
        assert [call.script for call in self.redis.calls] == [RENEW, SETTLE]

    def test_ended_while_renewal_fails(self) -> None:
        """It is not lost."""
        self.leases.begin("p:1", PLAN, 7)
        self.clock.advance(TTL_S / 3)
        self.leases.end(Settlement(PLAN, "s", "p:1"))
        self.redis.calls[0].fail(StoreUnavailable("gone"))
        assert self.outage.lasts
        assert [call.script for call in self.redis.calls] == [RENEW, SETTLE]

    def test_failed_rounds(self) -> None:
        """The next one comes, whatever went wrong."""
        self.leases.begin("p:1", PLAN, 7)
        self.redis.broken = StoreUnavailable("gone")
        self.clock.pump([TTL_S / 3] * 3)
        self.redis.broken = ZeroDivisionError("a mistake")
        self.clock.pump([TTL_S / 3] * 2)
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 2
        self.redis.broken = None
        self.clock.advance(TTL_S / 3)
        assert len(self.redis.calls) == 6
        assert self.outage.failures == 3

    def test_stopping(self) -> None:
        """After the round that is under way, all leases are given back; none is renewed."""
        self.leases.begin("p:1", PLAN, 7)
        self.clock.advance(TTL_S / 3)
        stopped = Deferred.fromCoroutine(self.leases.stop())
        assert not stopped.called
        self.redis.calls[0].reply(0)
        assert stopped.called
        assert json.loads(self.redis.calls[1].arguments[3])[0][1:3] == ["r", "p:1"]
        assert len(self.leases) == 0
        self.clock.advance(TTL_S)
        assert len(self.redis.calls) == 2


class ExpiryTests(RedisLimitsCase):
    """Leases in a real Redis, with time that the test lets pass."""

    async def test_renewed_leases_live(self) -> None:
        """However long a request runs, it counts; what is reserved for it, too."""
        rig = await self.make_rig(RateLimit(per_key=limits(max_concurrent=1)), lease_ttl_s=30)
        owner = key(quota=Quota(10))
        grant = await rig.limiter.acquire(demand(owner, tokens=4))
        for _ in range(20):
            rig.advance(10)
            await rig.rest()
            with self.assertRaises(RateLimited):
                await rig.limiter.acquire(demand(owner))
        grant.settle(3)
        stands = await rig.limiter.standing(owner)
        assert stands.quota is not None
        assert (stands.quota.used, stands.quota.reserved) == (3, 0)

    async def test_expired_then_settled(self) -> None:
        """What it used is counted, and nothing is given back twice."""
        rig = await self.make_rig(RateLimit(per_key=limits(max_concurrent=1)), lease_ttl_s=30)
        owner = key(quota=Quota(10))
        late = await rig.limiter.acquire(demand(owner, tokens=4))
        rig.now_us += 31_000_000
        other = await rig.limiter.acquire(demand(owner, tokens=5))
        late.settle(6)
        await rig.rest()
        stands = await rig.limiter.standing(owner)
        assert stands.limits["max_concurrent"].remaining == 0
        assert stands.quota is not None
        assert (stands.quota.used, stands.quota.reserved) == (6, 5)
        other.settle(1)
        stands = await rig.limiter.standing(owner)
        assert stands.quota is not None
        assert (stands.quota.used, stands.quota.reserved) == (7, 0)

    async def test_expired_then_put_back(self) -> None:
        """Its request runs, so the next renewal counts it again, as it was."""
        rig = await self.make_rig(RateLimit(per_key=limits(max_concurrent=2)), lease_ttl_s=30)
        owner = key(quota=Quota(10))
        grant = await rig.limiter.acquire(demand(owner, tokens=4))
        rig.now_us += 31_000_000
        stands = await rig.limiter.standing(owner)
        assert stands.limits["max_concurrent"].remaining == 2
        assert stands.quota is not None
        assert stands.quota.reserved == 0
        rig.advance(10)
        await rig.rest()
        stands = await rig.limiter.standing(owner)
        assert stands.limits["max_concurrent"].remaining == 1
        assert stands.quota is not None
        assert stands.quota.reserved == 4
        grant.settle(0)
        stands = await rig.limiter.standing(owner)
        assert stands.limits["max_concurrent"].remaining == 2
        assert stands.quota is not None
        assert stands.quota.reserved == 0

    async def test_stopped_with_requests_running(self) -> None:
        """What they hold is given back; what they use is counted when they end."""
        rig = await self.make_rig(RateLimit(per_key=limits(max_concurrent=1)))
        owner = key(quota=Quota(10))
        grant = await rig.limiter.acquire(demand(owner, tokens=4))
        await rig.redis_limiter.stopService()
        stands = await rig.limiter.standing(owner)
        assert stands.limits["max_concurrent"].remaining == 1
        assert stands.quota is not None
        assert (stands.quota.used, stands.quota.reserved) == (0, 0)
        grant.settle(3)
        stands = await rig.limiter.standing(owner)
        assert stands.quota is not None
        assert (stands.quota.used, stands.quota.reserved) == (3, 0)
        rig.redis_limiter.startService()


@pytest.mark.slow
class KilledRedisTests(RedisLimitsCase):
    """Redis is killed and comes back."""

    timeout = 120

    @pytest.fixture(autouse=True)
    def use_redis(self) -> None:
        """Have servers of one's own: what others share is not killed."""
        if reason := RedisServer.missing():
            pytest.skip(reason)

    def serve(self, *, appendonly: bool) -> RedisServer:
        """Start a Redis."""
        server = RedisServer(appendonly=appendonly)
        self.addCleanup(server.close)
        server.__enter__()
        return server

    async def test_running_requests_are_put_back(self) -> None:
        """A Redis that comes back empty soon knows again what runs, and only that."""
        server = self.serve(appendonly=False)
        redis = await self.connected(server.addr)
        limiter = await self.live(
            RateLimit(global_=limits(max_concurrent=2), per_key=limits(max_concurrent=3)), redis
        )
        owner = key(quota=Quota(100))
        first = await limiter.acquire(demand(owner, tokens=30))
        second = await limiter.acquire(demand(owner, tokens=40))
        await self.aside(lambda: server.restart(kill=True))
        await self.until(lambda: redis.is_up, "connected again")
        first.settle(10)
        await self.settled(limiter)

        # Nobody need ask: the settlement found that Redis had been away, or the connection's loss
        # goes unnoticed and the next renewal finds it.
        await limiter._leases.renew()
        stands = await limiter.standing(owner)
        assert stands.quota is not None
        assert (stands.quota.used, stands.quota.reserved) == (10, 40)
        third = await limiter.acquire(demand(owner, tokens=1))
        with self.assertRaises(RateLimited):
            await limiter.acquire(demand(owner))
        second.settle(5)
        third.settle(1)
        await self.settled(limiter)
        assert await limiter.quota_used({"key-a": Quota(100)}) == {"key-a": 16}
        assert await self.kept(redis) == {}

    async def test_killed_under_load(self) -> None:
        """With an append-only file nothing that was used is lost; nothing stays held."""
        for on_failure in ("deny", "allow"):
            await self.kill_under_load(on_failure, appendonly=True)

    async def test_killed_under_load_and_empty(self) -> None:
        """Without, all goes on, and nothing stays held."""
        await self.kill_under_load("allow", appendonly=False)

    def more_than(self, counts: dict[str, int], number: int) -> bool:
        """Say whether more were granted."""
        return counts["granted"] > number

    async def kill_under_load(
        self, on_failure: Literal["allow", "deny"], *, appendonly: bool
    ) -> None:
        """Kill a Redis twice while three limiters use it."""
        server = self.serve(appendonly=appendonly)
        connections = [await self.connected(server.addr) for _ in range(3)]
        limiters = [
            await self.live(
                RateLimit(global_=limits(max_concurrent=20)),
                redis,
                on_storage_failure=on_failure,
                lease_ttl_s=3.0,
            )
            for redis in connections
        ]
        random = Random(3)
        owner = key(quota=Quota(10**9))
        spent = 0
        counts = {"granted": 0, "limited": 0, "unavailable": 0}
        over = False

        async def work(limiter: RedisLimiter) -> None:
            nonlocal spent
            while not over:
                try:
                    grant = await limiter.acquire(demand(owner, tokens=50))
                except RateLimited:
                    counts["limited"] += 1
                    await self.sleep(0.02)
                    continue
                except LimitsUnavailable:
                    counts["unavailable"] += 1
                    await self.sleep(0.02)
                    continue
                counts["granted"] += 1
                await self.sleep(random.choice((0.001, 0.02, 0.3)))
                spent += 7
                grant.settle(7)

        workers = gatherResults(
            [Deferred.fromCoroutine(work(limiter)) for limiter in limiters for _ in range(10)]
        )
        for _ in range(2):
            await self.sleep(0.4)
            await self.aside(lambda: server.stop(kill=True))
            await self.sleep(0.3)
            await self.aside(server.start)
            await self.until(lambda: all(redis.is_up for redis in connections), "connected")
            before = counts["granted"]
            await self.until(partial(self.more_than, counts, before + 20), "serving")
        over = True
        await workers
        await self.settled(*limiters)
        assert counts["limited"] > 0
        if on_failure == "allow":
            assert counts["unavailable"] == 0
            assert sum(limiter.allowed_unchecked for limiter in limiters) > 0
        else:
            assert counts["unavailable"] > 0
        used = (await limiters[0].quota_used({"key-a": Quota(10**9)}))["key-a"]
        assert used == spent if appendonly else 0 < used < spent
        # Questions that had no answer may have been granted all the same: those leases expire.
        await self.sleep(3.1)
        (await limiters[0].acquire(demand(owner))).settle(0)
        await self.settled(*limiters)
        assert await self.kept(connections[0]) == {}
        await gatherResults([limiter.stopService() for limiter in limiters])
        await gatherResults([_stopped(redis) for redis in connections])


def _stopped(redis: RedisConnections) -> Deferred[None]:
    return redis.stopService()
