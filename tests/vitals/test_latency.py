"""Tests of `llmproxy.vitals.latency`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.vitals.latency import DECAY_S, PeakEwma


def test_nothing_seen() -> None:
    """Nothing is not the same as fast."""
    assert PeakEwma().value_s(0.0) is None


def test_peaks_count_at_once() -> None:
    """One slow answer is enough."""
    average = PeakEwma()
    for _ in range(100):
        average.observe(0.1, 0.0)
    average.observe(3.0, 0.0)
    assert average.value_s(0.0) == 3.0
    assert average.seen == 101


def test_comes_down_with_the_time() -> None:
    """Many fast answers in one moment do not make up for it; the same over a while do."""
    average = PeakEwma()
    average.observe(3.0, 0.0)
    for _ in range(100):
        average.observe(0.1, 0.0)
    assert average.value_s(0.0) == 3.0
    average.observe(0.1, DECAY_S)
    assert average.value_s(DECAY_S) == pytest.approx(0.1 + 2.9 / 2.718281828)
    for later in range(2, 20):
        average.observe(0.1, later * DECAY_S)
    assert average.value_s(19 * DECAY_S) == pytest.approx(0.1, abs=0.001)


def test_sinks_without_news() -> None:
    """Who is avoided for it is tried again in the end; to look does not change it."""
    average = PeakEwma()
    average.observe(3.0, 0.0)
    value_s = average.value_s(DECAY_S)
    assert value_s == pytest.approx(3.0 / 2.718281828)
    assert average.value_s(DECAY_S) == value_s
    later_s = average.value_s(20 * DECAY_S)
    assert later_s is not None
    assert later_s < 0.000001
    assert average.value_s(0.0) == 3.0


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(-5, 1000)), min_size=1))
def test_between_the_least_and_the_most(seen: list[tuple[float, float]]) -> None:
    """Whatever comes when, and also when the clock is set back, it is an average."""
    average, now_s = PeakEwma(), 0.0
    for took_s, later_s in seen:
        now_s += later_s
        average.observe(took_s, now_s)
        value_s = average.value_s(now_s)
        assert value_s is not None
        assert value_s >= min(took for took, _ in seen) * (1 - 1e-9) or later_s < 0
        assert value_s <= max(took for took, _ in seen) * (1 + 1e-9)
        assert value_s >= took_s * (1 - 1e-9) or later_s < 0
