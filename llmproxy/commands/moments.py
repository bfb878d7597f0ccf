"""Times and days as people write and read them at the command line; always in UTC.

Pure: what the time is now comes in as an argument.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final

from llmproxy.config.units import timestamp

WANTED_MOMENT: Final = "a date or time such as 2030-12-31 or 2030-12-31T18:00:00Z, or 12h, 90d, 2w"
WANTED_PAST_MOMENT: Final = (
    "a date or time such as 2030-12-31 or 2030-12-31T18:00:00Z, or 30m, 12h, 7d (ago)"
)
WANTED_DAY: Final = "a day such as 2030-12-31, today, yesterday, or 7d (seven days ago)"

_SPAN = re.compile(r"([0-9]{1,6})([mhdw])", re.ASCII)
_UNITS_S = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
_NAMED_DAYS = {"today": 0, "yesterday": 1}


def parse_moment(text: str, now_s: float) -> str:
    """Read a moment: a date is its first moment, a span is counted from now.

    Args:
        text: What was written.
        now_s: Seconds since the epoch.

    Returns:
        It as RFC 3339, to the second.

    Raises:
        ValueError: It is none; says what is wanted.
    """
    return _moment(text, now_s, 1, WANTED_MOMENT)


def parse_past_moment(text: str, now_s: float) -> str:
    """Read a moment of the past: as `parse_moment`, but a span is counted back from now."""
    return _moment(text, now_s, -1, WANTED_PAST_MOMENT)


def _moment(text: str, now_s: float, direction: int, wanted: str) -> str:
    text = text.strip()
    try:
        if text == "now":
            return rfc3339(now_s)
        if found := _SPAN.fullmatch(text):
            return rfc3339(now_s + direction * int(found[1]) * _UNITS_S[found[2]])
        return rfc3339(timestamp(text))
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"want {wanted}") from None


def rfc3339(moment_s: float) -> str:
    """Write a moment as RFC 3339, to the second."""
    return datetime.fromtimestamp(int(moment_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_day(text: str, now_s: float) -> str:
    """Read a day.

    Args:
        text: What was written.
        now_s: Seconds since the epoch.

    Returns:
        It as ``YYYY-MM-DD``.

    Raises:
        ValueError: It is none; says what is wanted.
    """
    text = text.strip()
    today = datetime.fromtimestamp(now_s, UTC).date()
    try:
        if text in _NAMED_DAYS:
            return (today - timedelta(days=_NAMED_DAYS[text])).isoformat()
        if (found := _SPAN.fullmatch(text)) and found[2] in "dw":
            return (today - timedelta(seconds=int(found[1]) * _UNITS_S[found[2]])).isoformat()
        return date.fromisoformat(text).isoformat()
    except (ValueError, OverflowError):
        raise ValueError(f"want {WANTED_DAY}") from None


def shown_day(moment: datetime | None) -> str:
    """Show the day of a moment; nothing when there is none."""
    return "" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d")


def shown_second(moment: datetime) -> str:
    """Show a moment to the second, for columns of them."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def shown_span(seconds: float) -> str:
    """Show how long something lasts: ``0.8s``, ``12m``, ``3h05m``, ``4d02h``."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h"


def shown_moment(moment: datetime) -> str:
    """Show a moment to the minute, or to the second when it is not a whole minute."""
    form = "%Y-%m-%d %H:%M:%S UTC" if moment.second else "%Y-%m-%d %H:%M UTC"
    return moment.astimezone(UTC).strftime(form)
