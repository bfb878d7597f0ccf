"""Tests of the timeouts: on a `Clock`, and next to one that starts a delayed call for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from llmproxy.timeouts import Timeout, Timeouts


@attrs.define
class Started:
    """Timeouts under test, and what expired, with the time."""

    clock: Clock = attrs.field(factory=Clock)
    expired: list[tuple[str, float]] = attrs.field(factory=list)
    timeouts: Timeouts = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.timeouts = Timeouts(self.clock)

    def start(self, after_s: float, name: str = "a") -> Timeout:
        """Start one that notes its name and the time."""
        return self.timeouts.start(
            after_s, lambda: self.expired.append((name, self.clock.seconds()))
        )


def test_expires_once_at_its_time() -> None:
    """One expires when its length is over, not before, and once."""
    started = Started()
    timeout = started.start(10)
    assert timeout.due_s == 10
    started.clock.advance(9)
    assert started.expired == []
    started.clock.advance(1)
    assert started.expired == [("a", 10)]
    started.clock.pump([10] * 3)
    assert started.expired == [("a", 10)]


def test_order() -> None:
    """Those of one length expire in the order of their start, those of several by their time."""
    started = Started()
    for name, after_s in (("a", 10), ("b", 3), ("c", 10), ("d", 7)):
        started.start(after_s, name)
    started.clock.pump([1] * 10)
    assert started.expired == [("b", 3), ("d", 7), ("a", 10), ("c", 10)]


def test_one_timer_for_each_length() -> None:
    """However many wait, the reactor holds a timer for each length."""
    started = Started()
    for _ in range(100):
        started.start(10)
        started.start(20)
    assert len(started.clock.getDelayedCalls()) == 2


def test_cancelled() -> None:
    """One that was cancelled does not expire, the others do; cancelling again is nothing."""
    started = Started()
    first, second, _ = (started.start(10, name) for name in "abc")
    second.cancel()
    second.cancel()
    first.cancel()
    started.clock.advance(10)
    assert started.expired == [("c", 10)]
    second.restart()
    second.cancel()
    started.clock.advance(100)
    assert started.expired == [("c", 10)]


def test_no_timer_when_nothing_waits() -> None:
    """When the last was cancelled or expired, no delayed call is left; the next makes one."""
    started = Started()
    one, other = started.start(10), started.start(10)
    one.cancel()
    assert len(started.clock.getDelayedCalls()) == 1
    other.cancel()
    assert started.clock.getDelayedCalls() == []
    started.start(10)
    started.clock.advance(10)
    assert started.clock.getDelayedCalls() == []
    assert started.expired == [("a", 10)]


def test_restart() -> None:
    """It lasts its full length from the restart on, behind those that were started before."""
    started = Started()
    first = started.start(10, "a")
    started.clock.advance(4)
    started.start(10, "b")
    started.clock.advance(4)
    first.restart()
    assert first.due_s == 18
    started.clock.pump([1] * 10)
    assert started.expired == [("b", 14), ("a", 18)]
    first.restart()
    started.clock.advance(100)
    assert len(started.expired) == 2
    assert started.clock.getDelayedCalls() == []


def test_started_while_others_wait_and_one_expires() -> None:
    """What an expiry starts does not delay those that wait already."""
    started = Started()

    def expire() -> None:
        started.start(10, "started by a")

    started.timeouts.start(10, expire)
    started.clock.advance(5)
    started.start(10, "b")
    started.clock.advance(5)
    assert len(started.clock.getDelayedCalls()) == 1
    started.clock.pump([1] * 20)
    assert started.expired == [("b", 15), ("started by a", 20)]


def test_one_expiry_cancels_another_that_is_due() -> None:
    """Cancelled in time is cancelled, even in the turn in which it would have expired."""
    started = Started()
    doomed: list[Timeout] = []
    started.timeouts.start(10, lambda: doomed[0].cancel())
    doomed.append(started.start(10))
    started.clock.advance(10)
    assert started.expired == []
    assert started.clock.getDelayedCalls() == []


def test_an_expiry_restarts_another_that_is_due() -> None:
    """Restarted in time lasts on, even in the turn in which it would have expired."""
    started = Started()
    saved: list[Timeout] = []
    started.timeouts.start(10, lambda: saved[0].restart())
    saved.append(started.start(10))
    started.clock.advance(10)
    assert started.expired == []
    started.clock.advance(10)
    assert started.expired == [("a", 20)]


@pytest.mark.parametrize("act", [Timeout.cancel, Timeout.restart])
def test_over_within_its_own_expiry(act: Callable[[Timeout], None]) -> None:
    """Within its own expiry it is over already: neither cancelling nor restarting does a thing."""
    started = Started()
    own: list[Timeout] = []

    def expire() -> None:
        act(own[0])
        started.expired.append(("own", started.clock.seconds()))

    own.append(started.timeouts.start(10, expire))
    started.start(10, "b")
    started.clock.pump([10] * 3)
    assert started.expired == [("own", 10), ("b", 10)]
    assert started.clock.getDelayedCalls() == []


def test_an_expiry_that_raises() -> None:
    """It is the reactor's to report; the others, due or not yet, expire all the same."""
    started = Started()

    def fail() -> None:
        raise ValueError

    started.timeouts.start(10, fail)
    started.start(10, "b")
    started.clock.advance(4)
    started.start(10, "c")
    with pytest.raises(ValueError):  # noqa: PT011 - it is our own
        started.clock.advance(6)
    assert started.expired == []
    started.clock.advance(0)
    assert started.expired == [("b", 10)]
    started.clock.advance(4)
    assert started.expired == [("b", 10), ("c", 14)]
    assert started.clock.getDelayedCalls() == []


def test_a_late_reactor() -> None:
    """When the reactor was busy, all that is due expires in order, in one turn."""
    started = Started()
    for name in "abc":
        started.start(10, name)
        started.clock.advance(1)
    started.clock.advance(100)
    assert [name for name, _ in started.expired] == ["a", "b", "c"]


# Against a delayed call for each


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_clock_that_is_set_back(cancelled: bool) -> None:
    """Those that start afterwards last their length, and none before lasts longer than they."""
    started = Started()
    started.clock.advance(10_000)
    before = [started.start(10, name) for name in "ab"]
    started.clock.rightNow = 6_000.0
    started.start(10, "c")
    if cancelled:
        for timeout in before:
            timeout.cancel()
    started.clock.advance(9)
    assert started.expired == []
    started.clock.advance(1)
    names = "c" if cancelled else "abc"
    assert started.expired == [(name, 6_010) for name in names]
    assert started.clock.getDelayedCalls() == []


def test_restarted_by_a_clock_that_is_set_back() -> None:
    """A restart sees the clock as well."""
    started = Started()
    started.clock.advance(10_000)
    timeout = started.start(10)
    started.clock.rightNow = 6_000.0
    timeout.restart()
    started.clock.advance(10)
    assert started.expired == [("a", 6_010)]


class _Naive:
    """What `Timeouts` stands for: a delayed call each."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def start(self, after_s: float, expired: Callable[[], None]) -> _NaiveTimeout:
        return _NaiveTimeout(self._clock, after_s, expired)


class _NaiveTimeout:
    def __init__(self, clock: Clock, after_s: float, expired: Callable[[], None]) -> None:
        self._after_s = after_s
        self._call = clock.callLater(after_s, expired)

    def cancel(self) -> None:
        if self._call.active():
            self._call.cancel()

    def restart(self) -> None:
        if self._call.active():
            self._call.reset(self._after_s)


_LENGTHS = st.sampled_from([3, 5])
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.integers(0, 4)),
        st.tuples(st.just("start"), _LENGTHS),
        st.tuples(st.sampled_from(["cancel", "restart"]), st.integers(0, 11)),
    ),
    max_size=30,
)


def _run(
    make: type[Timeouts] | type[_Naive],
    steps: list[tuple[str, int]],
    then: list[list[int]],
) -> list[list[tuple[float, int]]]:
    """Take the steps; expiries start those of ``then``. Give what expired each second, sorted."""
    clock = Clock()
    timeouts: Any = make(clock)
    under_way: list[Any] = []
    expired: list[list[tuple[float, int]]] = [[]]

    def take(what: str, number: int) -> None:
        if what == "start":
            mark = len(under_way)
            under_way.append(timeouts.start(number, lambda: expire(mark)))
        elif under_way:
            getattr(under_way[number % len(under_way)], what)()

    def expire(mark: int) -> None:
        expired[-1].append((clock.seconds(), mark))
        for after_s in then.pop(0) if then else []:
            take("start", after_s)

    for what, number in [*steps, ("advance", 100)]:
        if what != "advance":
            take(what, number)
        for _ in range(number if what == "advance" else 0):
            expired.append([])
            clock.advance(1)
            expired[-1].sort()
    for timeout in under_way:
        timeout.cancel()
    assert clock.getDelayedCalls() == []
    return expired


@given(steps=_STEPS, then=st.lists(st.lists(_LENGTHS, max_size=2), max_size=10))
def test_like_a_delayed_call_for_each(steps: list[tuple[str, int]], then: list[list[int]]) -> None:
    """Whatever is started, cancelled and restarted when, the same expires at the same time."""
    wanted = _run(_Naive, steps, [*then])
    assert _run(Timeouts, steps, [*then]) == wanted


@given(steps=_STEPS)
def test_no_timer_is_left_over(steps: list[tuple[str, int]]) -> None:
    """At any time there are as many delayed calls as lengths of which one waits."""
    started = Started()
    waiting: dict[int, tuple[Timeout, int]] = {}
    for what, number in steps:
        if what == "advance":
            started.clock.pump([1] * number)
        elif what == "start":
            mark = len(waiting)
            waiting[mark] = (started.start(number, str(mark)), number)
        elif number in waiting:
            timeout, _ = waiting[number]
            getattr(timeout, what)()
            if what == "cancel":
                waiting[number] = (timeout, 0)
        over = {int(name) for name, _ in started.expired}
        lengths = {length for mark, (_, length) in waiting.items() if length and mark not in over}
        assert len(started.clock.getDelayedCalls()) == len(lengths)
