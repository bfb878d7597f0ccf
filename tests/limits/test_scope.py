"""Tests of ``llmproxy.limits.scope``."""

from __future__ import annotations

from llmproxy.entitlements import Limits, LimitStanding
from llmproxy.limits.bucket import SECOND_NS
from llmproxy.limits.refusal import Reading
from llmproxy.limits.scope import ScopeCount


def test_nothing_is_taken_by_asking() -> None:
    """`admits` may be asked as often as one likes."""
    scope = ScopeCount("key", Limits(1, 1, 10, 1))
    assert all(scope.admits(10, 0) for _ in range(5))
    assert scope.is_idle(0)


def test_each_limit_alone_refuses() -> None:
    """Whichever is used up."""
    for limits in (
        Limits(requests_per_second=1),
        Limits(requests_per_minute=1),
        Limits(tokens_per_minute=10),
        Limits(max_concurrent=1),
    ):
        scope = ScopeCount("model", limits)
        assert scope.admits(10, 0)
        scope.begin(10, 0)
        assert not scope.admits(10, 0)
        assert [reading for reading in scope.readings(10, 0) if reading.wait_s > 0]


def test_readings() -> None:
    """Of every bucket, and of requests at once only when they refuse."""
    scope = ScopeCount("global", Limits(2, 60, 600, 1))
    assert list(scope.readings(700, 0)) == [
        Reading("global", "requests", 0, LimitStanding(2, 2, 0)),
        Reading("global", "requests", 0, LimitStanding(60, 60, 0)),
        Reading("global", "tokens", 0, LimitStanding(600, 600, 0)),
    ]
    assert scope.begin(700, 0) == 600
    assert list(scope.readings(5, 0)) == [
        Reading("global", "requests", 0, LimitStanding(2, 1, 0.5)),
        Reading("global", "requests", 0, LimitStanding(60, 59, 1.0)),
        Reading("global", "tokens", 0.5, LimitStanding(600, 0, 60.0)),
        Reading("global", "concurrent", 1.0),
    ]


def test_tokens_that_were_not_counted_at_first() -> None:
    """A limit on tokens that came while a request ran is not charged, or refunded, for it."""
    scope = ScopeCount("key", Limits(max_concurrent=3))
    reserved = scope.begin(50, 0)
    scope.hold_to(Limits(tokens_per_minute=100), None, 0)
    scope.end(reserved, 70, 0)
    assert scope.standing(0) == {"tokens_per_minute": LimitStanding(100, 100, 0)}
    assert scope.running == 0


def test_limits_that_go_and_come() -> None:
    """A limit that is taken away is forgotten; requests that run stay counted."""
    scope = ScopeCount("key", Limits(requests_per_minute=1, tokens_per_minute=10))
    scope.begin(10, 0)
    scope.hold_to(Limits(), None, 0)
    assert scope.admits(10, 0)
    scope.hold_to(Limits(requests_per_minute=1, max_concurrent=1), None, 0)
    assert not scope.admits(1, 0)
    scope.end(10, 10, 0)
    assert scope.admits(1, 0)
    assert repr(scope).startswith("<ScopeCount key running=0 ")


def test_larger_limits_keep_what_was_used() -> None:
    """Else a change would be a way to a fresh bucket."""
    scope = ScopeCount("key", Limits(tokens_per_minute=10))
    scope.begin(10, 0)
    scope.hold_to(Limits(tokens_per_minute=30), None, 0)
    assert scope.standing(0)["tokens_per_minute"].remaining == 20


def test_idle() -> None:
    """When nothing runs and every bucket is full."""
    scope = ScopeCount("key", Limits(requests_per_second=1))
    scope.begin(1, 0)
    assert not scope.is_idle(2 * SECOND_NS)
    scope.end(-1, 1, 0)
    assert not scope.is_idle(SECOND_NS - 1)
    assert scope.is_idle(SECOND_NS)
