"""What the tests over a real Redis share: limiters over one, with the reactor's time or their own.

It knows nothing of what is tested.
"""

from __future__ import annotations

from itertools import count
from typing import Any, Literal

import attrs
import pytest
from twisted.internet.task import Clock

from llmproxy.config.model_stores import Cache, RateLimit
from llmproxy.config.setting import Duration
from llmproxy.limits.redis_limiter import RedisLimiter
from llmproxy.stores.redis import RedisConnections
from tests.limits.rig import START_S
from tests.services import RedisServer
from tests.stores.reactor_case import ReactorTestCase, reactor

LONG_S = 1e7
"""Leases that do not expire in tests of something else."""

_serial = count()


class RedisRig:
    """A limiter over Redis whose time stands still but for `advance`.

    Args:
        settings: What is limited.
        redis: Where to.
        now_s: Its time.
        lease_ttl_s: As for `RedisLimiter`.
        prefix: As for `RedisLimiter`.
    """

    def __init__(
        self,
        settings: RateLimit,
        redis: RedisConnections,
        *,
        now_s: float = START_S,
        lease_ttl_s: float = LONG_S,
        prefix: str = "llmproxy:limits:",
    ) -> None:
        self.now_us = round(now_s * 1e6)
        self.clock = Clock()
        self.redis = redis
        self.redis_limiter = RedisLimiter(
            attrs.evolve(settings, on_storage_failure="deny"),
            redis,
            process_id=f"test{next(_serial)}",
            clock=self.clock,
            lease_ttl_s=lease_ttl_s,
            prefix=prefix,
            now_us=lambda: self.now_us,
        )
        self.limiter = self.redis_limiter

    def advance(self, seconds: float) -> None:
        """Let time pass for the scripts, and for the renewals that are due."""
        self.now_us += round(seconds * 1e6)
        self.clock.advance(seconds)

    async def rest(self) -> None:
        """Wait until all that was settled or cancelled has been counted."""
        # All goes over one connection, so what was asked before is answered before; twice, for a
        # script that Redis does not know yet is asked for twice.
        await self.redis.call("PING")
        await self.redis.call("PING")
        while (caught_up := self.redis_limiter._settlements.caught_up()) is not None:
            await caught_up


class RedisLimitsCase(ReactorTestCase):
    """Makes limiters over a Redis, and stops them in the end."""

    redis_server: RedisServer
    _rigs_redis: RedisConnections | None = None

    @pytest.fixture(autouse=True)
    def use_redis(self, redis_server: RedisServer) -> None:
        """Give the test the server that all share, empty."""
        redis_server.flush()
        self.redis_server = redis_server

    async def connected(self, addr: str = "", **settings: Any) -> RedisConnections:
        """Connect to a server; the shared one, if there is no address."""
        settings.setdefault("timeout", Duration(2.0))
        settings.setdefault("pool_size", 1)
        redis = RedisConnections(
            Cache(name="limits", addr=addr or self.redis_server.addr, **settings), reactor
        )
        redis.startService()
        self.addCleanup(lambda: redis.stopService() if redis.running else None)
        await self.until(lambda: redis.is_up, "connected")
        return redis

    async def make_rig(
        self, settings: RateLimit, *, now_s: float = START_S, lease_ttl_s: float = LONG_S
    ) -> RedisRig:
        """Make a limiter with a time of its own, and nothing counted."""
        if self._rigs_redis is None:
            self._rigs_redis = await self.connected()
        rig = RedisRig(
            settings,
            self._rigs_redis,
            now_s=now_s,
            lease_ttl_s=lease_ttl_s,
            prefix=f"rig{next(_serial)}:",
        )
        rig.redis_limiter.startService()
        self.addCleanup(rig.redis_limiter.stopService)
        return rig

    async def live(
        self,
        settings: RateLimit,
        redis: RedisConnections,
        *,
        on_storage_failure: Literal["allow", "deny"] = "deny",
        lease_ttl_s: float = 30.0,
    ) -> RedisLimiter:
        """Make a limiter that lives by the reactor's time, and counts by Redis's."""
        limiter = RedisLimiter(
            attrs.evolve(settings, on_storage_failure=on_storage_failure),
            redis,
            process_id=f"test{next(_serial)}",
            clock=reactor,
            lease_ttl_s=lease_ttl_s,
        )
        limiter.startService()
        self.addCleanup(limiter.stopService)
        return limiter

    async def settled(self, *limiters: RedisLimiter, timeout_s: float = 10.0) -> None:
        """Wait until Redis has all that limiters settled."""
        await self.until(
            lambda: not any(limiter.pending_settlements for limiter in limiters),
            f"settled: {limiters}",
            timeout_s,
        )

    async def kept(self, redis: RedisConnections) -> dict[bytes, Any]:
        """Give all that Redis keeps of leases and holds, by name: empty when nothing leaks."""
        kept: dict[bytes, Any] = {}
        for name in await redis.call("KEYS", "llmproxy:limits:*"):
            kind = name.removeprefix(b"llmproxy:limits:").partition(b":")[0]
            if kind == b"leases":
                kept[name] = await redis.call("ZRANGE", name, "0", "-1")
            elif kind == b"holds":
                kept[name] = await redis.call("HGETALL", name)
        return kept
