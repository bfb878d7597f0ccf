"""Tests of `llmproxy.auth.throttle`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from llmproxy.auth.throttle import MAX_UNDER_WAY, FailureThrottle

ONE, TWO = "192.0.2.1", "192.0.2.2"


def test_blocks_after_the_burst_and_opens_again() -> None:
    """Failures up to the burst cost nothing; then each must be waited for."""
    clock = Clock()
    throttle = FailureThrottle(30, 3, clock=clock)
    for _ in range(3):
        assert throttle.blocked_s(ONE) == 0.0
        throttle.note_failure(ONE)
    assert throttle.blocked_s(ONE) == pytest.approx(2.0)
    assert throttle.blocked_s(TWO) == 0.0
    clock.advance(1.5)
    assert throttle.blocked_s(ONE) == pytest.approx(0.5)
    clock.advance(0.5)
    assert throttle.blocked_s(ONE) == 0.0
    throttle.note_failure(ONE)
    assert throttle.blocked_s(ONE) == pytest.approx(2.0)


def test_is_whole_after_a_while() -> None:
    """Waiting gives back no more than the burst."""
    clock = Clock()
    throttle = FailureThrottle(60, 2, clock=clock)
    for _ in range(2):
        throttle.note_failure(ONE)
    clock.advance(3600)
    for _ in range(2):
        assert throttle.blocked_s(ONE) == 0.0
        throttle.note_failure(ONE)
    assert throttle.blocked_s(ONE) > 0.0


def test_failures_while_blocked_do_not_add_up() -> None:
    """Whoever goes on trying is not blocked for longer than a burst more."""
    throttle = FailureThrottle(60, 3, clock=Clock())
    for _ in range(3):
        throttle.note_failure(ONE)
    assert throttle.blocked_s(ONE) == pytest.approx(1.0)
    for _ in range(100):
        throttle.note_failure(ONE)
    assert throttle.blocked_s(ONE) == pytest.approx(4.0)


def test_attempts_under_way_are_bounded() -> None:
    """Of one address; those that fail together are waited for, and a place comes back."""
    clock = Clock()
    throttle = FailureThrottle(60, 1, clock=clock)
    ends = []
    for _ in range(MAX_UNDER_WAY):
        assert throttle.blocked_s(ONE) == 0.0
        ends.append(throttle.begin(ONE))
    assert throttle.blocked_s(ONE) == pytest.approx(1.0)
    assert throttle.blocked_s(TWO) == 0.0
    ends.pop()()
    assert throttle.blocked_s(ONE) == 0.0
    for end in ends:
        end()
        throttle.note_failure(ONE)
    assert throttle.blocked_s(ONE) == pytest.approx(2.0)
    clock.advance(2.0)
    assert throttle.blocked_s(ONE) == 0.0


def test_clock_that_is_set_back() -> None:
    """Nobody waits for the time that there was before."""
    clock = Clock()
    clock.advance(7200)
    throttle = FailureThrottle(60, 1, clock=clock)
    throttle.note_failure(ONE)
    clock.rightNow -= 3600
    assert throttle.blocked_s(ONE) == pytest.approx(1.0)
    clock.advance(1.0)
    assert throttle.blocked_s(ONE) == 0.0


def test_no_limit() -> None:
    """With a rate of 0 nobody is counted."""
    throttle = FailureThrottle(0, 1, clock=Clock())
    for _ in range(100):
        throttle.note_failure(ONE)
        throttle.begin(ONE)
    assert throttle.blocked_s(ONE) == 0.0
    assert repr(throttle) == "<FailureThrottle addresses=0>"


@pytest.mark.parametrize(
    ("failed", "asking", "same"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::1", True),
        ("", "/run/llmproxy.sock", True),
        ("", "192.0.2.1", False),
    ],
)
def test_what_is_one_address(failed: str, asking: str, same: bool) -> None:
    """A host's whole IPv6 network is one, a mapped IPv4 address is IPv4, no address is one, too."""
    throttle = FailureThrottle(60, 1, clock=Clock())
    throttle.note_failure(failed)
    assert (throttle.blocked_s(asking) > 0) is same


def test_table_is_bounded() -> None:
    """Those that failed longest ago are forgotten first."""
    throttle = FailureThrottle(60, 1, clock=Clock(), max_addresses=2)
    for ip in (ONE, TWO, ONE, "192.0.2.3"):
        throttle.note_failure(ip)
    assert repr(throttle) == "<FailureThrottle addresses=2>"
    assert throttle.blocked_s(ONE) > 0
    assert throttle.blocked_s(TWO) == 0


@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 120), st.integers(1, 10))
def test_never_more_than_burst_and_rate(waits: list[float], per_minute: int, burst: int) -> None:
    """Over any schedule, no more failures pass than the burst and what the time has given."""
    clock = Clock()
    throttle = FailureThrottle(per_minute, burst, clock=clock)
    passed = 0
    for wait_s in waits:
        clock.advance(wait_s)
        if throttle.blocked_s(ONE) == 0.0:
            throttle.note_failure(ONE)
            passed += 1
    assert passed <= burst + clock.seconds() * per_minute / 60 + 1e-6
