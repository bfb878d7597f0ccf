"""Tests of `llmproxy.backends.state`."""

from __future__ import annotations

from math import inf

import pytest
from twisted.logger import capturedLogs
from zope.interface.verify import verifyObject

from llmproxy.backends.state import BackendState, Health
from llmproxy.interfaces import ICandidate
from llmproxy.values import BackendStatus
from tests.backends.made import Progress, backend, make_state


def broken(weight: int = 1) -> BackendState:
    """Make the state of a backend whose breaker opened at the time 0."""
    state = make_state(backend("a", weight=weight))
    for _ in range(2):
        state.observe(object(), "bad", 0.0)
    return state


def test_is_a_candidate() -> None:
    """With its name and weight; and no secret is shown."""
    state = make_state(backend("a", weight=3, secret=b"sk-up"))
    assert verifyObject(ICandidate, state)
    assert (state.name, state.weight, state.full_weight) == ("a", 3, 3)
    assert "sk-up" not in repr(state)


def test_settled_until_something_happens() -> None:
    """Good requests, and some bad ones, change nothing that a choice must look at."""
    state = make_state(backend("a"))
    state.observe(object(), "bad", 0.0)
    state.observe(object(), "good", 0.0)
    state.observe(object(), "none", 0.0)
    assert state.settled
    state.observe(object(), "bad", 1.0)
    assert not state.settled


def test_recovers_slowly() -> None:
    """When its probe was good it has a tenth of its weight, and then more."""
    state = broken(weight=3)
    probe = object()
    state.breaker.begin(probe, 30.0)
    state.observe(probe, "good", 31.0)
    weights = []
    for now_s in (31.0, 36.0, 40.9):
        state.look(now_s)
        weights.append(state.weight)
        assert not state.settled
    assert weights == pytest.approx([0.3, 1.65, 2.973])
    state.look(41.0)
    assert state.settled
    assert isinstance(state.weight, int)


def test_when_time_alone_may_open_it() -> None:
    """The end of its rest, or the breaker's half-open; what is past is nothing to wait for."""
    state = make_state(backend("a"))
    assert state.opens_s(0.0) == inf
    state.rest(10.0)
    assert state.opens_s(5.0) == 10.0
    assert state.opens_s(10.0) == inf
    for _ in range(2):
        state.observe(object(), "bad", 5.0)
    assert (state.opens_s(5.0), state.opens_s(10.0), state.opens_s(35.0)) == (10.0, 35.0, inf)


def test_when_a_probe_may_have_shown_enough() -> None:
    """Its stream is looked at once it may have come for long enough, and then every second."""
    state = broken()
    probe = object()
    state.breaker.begin(probe, 30.0)
    assert state.opens_s(30.0) == 60.0
    state.answers[probe] = Progress(32.0, 32.0)
    assert (state.opens_s(33.0), state.opens_s(70.0)) == (62.0, 71.0)


def test_opening_and_closing_are_logged() -> None:
    """Once each, with the backend's name."""
    with capturedLogs() as events:
        state = broken()
        state.observe(object(), "bad", 1.0)
        state.breaker.begin(probe := object(), 30.0)
        state.observe(probe, "good", 30.0)
    told = [(event["log_level"].name, event["log_format"]) for event in events]
    assert [level for level, _ in told] == ["warn", "info"]
    assert {event["backend"] for event in events} == {"a"}


@pytest.mark.parametrize(
    ("progress", "closed"),
    [
        (Progress(None, 35.0), False),
        (Progress(35.0, 64.0), False),
        (Progress(35.0, 65.0), True),
    ],
)
def test_a_long_stream_proves_enough(progress: Progress, closed: bool) -> None:
    """A probe whose answer came for ``open_for`` is good; one that began and stopped is not."""
    state = broken()
    state.breaker.begin(probe := object(), 30.0)
    state.answers[probe] = progress
    state.look(500.0)
    assert state.breaker.is_closed is closed
    state.observe(probe, "bad", 501.0)  # one failure of a backend that is closed
    assert state.breaker.is_closed is closed


@pytest.mark.parametrize("health", ["down", "loading"])
def test_back_from_a_failed_check(health: Health) -> None:
    """It starts slowly; what did not work while it was loading is forgotten."""
    state = broken()
    state.set_health(health, "why", 1.0)
    assert (state.health, state.reason) == (health, "why")
    state.set_health("up", "", 2.0)
    state.look(2.0)
    assert state.weight == pytest.approx(0.1)
    assert state.reason == ""
    assert state.breaker.is_closed is (health == "loading")


def test_up_and_up_is_nothing_new() -> None:
    """No slow start for who was there."""
    state = make_state(backend("a"))
    state.set_health("up", "", 0.0)
    assert state.settled


def test_status() -> None:
    """All that people want to know."""
    state = broken()
    state.latency.observe(0.5, 0.0)
    state.in_flight = 2
    assert state.status(0.0, ejected=True) == BackendStatus(
        "a", "up", 2, "", breaker="open", ejected=True, times_opened=1, latency_ms=500
    )
    state.breaker.begin(probe := object(), 30.0)
    assert state.status(30.0, ejected=False).breaker == "half_open"
    state.observe(probe, "good", 30.0)
    state.drained = True
    status = state.status(35.0, ejected=False)
    assert (status.state, status.breaker, status.share_percent) == ("drained", "closed", 55)
