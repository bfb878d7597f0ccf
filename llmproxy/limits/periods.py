"""When the periods of quotas begin and end, in UTC.

Pure arithmetic on seconds since the epoch, which count no leap seconds (POSIX). It knows nothing of
what is counted in a period.
"""

from __future__ import annotations

from calendar import timegm
from datetime import UTC, datetime
from math import floor
from typing import Final

from llmproxy.entitlements import QuotaPeriod

_DAY_S: Final = 86_400
_WEEK_S: Final = 7 * _DAY_S
_FIRST_MONDAY_S: Final = 4 * _DAY_S  # 1970-01-05


def period_start_s(period: QuotaPeriod, now_s: float) -> int:
    """Give when the period began that an instant is in.

    Args:
        period: How long periods are.
        now_s: The instant, seconds since the epoch; the first one of a period belongs to it.

    Returns:
        Seconds since the epoch; 0 for ``never``.
    """
    if period == "never":
        return 0
    second = floor(now_s)
    if period == "daily":
        return second - second % _DAY_S
    if period == "weekly":
        return second - (second - _FIRST_MONDAY_S) % _WEEK_S
    day = datetime.fromtimestamp(second, UTC)
    return timegm((day.year, day.month, 1, 0, 0, 0))


def period_end_s(period: QuotaPeriod, now_s: float) -> int | None:
    """Give when the period ends that an instant is in: the first instant of the next.

    Args:
        period: How long periods are.
        now_s: The instant, seconds since the epoch.

    Returns:
        Seconds since the epoch; None for ``never``.
    """
    if period == "never":
        return None
    start_s = period_start_s(period, now_s)
    if period == "daily":
        return start_s + _DAY_S
    if period == "weekly":
        return start_s + _WEEK_S
    day = datetime.fromtimestamp(start_s, UTC)
    year, month = (day.year, day.month + 1) if day.month < 12 else (day.year + 1, 1)
    return timegm((year, month, 1, 0, 0, 0))
