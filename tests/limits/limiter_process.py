"""A process that holds requests to limits in Redis, as fast as it can: for tests of several.

``python -m tests.limits.limiter_process ADDR TASKS SECONDS`` prints a line for each request: when
it was granted and when it was settled, on the clock that all processes share; ``refused`` at the
end with a number. With SECONDS 0 it settles nothing and runs until it is killed.
"""

from __future__ import annotations

import os
import sys
import time
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react

from llmproxy.config.model_stores import Cache, RateLimit
from llmproxy.config.setting import Duration
from llmproxy.entitlements import Quota
from llmproxy.errors import RateLimited
from llmproxy.limits.redis_limiter import RedisLimiter
from llmproxy.stores.redis import RedisConnections
from llmproxy.values import Demand, Principal
from tests.limits.rig import limits

MAX_CONCURRENT = 5
REQUESTS_PER_MINUTE = 600
BURST = 150
LEASE_TTL_S = 2.4
OWNER = Principal(key_id="shared", quota=Quota(10_000_000, "never"))
SETTINGS = RateLimit(
    on_storage_failure="deny",
    global_=limits(max_concurrent=MAX_CONCURRENT),
    per_key=limits(requests_per_minute=REQUESTS_PER_MINUTE, burst_size=BURST),
)
SPENT = 7
"""Tokens that each request uses."""


async def run(reactor: Any, addr: str, tasks: int, seconds: float) -> None:
    """Run tasks that acquire and settle, and print what they saw."""
    redis = RedisConnections(Cache(name="shared", addr=addr, timeout=Duration(5.0)), reactor)
    redis.startService()
    while not redis.is_up:
        await deferLater(reactor, 0.01)
    limiter = RedisLimiter(
        SETTINGS,
        redis,
        process_id=os.urandom(8).hex(),
        clock=reactor,
        lease_ttl_s=LEASE_TTL_S,
    )
    limiter.startService()
    lines: list[str] = []
    refused = 0
    random = Random()
    end_s = time.monotonic() + seconds

    async def work() -> None:
        nonlocal refused
        while not seconds or time.monotonic() < end_s:
            try:
                grant = await limiter.acquire(Demand(OWNER, "m", 100))
            except RateLimited:
                refused += 1
                await deferLater(reactor, random.uniform(0, 0.02))
                continue
            granted_s = time.monotonic()
            if not seconds:
                sys.stdout.write("granted\n")
                sys.stdout.flush()
                await deferLater(reactor, 3600)
            await deferLater(reactor, random.uniform(0, 0.02))
            lines.append(f"{granted_s!r} {time.monotonic()!r}")
            grant.settle(SPENT)

    await gatherResults([Deferred.fromCoroutine(work()) for _ in range(tasks)])
    await limiter.stopService()
    await redis.stopService()
    sys.stdout.write("\n".join([*lines, f"refused {refused}\n"]))


if __name__ == "__main__":
    react(
        lambda reactor, addr, tasks, seconds: Deferred.fromCoroutine(
            run(reactor, addr, int(tasks), float(seconds))
        ),
        sys.argv[1:],
    )
