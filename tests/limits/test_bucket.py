"""Tests of ``llmproxy.limits.bucket``."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from llmproxy.limits.bucket import MINUTE_NS, SECOND_NS, Bucket

_STEPS = st.lists(
    st.tuples(st.integers(0, 3 * MINUTE_NS), st.integers(-20, 30)), min_size=1, max_size=40
)


def test_begins_full() -> None:
    """Whenever it is first looked at."""
    bucket = Bucket(2, 5, SECOND_NS)
    for now_ns in (0, 123_456_789_012):
        assert bucket.remaining(now_ns) == 5
        assert bucket.reset_ns(now_ns) == 0
        assert bucket.is_full(now_ns)
        assert bucket.admits(5, now_ns)
        assert not bucket.admits(6, now_ns)


def test_exact_at_the_boundary() -> None:
    """A unit is there at the told nanosecond, and not one before."""
    bucket = Bucket(7, 1, MINUTE_NS)
    bucket.take(1, 1_000)
    wait_ns = bucket.wait_ns(1, 1_000)
    assert wait_ns == 8_571_428_572  # 60 s / 7, rounded up
    assert not bucket.admits(1, 1_000 + wait_ns - 1)
    assert bucket.admits(1, 1_000 + wait_ns)
    assert bucket.remaining(1_000 + wait_ns - 1) == 0
    assert bucket.remaining(1_000 + wait_ns) == 1


def test_no_drift() -> None:
    """Any number of requests at exactly the rate pass, after years on the clock."""
    bucket = Bucket(3, 1, SECOND_NS)
    now_ns = 10 * 365 * 86_400 * SECOND_NS
    for _ in range(100_000):
        assert bucket.admits(1, now_ns)
        bucket.take(1, now_ns)
        assert not bucket.admits(1, now_ns)
        now_ns += bucket.wait_ns(1, now_ns)


def test_debt() -> None:
    """Below nothing, it takes longer."""
    bucket = Bucket(60, 60, MINUTE_NS)
    bucket.take(100, 0)
    assert bucket.remaining(0) == 0
    assert bucket.wait_ns(1, 0) == 41 * SECOND_NS
    assert not bucket.admits(0, 0)
    assert bucket.reset_ns(0) == 100 * SECOND_NS


def test_nothing_more_than_full() -> None:
    """What is put back into a full one is lost."""
    bucket = Bucket(1, 3, SECOND_NS)
    bucket.take(-2, 5)
    assert bucket.remaining(5) == 3
    bucket.take(3, 5)
    assert not bucket.admits(1, 5)


def test_resize() -> None:
    """What was taken stays taken, under the new rate."""
    bucket = Bucket(10, 10, SECOND_NS)
    bucket.take(8, 0)
    bucket.resize(1, 9, 0)
    assert bucket.remaining(0) == 1
    assert bucket.reset_ns(0) == 8 * SECOND_NS
    assert "1 in 1 s, 9 at once" in repr(bucket)


@given(
    rate=st.integers(1, 1_000),
    capacity=st.integers(1, 50),
    period_s=st.sampled_from((1, 60)),
    steps=_STEPS,
)
def test_like_a_level_of_fractions(
    rate: int, capacity: int, period_s: int, steps: list[tuple[int, int]]
) -> None:
    """Whatever is taken and put back when, it is as full as exact arithmetic says."""
    bucket = Bucket(rate, capacity, period_s * SECOND_NS)
    level, now_ns = Fraction(capacity), 0
    for after_ns, units in steps:
        now_ns += after_ns
        level = min(Fraction(capacity), level + Fraction(rate * after_ns, period_s * SECOND_NS))
        asked = abs(units)
        assert bucket.admits(asked, now_ns) == (level >= asked)
        assert bucket.remaining(now_ns) == max(level.__floor__(), 0)
        assert bucket.is_full(now_ns) == (level == capacity)
        some = min(asked, capacity)
        wait_ns = max((some - level) * period_s * SECOND_NS / rate, Fraction(0)).__ceil__()
        assert bucket.wait_ns(some, now_ns) == wait_ns
        bucket.take(units, now_ns)
        level = min(level - units, Fraction(capacity))
