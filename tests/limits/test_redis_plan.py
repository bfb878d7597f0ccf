"""Tests of `llmproxy.limits.redis_plan`."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.entitlements import NO_LIMITS, Limits, LimitStanding, Quota
from llmproxy.limits.redis_plan import (
    LONGEST_ID_BYTES,
    Plan,
    PlannedBucket,
    counter_name,
    has_limits,
    id_in_name,
)
from llmproxy.limits.refusal import Reading

ALL = Limits(
    requests_per_second=5,
    requests_per_minute=60,
    tokens_per_minute=600,
    max_concurrent=3,
    burst_size=20,
)


def plan(*scopes: tuple[str, bytes, Limits], quota: Quota | None = None) -> Plan:
    """Make a plan."""
    return Plan(
        scopes,  # type: ignore[arg-type]
        "k",
        own_limits=None,
        quota=quota,
        prefix=b"p:",
        ttl_us=30_000_000,
    )


@given(st.text(st.characters(), max_size=2_000), st.text(st.characters(), max_size=2_000))
def test_ids_stay_apart(one: str, other: str) -> None:
    """Different ids have different names, none of them long."""
    assert (id_in_name(one) == id_in_name(other)) == (one == other)
    assert len(id_in_name(one)) <= LONGEST_ID_BYTES


def test_odd_ids() -> None:
    """Long ones, lone surrogates, and what looks like a digest."""
    assert id_in_name("a\0\r\n{*}") == b"a\0\r\n{*}"
    long = id_in_name("x" * 1_000_000)
    assert len(long) == 71
    assert id_in_name(long.decode()) != long
    assert id_in_name("\ud800") == b"\xed\xa0\x80"
    assert counter_name(b"p:", "k") == b"p:quota:k"


def test_what_redis_is_told() -> None:
    """Each key once, by position; each number in its unit."""
    made = plan(("key", b"k", ALL), ("global", b"", Limits(tokens_per_minute=7)), quota=Quota(9))
    assert made.names == (
        b"p:leases:key:k",
        b"p:buckets:key:k",
        b"p:buckets:global:",
        b"p:holds:k",
        b"p:quota:k",
    )
    assert json.loads(made.text) == {
        "ttl": 30_000_000,
        "scopes": [
            [
                2,
                1,
                3,
                [
                    ["s", 20_000_000, 5, 1_000_000, "r"],
                    ["m", 1_200_000_000, 60, 60_000_000, "r"],
                    ["t", 36_000_000_000, 600, 60_000_000, "t"],
                ],
            ],
            [3, 0, 0, [["t", 420_000_000, 7, 60_000_000, "t"]]],
        ],
        "quota": [5, 4, 1, 9, "never", 0],
    }
    assert made.renewal == "[1],4"
    assert made.leased
    assert made.limits_anything


@pytest.mark.parametrize(
    ("made", "leased", "limits_anything"),
    [
        (plan(), False, False),
        (plan(("key", b"k", Limits(requests_per_second=1))), False, True),
        (plan(("key", b"k", Limits(max_concurrent=1))), True, True),
        (plan(quota=Quota(1)), True, True),
    ],
)
def test_leases(made: Plan, leased: bool, limits_anything: bool) -> None:
    """There are some where something is lent."""
    assert (made.leased, made.limits_anything) == (leased, limits_anything)
    assert made.renewal.startswith("[]") != leased


def test_has_limits() -> None:
    """A burst alone limits nothing."""
    assert not has_limits(NO_LIMITS)
    assert not has_limits(Limits(burst_size=3))
    assert has_limits(Limits(max_concurrent=1))
    assert has_limits(Limits(tokens_per_minute=1))


def test_bucket() -> None:
    """How it stands, and how long who must wait, from what is missing."""
    bucket = PlannedBucket("tokens_per_minute", "t", "tokens", 60, 60, 60_000_000)
    assert bucket.standing(0.0) == LimitStanding(60, 60, 0.0)
    assert bucket.standing(90_000_000.0) == LimitStanding(60, 58, 1.5)
    assert bucket.standing(4_200_000_000.0) == LimitStanding(60, 0, 70.0)
    assert bucket.wait_s(90_000_000.0, 58) == 0.0
    assert bucket.wait_s(90_000_000.0, 59) == 0.5
    assert bucket.wait_s(90_000_000.0, 10_000) == 1.5
    assert bucket.wait_s(1.0, 60) == 0.000_001
    requests = PlannedBucket("requests_per_second", "s", "requests", 2, 3, 1_000_000)
    assert requests.wait_s(2_000_000.0, 99) == 0.333_334


def test_why_it_was_refused() -> None:
    """Every bucket is read, and the numbers at once that are reached."""
    made = plan(
        ("key", b"k", Limits(requests_per_second=2, max_concurrent=3)),
        ("global", b"", Limits(tokens_per_minute=60, max_concurrent=3)),
        quota=Quota(9),
    )
    reply = [b"limited", b"3", b"1000000", b"2", b"600000000"]
    assert made.readings(reply, 55) == [
        Reading("key", "requests", 0.0, LimitStanding(2, 1, 0.5)),
        Reading("key", "concurrent", 1.0),
        Reading("global", "tokens", 5.0, LimitStanding(60, 50, 10.0)),
    ]
    reply[0] = b"reserved"
    assert made.readings(reply, 55)[-1] == Reading("key", "quota", 1.0)
    for nonsense in ([b"limited"], [b"limited", b"x"], [b"limited", b"1", b"x", b"1", b"1"]):
        with pytest.raises(ValueError, match=r"b''|b'x'|could not|invalid"):
            made.readings(nonsense, 1)
    assert "2 scopes" in repr(made)
