"""Tests of `llmproxy.usage.session_sums`."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from llmproxy.interfaces import IReporter
from llmproxy.usage.session_sums import IDLE_S, LOOK_INTERVAL_S, SessionSum, SessionSums
from tests.usage.samples import record


class Bench:
    """Sums that are running, and what they told."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.ended: list[SessionSum] = []
        self.sums = SessionSums(self.clock, self.ended.append, **options)
        self.sums.startService()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, look by look."""
        self.clock.pump([LOOK_INTERVAL_S] * int(seconds // LOOK_INTERVAL_S + 1))


def test_a_session() -> None:
    """It is active until nothing was heard of it for a while; then it is told, once."""
    bench = Bench()
    assert verifyObject(IReporter, bench.sums)
    bench.sums.report(record(1, duration_ms=500))
    bench.clock.advance(60)
    bench.sums.report(record(2, outcome="truncated", tool_calls={"read": 2, "bash": 1}))
    assert (bench.sums.active, bench.ended) == (1, [])
    bench.pass_time(IDLE_S - 2 * LOOK_INTERVAL_S)
    assert bench.ended == []
    bench.pass_time(2 * LOOK_INTERVAL_S)
    (one,) = bench.ended
    assert one == SessionSum(
        first_s=999.5,
        last_s=1060,
        requests=2,
        errors=1,
        prompt_tokens=200,
        completion_tokens=20,
        total_tokens=220,
        tool_calls=5,
    )
    assert one.duration_s == 60.5
    assert bench.sums.active == 0
    bench.sums.report(record(3))
    assert (bench.sums.active, len(bench.ended)) == (1, 1)
    bench.sums.stopService()
    assert bench.clock.getDelayedCalls() == []


def test_what_belongs_to_no_session() -> None:
    """Requests without an id, and those of strangers."""
    bench = Bench()
    bench.sums.report(record(1, session_id=""))
    bench.sums.report(record(1, key_id=""))
    assert bench.sums.active == 0
    bench.sums.report(record(1))
    bench.sums.report(record(1, key_id="another"))
    assert bench.sums.active == 2
    assert repr(bench.sums) == "<SessionSums active=2>"


def test_their_number_is_bounded() -> None:
    """The one that was silent for longest gives way."""
    bench = Bench(most=3)
    for name in ("a", "b", "c", "a", "d", "e"):
        bench.sums.report(record(session_id=name, tool_calls={name: 1}))
        bench.clock.advance(0.001)
    assert bench.sums.active == 3
    assert [one.requests for one in bench.ended] == [1, 1]
    bench.pass_time(IDLE_S + LOOK_INTERVAL_S)
    assert [one.requests for one in bench.ended] == [1, 1, 2, 1, 1]


class FaultTests(SynchronousTestCase):
    """Faults of whoever is told."""

    def test_they_end_nothing(self) -> None:
        """Neither the request that made a session give way, nor the look for others."""
        clock = Clock()
        told: list[SessionSum] = []

        def fail(ended: SessionSum) -> None:
            told.append(ended)
            raise RuntimeError("a fault")

        sums = SessionSums(clock, fail, most=1, idle_s=10)
        sums.startService()
        for name in ("a", "b"):
            sums.report(record(session_id=name))
        for _ in range(2):
            clock.advance(LOOK_INTERVAL_S)
            sums.report(record(session_id="c"))
        assert len(told) == 3
        assert len(self.flushLoggedErrors(RuntimeError)) == 3


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.floats(0, 50)), max_size=40),
    st.integers(1, 4),
)
def test_no_request_is_lost(steps: list[tuple[str, float]], most: int) -> None:
    """Each is in one session that was told."""
    bench = Bench(most=most, idle_s=30.0)
    for name, wait_s in steps:
        bench.sums.report(record(session_id=name))
        bench.clock.advance(wait_s)
        assert bench.sums.active <= most
    bench.pass_time(60)
    assert sum(one.requests for one in bench.ended) == len(steps)
    assert bench.sums.active == 0
