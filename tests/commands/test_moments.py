"""Tests of `llmproxy.commands.moments`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from llmproxy.commands.moments import (
    parse_day,
    parse_moment,
    parse_past_moment,
    shown_day,
    shown_moment,
    shown_second,
    shown_span,
)

NOW_S = datetime(2026, 11, 24, 4, 30, 5, 900_000, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-06-30", "2027-06-30T00:00:00Z"),
        ("2027-06-30T18:30:00+02:00", "2027-06-30T16:30:00Z"),
        ("2027-06-30 18:30", "2027-06-30T18:30:00Z"),
        ("now", "2026-11-24T04:30:05Z"),
        ("30m", "2026-11-24T05:00:05Z"),
        ("12h", "2026-11-24T16:30:05Z"),
        ("90d", "2027-02-22T04:30:05Z"),
        (" 2w ", "2026-12-08T04:30:05Z"),
    ],
)
def test_moments_are_read(text: str, moment: str) -> None:
    """A date is its first moment in UTC, a span is counted from now."""
    assert parse_moment(text, NOW_S) == moment


@pytest.mark.parametrize("text", ["", "soon", "90", "-1d", "2027-02-30", "999999w", "1y"])
def test_what_is_no_moment_is_told(text: str) -> None:
    """With what is wanted."""
    with pytest.raises(ValueError, match="want a date or time such as"):
        parse_moment(text, NOW_S)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2026-11-01", "2026-11-01"),
        ("today", "2026-11-24"),
        ("yesterday", "2026-11-23"),
        ("7d", "2026-11-17"),
        ("1w", "2026-11-17"),
    ],
)
def test_days_are_read(text: str, day: str) -> None:
    """A span is counted backwards."""
    assert parse_day(text, NOW_S) == day


@pytest.mark.parametrize("text", ["", "2026-11-31", "12h", "999999w", "2026-11-01T00:00:00Z"])
def test_what_is_no_day_is_told(text: str) -> None:
    """With what is wanted."""
    with pytest.raises(ValueError, match="want a day such as"):
        parse_day(text, NOW_S)


def test_moments_are_shown_in_utc() -> None:
    """To the minute, unless there are seconds; a table shows the day."""
    there = timezone(timedelta(hours=2))
    assert shown_moment(datetime(2027, 6, 30, 1, 0, tzinfo=there)) == "2027-06-29 23:00 UTC"
    assert shown_moment(datetime(2027, 6, 30, 1, 0, 7, tzinfo=UTC)) == "2027-06-30 01:00:07 UTC"
    assert shown_day(datetime(2027, 6, 30, 1, 0, tzinfo=there)) == "2027-06-29"
    assert shown_day(None) == ""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("now", "2026-11-27T12:00:00Z"),
        ("12h", "2026-11-27T00:00:00Z"),
        ("30m", "2026-11-27T11:30:00Z"),
        ("2026-11-01", "2026-11-01T00:00:00Z"),
        ("2026-11-01T18:00:00+01:00", "2026-11-01T17:00:00Z"),
    ],
)
def test_moments_of_the_past(text: str, wanted: str) -> None:
    """Spans are counted back."""
    now_s = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()
    assert parse_past_moment(text, now_s) == wanted


@pytest.mark.parametrize("text", ["", "soon", "12", "999999w", "-1h"])
def test_what_is_no_moment_of_the_past(text: str) -> None:
    """It says what is wanted."""
    with pytest.raises(ValueError, match=r"want a date or time such as .*\(ago\)"):
        parse_past_moment(text, 1_790_000_000.0)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0s"),
        (59.94, "59.9s"),
        (60, "1m"),
        (3599, "59m"),
        (3660, "1h01m"),
        (90_000, "1d01h"),
    ],
)
def test_spans_are_short(seconds: float, shown: str) -> None:
    """To a sensible unit, rounded down from a minute on."""
    assert shown_span(seconds) == shown


def test_seconds() -> None:
    """In UTC, whatever the zone."""
    moment = datetime.fromisoformat("2026-11-27T13:00:05.9+01:00")
    assert shown_second(moment) == "2026-11-27 12:00:05"
