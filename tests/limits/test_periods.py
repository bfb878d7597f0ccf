"""Tests of ``llmproxy.limits.periods``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.entitlements import QuotaPeriod
from llmproxy.limits.periods import period_end_s, period_start_s

_PERIODS: list[QuotaPeriod] = ["daily", "weekly", "monthly"]


def at(text: str) -> float:
    """Give an instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("period", "now", "start", "end"),
    [
        ("daily", "2024-02-29T00:00:00", "2024-02-29", "2024-03-01"),
        ("daily", "2024-02-29T23:59:59.999999", "2024-02-29", "2024-03-01"),
        ("daily", "2023-02-28T12:00:00", "2023-02-28", "2023-03-01"),
        ("weekly", "2024-03-03T23:59:59.999", "2024-02-26", "2024-03-04"),
        ("weekly", "2024-03-04T00:00:00", "2024-03-04", "2024-03-11"),
        ("weekly", "2025-01-01T00:00:00", "2024-12-30", "2025-01-06"),
        ("weekly", "1970-01-01T00:00:00", "1969-12-29", "1970-01-05"),
        ("monthly", "2024-02-29T23:59:59.999", "2024-02-01", "2024-03-01"),
        ("monthly", "2024-12-31T23:59:59", "2024-12-01", "2025-01-01"),
        ("monthly", "2025-01-01T00:00:00", "2025-01-01", "2025-02-01"),
        ("monthly", "2100-02-28T23:59:59", "2100-02-01", "2100-03-01"),
    ],
)
def test_boundaries(period: QuotaPeriod, now: str, start: str, end: str) -> None:
    """A period has its first instant, and not its last."""
    assert period_start_s(period, at(now)) == at(start)
    assert period_end_s(period, at(now)) == at(end)


def test_never() -> None:
    """One period without an end, which began with the epoch."""
    assert period_start_s("never", 1e9) == 0
    assert period_end_s("never", 1e9) is None


@given(
    period=st.sampled_from(_PERIODS),
    now_s=st.floats(min_value=0, max_value=at("2200-01-01T00:00:00")),
)
def test_periods_follow_each_other(period: QuotaPeriod, now_s: float) -> None:
    """Every instant is in exactly one, whose boundaries are what the calendar says."""
    start_s, end_s = period_start_s(period, now_s), period_end_s(period, now_s)
    assert end_s is not None
    assert start_s <= now_s < end_s
    assert period_start_s(period, start_s) == start_s
    assert period_start_s(period, end_s) == end_s
    assert period_start_s(period, end_s - 0.001) == start_s
    start, end = (datetime.fromtimestamp(edge_s, UTC) for edge_s in (start_s, end_s))
    for edge in (start, end):
        assert (edge.hour, edge.minute, edge.second) == (0, 0, 0)
    if period == "daily":
        assert end - start == timedelta(days=1)
    elif period == "weekly":
        assert start.weekday() == 0
        assert end - start == timedelta(days=7)
    else:
        assert start.day == end.day == 1
        assert timedelta(days=28) <= end - start <= timedelta(days=31)
