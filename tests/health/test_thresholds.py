"""Tests of `llmproxy.health.thresholds`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.health.thresholds import HealthThresholds, Result

RESULTS: dict[str, Result] = {"+": "passed", "-": "failed", "l": "loading"}


@pytest.mark.parametrize(
    ("results", "states"),
    [
        ("+++", "uuu"),
        ("---", "uud"),
        ("--+--", "uuuuu"),
        ("---+", "uudd"),
        ("---++", "uuddu"),
        ("---+-++", "uuddddu"),
        ("---+-+-+-", "uuddddddd"),
        ("l", "l"),
        ("l+", "lu"),
        ("ll-+", "lllu"),
        ("l---", "llld"),
        ("--l--", "uulll"),
        ("--l---", "uullld"),
        ("---l", "uudl"),
        ("---l+", "uudlu"),
        ("l+---", "luuud"),
        ("---+l", "uuddl"),
    ],
)
def test_states(results: str, states: str) -> None:
    """Three failures in a row are down, two passes in a row up; loading goes by its own rules."""
    thresholds = HealthThresholds(unhealthy_threshold=3, healthy_threshold=2)
    seen = ""
    for result in results:
        before = thresholds.health
        assert thresholds.observe(RESULTS[result]) is (thresholds.health != before)
        seen += thresholds.health[0]
    assert seen == states


@given(st.lists(st.sampled_from(sorted(RESULTS.values()))))
def test_thresholds_of_one(results: list[Result]) -> None:
    """With thresholds of one the last result decides."""
    thresholds = HealthThresholds(unhealthy_threshold=1, healthy_threshold=1)
    for result in results:
        thresholds.observe(result)
        assert thresholds.health == {"passed": "up", "failed": "down"}.get(result, result)
