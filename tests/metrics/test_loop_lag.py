"""How late the event loop is."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from llmproxy.metrics.loop_lag import INTERVAL_S, LOOKS_IN_A_WINDOW, WINDOWS, LoopLag


class Lagging:
    """A measured event loop.

    Attributes:
        lags: What was observed.
        clock: The event loop's.
        lag: What measures.
    """

    def __init__(self, most_s: float = 0.0) -> None:
        self.lags: list[float] = []
        self.clock = Clock()
        self.lag = LoopLag(self.lags.append, self.clock, most_s)
        self.lag.startService()

    def take(self) -> list[float]:
        """Give what was observed since."""
        lags, self.lags[:] = list(self.lags), []
        return lags


def test_an_event_loop_in_time() -> None:
    """It is never late."""
    lagging = Lagging()
    lagging.clock.pump([INTERVAL_S] * 10)
    assert lagging.take() == [0.0] * 10
    lagging.lag.stopService()
    assert lagging.clock.getDelayedCalls() == []


@pytest.mark.parametrize("late_s", [0.001, 0.1, 0.3, 7.0])
def test_a_turn_that_takes_too_long(late_s: float) -> None:
    """It is seen once, whole, and what comes after it is in time again."""
    lagging = Lagging()
    lagging.clock.advance(INTERVAL_S)
    lagging.clock.advance(INTERVAL_S + late_s)
    assert lagging.take() == [0.0, pytest.approx(late_s)]
    beats = INTERVAL_S - late_s % INTERVAL_S
    lagging.clock.advance(beats)
    lagging.clock.advance(INTERVAL_S)
    assert lagging.take() == pytest.approx([0.0, 0.0], abs=1e-9)
    assert lagging.lag.worst_s() == pytest.approx(late_s)
    lagging.lag.stopService()


def test_too_late_is_late_twice() -> None:
    """Once may be chance: what had to wait then is not to be turned away."""
    lagging = Lagging(most_s=1.0)
    told = []
    for late_s in (0.0, 3.0, 0.0, 2.0, 2.0, 0.5):
        lagging.clock.advance(INTERVAL_S + late_s)
        told.append(lagging.lag.is_late())
    assert told == [False, False, False, False, True, False]
    lagging.lag.stopService()


def test_never_too_late() -> None:
    """0 is no limit."""
    lagging = Lagging()
    for _ in range(3):
        lagging.clock.advance(1000.0)
    assert not lagging.lag.is_late()
    lagging.lag.stopService()


def test_the_worst_of_a_minute() -> None:
    """Whoever asks, it is not forgotten before; and then it is."""
    lagging = Lagging()
    lagging.clock.advance(INTERVAL_S + 0.125)
    lagging.clock.advance(INTERVAL_S - 0.125)
    for _ in range(WINDOWS * LOOKS_IN_A_WINDOW - 3):
        lagging.clock.advance(INTERVAL_S)
        assert lagging.lag.worst_s() == 0.125
    lagging.clock.advance(INTERVAL_S)
    assert lagging.lag.worst_s() == 0.0
    assert repr(lagging.lag) == "<LoopLag worst 0.000 s>"
    lagging.lag.stopService()


def test_it_goes_on_when_counting_fails() -> None:
    """A full disk costs a look, not all of them."""
    clock, looks = Clock(), []

    def observe(lag_s: float) -> None:
        looks.append(lag_s)
        raise OSError(28, "No space left on device")

    lag = LoopLag(observe, clock)
    lag.startService()
    clock.pump([INTERVAL_S] * 3)
    assert looks == [0.0] * 3
    lag.stopService()
