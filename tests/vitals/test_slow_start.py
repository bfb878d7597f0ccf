"""Tests of `llmproxy.vitals.slow_start`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.vitals.slow_start import LEAST_SHARE, SlowStart


def test_a_straight_line() -> None:
    """From a tenth to the whole."""
    ramp = SlowStart(30.0)
    assert ramp.share(0.0) == 1.0
    ramp.begin(100.0)
    shares = [ramp.share(100.0 + after) for after in (0, 10, 15, 20, 29.9)]
    assert shares == pytest.approx([0.1, 0.4, 0.55, 0.7, 0.997])
    assert ramp.share(130.0) == 1.0
    assert ramp.began_s is None
    assert ramp.share(100.0) == 1.0


def test_begins_again() -> None:
    """A backend that fails meanwhile has the whole way before it."""
    ramp = SlowStart(30.0)
    ramp.begin(0.0)
    ramp.begin(20.0)
    assert ramp.share(20.0) == LEAST_SHARE
    assert ramp.share(49.9) < 1.0


def test_none() -> None:
    """A length of 0 switches it off."""
    ramp = SlowStart(0.0)
    ramp.begin(0.0)
    assert ramp.share(0.0) == 1.0


@given(st.floats(0.01, 1e6), st.lists(st.floats(-10, 1e6), min_size=2).map(sorted))
def test_only_ever_up(length_s: float, times_s: list[float]) -> None:
    """Never less than a tenth, never more than the whole, and never back."""
    ramp = SlowStart(length_s)
    ramp.begin(0.0)
    shares = [ramp.share(at) for at in times_s]
    assert shares == sorted(shares)
    assert shares[0] >= LEAST_SHARE
    assert shares[-1] <= 1.0
