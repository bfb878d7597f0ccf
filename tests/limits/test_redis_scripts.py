"""Tests of `llmproxy.limits.redis_scripts`: what the limiter's own tests do not see.

Numbers and decisions are tested with the limiter, against the oracle.
"""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmproxy.entitlements import Limits, Quota, QuotaPeriod
from llmproxy.limits import redis_scripts
from llmproxy.limits.periods import period_end_s, period_start_s
from llmproxy.limits.redis_plan import Plan
from llmproxy.limits.redis_scripts import (
    ACQUIRE,
    BOUNDS,
    QUOTA_USED,
    RENEW,
    SET_QUOTA_USED,
    SETTLE,
)
from tests.services import RedisServer

NOW_US = 1_709_164_800_000_000
DAY_US = 86_400_000_000
LATEST_S = 2**53 // 1_000_000
"""In the year 2255; after it a double does not count single microseconds."""

PLAN = Plan(
    [("key", b"a", Limits(max_concurrent=2, requests_per_minute=60, tokens_per_minute=60))],
    "a",
    own_limits=None,
    quota=Quota(1_000, "daily"),
    prefix=b"p:",
    ttl_us=30_000_000,
)

BAD = {"ttl": 1, "scopes": [], "quota": [1, 2, 3, 9, "daily", 0]}
"""The plan of a quota whose keys come after those of `PLAN`."""


def run(server: RedisServer, script: str, names: list[bytes], *arguments: str) -> Any:
    """Run a script; give an array as a list of texts, anything else as it comes."""
    reply = server.send("EVAL", script, str(len(names)), *names, *arguments)
    if reply.startswith(b"*"):
        return re.findall(r"\$\d+\r\n([^\r]*)\r\n", reply.decode())
    if reply.startswith(b"$"):
        return reply.split(b"\r\n")[1].decode()
    assert reply.startswith(b":"), reply
    return int(reply[1:])


def settle(server: RedisServer, batch: int, *items: list[Any], names: list[bytes]) -> int:
    """Run a batch of settlements."""
    plans = [[1, json.loads(PLAN.text)], [1 + len(PLAN.names), BAD]]
    told = (str(batch), str(NOW_US), json.dumps(plans), json.dumps(items))
    failed: int = run(server, SETTLE, [b"p:settled:x", *names], *told)
    return failed


def item(how: str, lease: str, spent: int = 0) -> list[Any]:
    """Make a settlement of a request that asked for ten tokens."""
    return [1, how, lease, 10, spent]


def acquire(server: RedisServer, lease: str, now_us: int = NOW_US) -> Any:
    """Ask for a request of ten tokens."""
    return run(server, ACQUIRE, list(PLAN.names), PLAN.text, lease, "10", str(now_us))


def used(server: RedisServer, quota: Quota, now_us: int = NOW_US) -> int:
    """Say what is used of a quota."""
    (seen,) = run(
        server, QUOTA_USED, [b"p:quota:a"], str(now_us), quota.period, str(quota.used_before)
    )
    return int(seen)


def test_every_script_is_there() -> None:
    """Each is text for Redis, and says in it what it wants."""
    scripts = [getattr(redis_scripts, name) for name in dir(redis_scripts) if name.isupper()]
    assert len([script for script in scripts if "\n-- " in script]) >= 7


@settings(max_examples=300)
@given(
    st.sampled_from(["daily", "weekly", "monthly", "never"]),
    st.integers(0, LATEST_S * 1_000_000),
)
@example("monthly", NOW_US)
@example("monthly", NOW_US - 1)
@example("monthly", 951_782_400_000_000)  # 29 February 2000
@example("monthly", 4_107_542_399_999_999)  # the last moment of February 2100, which has no 29th
@example("weekly", 0)
@example("weekly", 4 * DAY_US)
@example("weekly", 4 * DAY_US - 1)
def test_periods(redis_server: RedisServer, period: QuotaPeriod, now_us: int) -> None:
    """The scripts' calendar is that of `llmproxy.limits.periods`."""
    bounds = run(redis_server, BOUNDS, [], str(now_us), period)
    now_s = now_us // 1_000_000
    assert [int(bound) for bound in bounds] == [
        period_start_s(period, now_s),
        period_end_s(period, now_s) or 0,
    ]


@settings(max_examples=200)
@given(st.sampled_from(["daily", "weekly", "monthly"]), st.integers(0, LATEST_S - 32 * 86_400))
def test_periods_at_their_ends(redis_server: RedisServer, period: QuotaPeriod, now_s: int) -> None:
    """One ends where the next begins, to the microsecond."""
    end_s = period_end_s(period, now_s)
    assert end_s is not None
    before = run(redis_server, BOUNDS, [], str(end_s * 1_000_000 - 1), period)
    after = run(redis_server, BOUNDS, [], str(end_s * 1_000_000), period)
    assert int(before[1]) == int(after[0]) == end_s
    assert int(before[0]) == period_start_s(period, now_s)


def test_redis_has_the_clock(redis_server: RedisServer) -> None:
    """Without a time in the question, Redis's own counts."""
    seconds = int(redis_server.send("TIME").split(b"\r\n")[2])
    (start, _) = run(redis_server, BOUNDS, [], "", "daily")
    assert 0 <= seconds - int(start) <= 86_400 + 5


def test_a_batch_is_applied_once(redis_server: RedisServer) -> None:
    """The same number again, or one before it, changes nothing."""
    redis_server.flush()
    quota = Quota(1_000, "daily")
    assert acquire(redis_server, "x:1") == "10"
    assert acquire(redis_server, "x:2") == "10"
    for batch, lease, wanted in ((1, "x:1", 7), (1, "x:1", 7), (2, "x:2", 14), (1, "x:1", 14)):
        assert settle(redis_server, batch, item("s", lease, 7), names=list(PLAN.names)) == 0
        assert used(redis_server, quota) == wanted
    assert redis_server.send("EXISTS", "p:leases:key:a", "p:holds:a") == b":0\r\n"


def test_one_bad_item_spoils_no_other(redis_server: RedisServer) -> None:
    """It is counted as failed; the rest of the batch is applied."""
    redis_server.flush()
    assert acquire(redis_server, "x:1") == "10"
    redis_server.send("SET", "q:quota", "x")
    names = [*PLAN.names, b"q:quota", b"q:holds", b"q:leases"]
    items = [[2, "s", "x:9", 1, 1], item("s", "x:1", 3)]
    assert settle(redis_server, 1, *items, names=names) == 1
    assert used(redis_server, Quota(1_000, "daily")) == 3


def test_undoing(redis_server: RedisServer) -> None:
    """All that was taken is given back: requests, tokens, place and reservation."""
    redis_server.flush()
    assert acquire(redis_server, "x:1") == "10"
    assert settle(redis_server, 1, item("u", "x:1"), names=list(PLAN.names)) == 0
    missing = redis_server.send("HMGET", "p:buckets:key:a", "m", "t")
    assert re.findall(rb"\$\d+\r\n(\d+)\r\n", missing) == [b"0", b"0"]
    assert redis_server.send("EXISTS", "p:leases:key:a", "p:holds:a") == b":0\r\n"
    assert used(redis_server, Quota(1_000, "daily")) == 0


def test_undoing_what_may_not_have_been_done(redis_server: RedisServer) -> None:
    """Only a lease that is there proves that something was taken."""
    redis_server.flush()
    assert acquire(redis_server, "x:1") == "10"
    assert settle(redis_server, 1, item("m", "x:2"), names=list(PLAN.names)) == 0
    missing = redis_server.send("HMGET", "p:buckets:key:a", "m", "t")
    assert re.findall(rb"\$\d+\r\n(\d+)\r\n", missing) == [b"60000000", b"600000000"]
    assert settle(redis_server, 2, item("m", "x:1"), names=list(PLAN.names)) == 0
    missing = redis_server.send("HMGET", "p:buckets:key:a", "m", "t")
    assert re.findall(rb"\$\d+\r\n(\d+)\r\n", missing) == [b"0", b"0"]


def test_counting_only(redis_server: RedisServer) -> None:
    """Of a request that passed unchecked nothing is known but what it used."""
    redis_server.flush()
    assert settle(redis_server, 1, item("c", "x:1", 12), names=list(PLAN.names)) == 0
    assert used(redis_server, Quota(1_000, "daily")) == 12
    assert redis_server.send("EXISTS", "p:buckets:key:a", "p:leases:key:a") == b":0\r\n"


def test_renewing(redis_server: RedisServer) -> None:
    """What a lease needs lives on with it, in Redis's own time as well."""
    redis_server.flush()
    assert acquire(redis_server, "x:1") == "10"
    for name in ("p:leases:key:a", "p:holds:a"):
        redis_server.send("PEXPIRE", name, "5000")
    leases = f'[[0,"x:1",10,{PLAN.renewal}]]'
    assert run(redis_server, RENEW, list(PLAN.names), "30000000", str(NOW_US), leases) == 0
    for name in ("p:leases:key:a", "p:holds:a"):
        assert 100_000 < int(redis_server.send("PTTL", name)[1:]) <= 120_000
    assert b"$2\r\n10\r\n" in redis_server.send("HGET", "p:holds:a", "+")


def test_clock_set_back(redis_server: RedisServer) -> None:
    """Nothing comes back to a bucket for it, and the later period of a quota stands."""
    redis_server.flush()
    assert acquire(redis_server, "x:1") == "10"
    assert settle(redis_server, 1, item("s", "x:1", 10), names=list(PLAN.names)) == 0
    earlier_us = NOW_US - 3 * DAY_US
    assert acquire(redis_server, "x:2", earlier_us) == "10"
    missing = redis_server.send("HMGET", "p:buckets:key:a", "m", "t")
    assert re.findall(rb"\$\d+\r\n(\d+)\r\n", missing) == [b"120000000", b"1200000000"]
    assert used(redis_server, Quota(1_000, "daily"), earlier_us) == 10
    # From there it goes on.
    assert acquire(redis_server, "x:3", earlier_us + 1_000_000) == "10"
    missing = redis_server.send("HMGET", "p:buckets:key:a", "m", "t")
    assert re.findall(rb"\$\d+\r\n(\d+)\r\n", missing) == [b"120000000", b"1740000000"]


def test_clock_set_back_while_a_bucket_is_empty(redis_server: RedisServer) -> None:
    """It fills from then on, and not only when the clock is where it was before."""
    redis_server.flush()
    one = Plan(
        [("key", b"a", Limits(requests_per_minute=1))],
        "a",
        own_limits=None,
        quota=None,
        prefix=b"p:",
        ttl_us=30_000_000,
    )

    def ask(now_us: int) -> Any:
        return run(redis_server, ACQUIRE, list(one.names), one.text, "x:1", "1", str(now_us))

    earlier_us = NOW_US - DAY_US
    assert ask(NOW_US) == "0"
    assert ask(earlier_us) == ["limited", "0", "60000000"]
    assert ask(earlier_us + 59_999_999)[0] == "limited"
    assert ask(earlier_us + 60_000_000) == "0"


def test_crowd_of_expired_leases(redis_server: RedisServer) -> None:
    """They are collected a thousand at a time; none of them counts any more."""
    redis_server.flush()
    for first in range(0, 2_500, 500):
        redis_server.send(
            "ZADD", "p:leases:key:a", *(w for i in range(500) for w in ("1", f"y:{first + i}"))
        )
    left = []
    for number in range(3):
        now_us = NOW_US + number * 31_000_000
        assert acquire(redis_server, f"x:{number}", now_us) == "10"
        left.append(int(redis_server.send("ZCARD", "p:leases:key:a")[1:]))
    assert left == [1_501, 502, 1]


def test_setting_what_is_used(redis_server: RedisServer) -> None:
    """It stands in the running period, and is over with it."""
    redis_server.flush()
    run(redis_server, SET_QUOTA_USED, [b"p:quota:a"], str(NOW_US), "daily", "0", "77")
    quota = Quota(100, "daily", used_before=5)
    assert used(redis_server, quota) == 77
    assert used(redis_server, quota, NOW_US + DAY_US) == 0
