"""Tests of `llmproxy.limits.redis_limiter`: over a real Redis, in one process and in several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import accumulate, cycle
from random import Random
from typing import Any, Literal

import attrs
import pytest
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from llmproxy.config.model_stores import RateLimit
from llmproxy.entitlements import OwnLimits, Quota, QuotaStanding
from llmproxy.errors import (
    LimitsUnavailable,
    QuotaExceeded,
    RateLimited,
    RedisReplyError,
    StoreUnavailable,
)
from llmproxy.interfaces import IGrant, ILimiter
from llmproxy.limits import redis_limiter
from llmproxy.limits.redis_limiter import PAUSE_S, RedisLimiter
from llmproxy.limits.redis_scripts import ACQUIRE, RENEW, SETTLE
from llmproxy.limits.redis_settlements import RETRY_S
from tests.fault_proxy import FaultProxy
from tests.limits import limiter_process
from tests.limits.contract import LimiterContract
from tests.limits.fake_redis import FakeRedis
from tests.limits.redis_case import RedisLimitsCase
from tests.limits.rig import demand, key, limits
from tests.limits.walk import random_walk


def overlap(spans: Sequence[tuple[float, ...]]) -> int:
    """Say how many spans of time there were at once, at most."""
    steps = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    return max(accumulate(step for _, step in steps))


WALKS = 20
"""``LLMPROXY_TEST_SEED`` says with which number they begin."""

LIMITED = RateLimit(
    global_=limits(max_concurrent=100),
    per_key=limits(requests_per_second=1_000, tokens_per_minute=1_000_000, max_concurrent=50),
)


class RedisLimiterContractTests(LimiterContract, RedisLimitsCase):
    """The contract of `ILimiter`."""

    async def test_random_walks(self) -> None:
        """Every decision and every standing is the oracle's, on any schedule."""
        seed = int(os.environ.get("LLMPROXY_TEST_SEED", "0"))
        for number in range(seed, seed + WALKS):
            try:
                await random_walk(self, Random(number), 60)
            except AssertionError as error:
                self.fail(f"walk {number}: {error}")


class RedisLimiterTests(RedisLimitsCase):
    """One process."""

    async def test_interface(self) -> None:
        """It is an `ILimiter`, its grants are `IGrant`, and all of them can be shown."""
        redis = await self.connected()
        limiter = await self.live(LIMITED, redis)
        verifyObject(ILimiter, limiter)
        grant = await limiter.acquire(demand(key(quota=Quota(10))))
        verifyObject(IGrant, grant)
        assert "running=1" in repr(limiter)
        grant.settle(0)
        assert "settled=True" in repr(grant)
        assert "running=0" in repr(limiter)

    async def test_idle_keys_vanish(self) -> None:
        """All that is kept has an end, but for quotas that never begin anew."""
        redis = await self.connected()
        limiter = await self.live(LIMITED, redis)
        for name, quota in (("d", Quota(10, "daily")), ("n", Quota(10))):
            (await limiter.acquire(demand(key(name, quota=quota)))).settle(5)
            await limiter.acquire(demand(key(name, quota=quota)))
        await self.settled(limiter)
        lives = {
            name.removeprefix(b"llmproxy:limits:"): await redis.call("TTL", name)
            for name in await redis.call("KEYS", "*")
        }
        assert lives.pop(b"quota:n") == -1
        day_s = 86_400
        assert 7 * day_s <= lives.pop(b"quota:d") <= 8 * day_s
        assert {name for name in lives if not name.startswith(b"settled:")} == {
            b"buckets:key:d",
            b"buckets:key:n",
            b"leases:key:d",
            b"leases:key:n",
            b"leases:global:",
            b"holds:d",
            b"holds:n",
        }
        assert all(0 < life_s <= day_s for life_s in lives.values())

    async def test_quota_that_began_above_nothing_is_kept(self) -> None:
        """Were it forgotten, counting would begin once more where it began."""
        redis = await self.connected()
        limiter = await self.live(LIMITED, redis)
        owner = key(quota=Quota(10, "daily", used_before=3))
        (await limiter.acquire(demand(owner))).settle(1)
        await self.settled(limiter)
        assert await redis.call("TTL", "llmproxy:limits:quota:key-a") == -1

    async def test_requests_of_another_shape(self) -> None:
        """Tokens of any size and sign are taken for what can be counted."""
        rig = await self.make_rig(RateLimit(per_key=limits(tokens_per_minute=100)))
        owner = key(quota=Quota(10**30))
        (await rig.limiter.acquire(demand(owner, tokens=10**40))).settle(10**40)
        rig.advance(1e15)
        (await rig.limiter.acquire(demand(owner, tokens=-5))).settle(-5)
        await rig.rest()
        stands = await rig.limiter.standing(owner)
        assert stands.quota is not None
        assert (stands.quota.used, stands.quota.reserved) == (2**50, 0)

    async def test_cancelled_while_redis_is_slow(self) -> None:
        """What was taken in vain is given back when Redis says that it was taken."""
        proxy = self.proxied()
        redis = await self.connected(proxy.addr)
        limiter = await self.live(
            RateLimit(per_key=limits(requests_per_minute=1, max_concurrent=1)), redis
        )
        owner = key(quota=Quota(10))
        proxy.delay_s = 0.1
        asked = limiter.acquire(demand(owner, tokens=10))
        asked.cancel()
        with self.assertRaises(CancelledError):
            await asked
        proxy.delay_s = 0.0
        await self.until(lambda: limiter._last_lease == 1 and limiter.failures == 0)
        await self.sleep(0.3)
        await self.settled(limiter)
        assert await self.kept(redis) == {}
        (await limiter.acquire(demand(owner, tokens=10))).settle(0)

    async def test_settled_then_asked(self) -> None:
        """A place given back is free for the very next question, over many connections as well."""
        redis = await self.connected(pool_size=4)
        limiter = await self.live(RateLimit(per_key=limits(max_concurrent=1)), redis)
        for _ in range(200):
            (await limiter.acquire(demand())).settle(0)

    async def test_nonsense_in_redis(self) -> None:
        """Somebody else's values under our names are an outage, and break nothing else."""
        redis = await self.connected()
        limiter = await self.live(LIMITED, redis)
        await redis.call("SET", "llmproxy:limits:quota:bad", "x")
        with self.assertRaises(LimitsUnavailable):
            await limiter.acquire(demand(key("bad", quota=Quota(10))))
        with self.assertRaises(StoreUnavailable):
            await limiter.standing(key("bad", quota=Quota(10)))
        good = await limiter.acquire(demand(key("good", quota=Quota(10))))
        await redis.call("DEL", "llmproxy:limits:quota:good")
        await redis.call("SET", "llmproxy:limits:quota:good", "x")
        good.settle(1)
        await self.settled(limiter)
        assert limiter.dropped_settlements == 1
        assert limiter.failures == 2

    def proxied(self) -> FaultProxy:
        """Put a proxy before the Redis that all share."""
        proxy = FaultProxy(self.redis_server.port)
        self.addCleanup(proxy.stop)
        return proxy


class SharedLimitsTests(RedisLimitsCase):
    """Several limiters, each with connections of its own, and several processes."""

    async def test_requests_at_once(self) -> None:
        """Four limiters together never let more run than may; nothing leaks."""
        limiters = [
            await self.live(
                RateLimit(global_=limits(max_concurrent=7), per_key=limits(max_concurrent=4)),
                await self.connected(pool_size=2),
            )
            for _ in range(4)
        ]
        random = Random(1)
        running: dict[str, int] = {"a": 0, "b": 0, "c": 0}
        most = {"a": 0, "all": 0}
        granted = refused = 0

        async def work(limiter: RedisLimiter) -> None:
            nonlocal granted, refused
            for _ in range(60):
                name = random.choice("abc")
                try:
                    grant = await limiter.acquire(demand(key(name, quota=Quota(10**9)), tokens=5))
                except RateLimited:
                    refused += 1
                    continue
                granted += 1
                running[name] += 1
                most["a"] = max(most["a"], running["a"])
                most["all"] = max(most["all"], sum(running.values()))
                await self.sleep(random.uniform(0, 0.02))
                running[name] -= 1
                grant.settle(3)

        await gatherResults(
            [Deferred.fromCoroutine(work(limiter)) for limiter in limiters for _ in range(6)]
        )
        await self.settled(*limiters)
        assert most["a"] <= 4
        assert most["all"] <= 7
        assert granted > 100
        assert refused > 100
        # Each place can be had again.
        asked = [demand(key(name, quota=Quota(10**9)), tokens=5) for name in "aaaabbb"]
        grants = [
            await limiter.acquire(one) for limiter, one in zip(cycle(limiters), asked, strict=False)
        ]
        for name in "abc":
            with self.assertRaises(RateLimited):
                await limiters[0].acquire(demand(key(name, quota=Quota(10**9)), tokens=5))
        for grant in grants:
            grant.settle(3)
        await self.settled(*limiters)
        granted += len(grants)
        quotas = {name: Quota(10**9) for name in "abc"}
        assert sum((await limiters[0].quota_used(quotas)).values()) == 3 * granted
        assert await self.kept(limiters[0]._redis) == {}  # type: ignore[arg-type]

    async def test_buckets_and_budgets(self) -> None:
        """What two limiters let pass together is what fits, to the last request and token."""
        limiters = [
            await self.live(
                RateLimit(per_key=limits(requests_per_minute=1, burst_size=37)),
                await self.connected(),
            )
            for _ in range(2)
        ]

        async def granted(owner_id: str, quota: Quota | None, tokens: int) -> list[IGrant]:
            asked = [
                limiter.acquire(demand(key(owner_id, quota=quota), tokens=tokens))
                for limiter in limiters * 40
            ]
            grants: list[IGrant] = []
            for each in asked:
                try:
                    grants.append(await each)
                except RateLimited:
                    continue
            return grants

        assert len(await granted("rate", None, 1)) == 37
        grants = await granted("budget", Quota(95), 10)
        assert len(grants) == 10
        for grant in grants:
            grant.settle(10)
        await self.settled(*limiters)
        with self.assertRaises(QuotaExceeded):
            await limiters[0].acquire(demand(key("budget", quota=Quota(95))))

    @pytest.mark.slow
    async def test_processes(self) -> None:
        """Three processes together keep to the limits; all that they used is counted once."""
        seconds = 3.0
        began_s = time.monotonic()
        outputs: Sequence[str] = await gatherResults(
            [Deferred.fromCoroutine(self.run_process("6", str(seconds))) for _ in range(3)]
        )
        took_s = time.monotonic() - began_s
        lines = [line.split() for output in outputs for line in output.splitlines()]
        assert sum(line[0] == "refused" for line in lines) == 3
        spans = [tuple(map(float, line)) for line in lines if line[0] != "refused"]
        assert overlap(spans) == limiter_process.MAX_CONCURRENT
        rate_per_s = limiter_process.REQUESTS_PER_MINUTE / 60
        assert len(spans) > limiter_process.BURST
        assert len(spans) <= limiter_process.BURST + rate_per_s * took_s + 1
        redis = await self.connected()
        limiter = await self.live(limiter_process.SETTINGS, redis)
        stands = await limiter.standing(limiter_process.OWNER)
        assert stands.quota == QuotaStanding(
            10_000_000, limiter_process.SPENT * len(spans), 0, "never"
        )
        assert await self.kept(redis) == {}

    @pytest.mark.slow
    async def test_process_that_dies(self) -> None:
        """What a killed process held comes back when its leases expire, and not before."""
        redis = await self.connected()
        limiter = await self.live(limiter_process.SETTINGS, redis)
        owner = limiter_process.OWNER
        victim = self.process(str(limiter_process.MAX_CONCURRENT), "0")
        try:
            assert victim.stdout is not None
            for _ in range(limiter_process.MAX_CONCURRENT):
                assert await self.aside(victim.stdout.readline) == "granted\n"
            # Longer than a lease lives: renewed, they are still there.
            await self.sleep(1.5 * limiter_process.LEASE_TTL_S)
            with self.assertRaises(RateLimited):
                await limiter.acquire(demand(owner))
            stands = await limiter.standing(owner)
            assert stands.quota is not None
            assert stands.quota.reserved == 100 * limiter_process.MAX_CONCURRENT
        finally:
            victim.kill()
            victim.communicate(timeout=10)
        killed_s = time.monotonic()
        grant = None
        while grant is None:
            try:
                grant = await limiter.acquire(demand(owner))
            except RateLimited:
                await self.sleep(0.02)
        waited_s = time.monotonic() - killed_s
        assert 0.2 * limiter_process.LEASE_TTL_S < waited_s < limiter_process.LEASE_TTL_S + 3
        stands = await limiter.standing(owner)
        assert stands.quota is not None
        assert (stands.quota.used, stands.quota.reserved) == (0, 1)
        grant.settle(0)

    async def run_process(self, tasks: str, seconds: str) -> str:
        """Run a process to its end, and give what it printed."""
        process = self.process(tasks, seconds)
        output, _ = await self.aside(lambda: process.communicate(timeout=60))
        assert process.returncode == 0
        return str(output)

    def process(self, tasks: str, seconds: str) -> subprocess.Popen[str]:
        """Start a process that holds requests to the limits."""
        command = [sys.executable, "-m", "tests.limits.limiter_process"]
        return subprocess.Popen(
            [*command, self.redis_server.addr, tasks, seconds], stdout=subprocess.PIPE, text=True
        )


class AwayTests(SynchronousTestCase):
    """Redis does not answer, or late, or nonsense: a Redis that does what the test says."""

    owner = key(quota=Quota(100))

    def limiter(self, on_failure: Literal["allow", "deny"]) -> RedisLimiter:
        """Make a limiter."""
        self.clock = Clock()
        self.redis = FakeRedis()
        limiter = RedisLimiter(
            attrs.evolve(LIMITED, on_storage_failure=on_failure),
            self.redis,
            process_id="p",
            clock=self.clock,
        )
        limiter.startService()
        return limiter

    def settlements(self) -> list[list[Any]]:
        """Give how each request was settled that Redis was told of, once each."""
        batches = {
            call.arguments[0]: json.loads(call.arguments[3])
            for call in self.redis.calls
            if call.script == SETTLE
        }
        return [item[1:] for batch in batches.values() for item in batch]

    def test_deny(self) -> None:
        """Then nothing passes, and it is said that this is nobody's fault who asks."""
        limiter = self.limiter("deny")
        self.redis.broken = StoreUnavailable("no connection")
        error = self.failureResultOf(limiter.acquire(demand(self.owner)), LimitsUnavailable).value
        assert error.status == 503
        assert error.retry_after_s
        assert (limiter.failures, limiter.allowed_unchecked) == (1, 0)
        assert limiter.pending_settlements == 0
        for asked in (limiter.standing(key()), limiter.quota_used({"a": Quota(1)})):
            self.failureResultOf(asked, StoreUnavailable)
        self.failureResultOf(limiter.set_quota_used("a", Quota(1), 1), StoreUnavailable)

    def test_allow(self) -> None:
        """Then all passes, and what it used of a quota is counted when Redis is back."""
        limiter = self.limiter("allow")
        self.redis.broken = StoreUnavailable("no connection")
        grant = self.successResultOf(limiter.acquire(demand(self.owner, tokens=9)))
        self.successResultOf(limiter.acquire(demand())).settle(5)
        assert limiter.allowed_unchecked == 2
        assert limiter.leases == 0
        assert "unchecked" in repr(grant)
        grant.settle(7)
        grant.settle(7)
        assert limiter.pending_settlements == 1
        self.redis.broken = None
        self.clock.advance(RETRY_S)
        assert self.settlements() == [["c", "p:1", 0, 7]]
        self.redis.calls[-1].reply(0)
        assert limiter.pending_settlements == 0

    def test_error_replies(self) -> None:
        """An error that Redis replies is an outage, too."""
        limiter = self.limiter("deny")
        self.redis.broken = RedisReplyError("ERR user_script:1: something")
        self.failureResultOf(limiter.acquire(demand()), LimitsUnavailable)
        self.failureResultOf(limiter.standing(key()), StoreUnavailable)

    def test_no_reply(self) -> None:
        """It may have been granted: so it is undone, if it was."""
        limiter = self.limiter("allow")
        answer = limiter.acquire(demand(self.owner, tokens=9))
        self.redis.calls[0].fail(StoreUnavailable("the connection is lost"))
        self.successResultOf(answer).settle(4)
        self.redis.calls[1].reply(0)
        assert self.settlements() == [["m", "p:1", 9, 0], ["c", "p:1", 0, 4]]

    def test_back_again(self) -> None:
        """Redis may have lost what runs: that is put back at once, and not only when it is due."""
        limiter = self.limiter("deny")
        running = limiter.acquire(demand(self.owner))
        self.redis.calls[0].reply(b"1")
        lost = limiter.standing(key())
        self.redis.calls[1].fail(StoreUnavailable("the connection is lost"))
        self.failureResultOf(lost, StoreUnavailable)
        limiter.acquire(demand())
        assert RENEW not in [call.script for call in self.redis.calls]
        self.redis.calls[2].reply(b"0")
        (renewal,) = (call for call in self.redis.calls if call.script == RENEW)
        assert '"p:1"' in renewal.arguments[2]
        self.successResultOf(running).settle(0)
        assert self.settlements() == []
        renewal.reply(0)
        assert self.settlements() == [["s", "p:1", 1, 0]]

    def test_waiting_in_vain(self) -> None:
        """Not every request waits for a Redis that hangs; soon it is asked again."""
        limiter = self.limiter("allow")
        answer = limiter.acquire(demand())
        self.clock.advance(1.0)
        self.redis.calls[0].fail(StoreUnavailable("no reply"))
        self.successResultOf(answer)
        asked = len(self.redis.calls)
        self.clock.advance(PAUSE_S - 0.01)
        self.successResultOf(limiter.acquire(demand()))
        assert limiter.allowed_unchecked == 2
        assert [call.script for call in self.redis.calls[asked:]].count(ACQUIRE) == 0
        self.clock.advance(0.01)
        answer = limiter.acquire(demand())
        self.redis.calls[-1].reply(b"0")
        self.successResultOf(answer)
        assert limiter.allowed_unchecked == 2

    def test_cancelled(self) -> None:
        """What Redis says later is given back; with no reply, what it may have granted."""
        limiter = self.limiter("deny")
        for _ in range(3):
            answer = limiter.acquire(demand(self.owner, tokens=9))
            answer.cancel()
            self.failureResultOf(answer, CancelledError)
        granted, lost, refused = self.redis.calls
        refused.reply([b"limited", b"50", b"0", b"0", b"0"])
        granted.reply(b"9")
        self.redis.calls[-1].reply(0)
        lost.fail(StoreUnavailable("the connection is lost"))
        assert self.settlements() == [["u", "p:1", 9, 0], ["m", "p:2", 9, 0]]
        assert limiter.leases == 0

    def test_nonsense(self) -> None:
        """A reply that is none is as good as no reply, and is logged."""
        limiter = self.limiter("deny")
        for nonsense in (b"x", None, [b"limited"]):
            answer = limiter.acquire(demand())
            self.redis.calls[-1].reply(nonsense)
            self.failureResultOf(answer, LimitsUnavailable)
        assert len(self.flushLoggedErrors(ValueError, TypeError)) == 3
        limiter = self.limiter("allow")
        answer = limiter.acquire(demand())
        self.redis.calls[-1].reply(b"x")
        self.successResultOf(answer)
        assert len(self.flushLoggedErrors(ValueError)) == 1

    def test_nothing_limited(self) -> None:
        """What is not limited needs no Redis."""
        limiter = RedisLimiter(RateLimit(), FakeRedis(), process_id="p", clock=Clock())
        self.successResultOf(limiter.acquire(demand())).settle(5)
        assert self.successResultOf(limiter.standing(key())).limits == {}

    def test_plans_are_bounded(self) -> None:
        """Of many keys only so many plans are kept; a key's new limits make a new one."""
        self.patch(redis_limiter, "MOST_PLANS", 3)
        limiter = self.limiter("deny")
        for number in range(10):
            limiter.acquire(demand(key(f"key-{number}")))
        assert len(limiter._plans) == 3
        before = self.redis.calls[-1]
        limiter.acquire(demand(key("key-9", own=OwnLimits(max_concurrent=1))))
        assert self.redis.calls[-1].arguments[0] != before.arguments[0]
        limiter.acquire(demand(key("key-9", own=OwnLimits(max_concurrent=1))))
        assert self.redis.calls[-1].arguments[0] is self.redis.calls[-2].arguments[0]
        assert len(limiter._plans) == 3
