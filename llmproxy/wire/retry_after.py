"""``Retry-After``: how long who answers asks to be left alone (RFC 9110, section 10.2.3).

It is read without trust: what cannot be read says nothing.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

_LONGEST_DIGITS = 9


def read_retry_after(value: str, now_s: float) -> float | None:
    """Read a field's value: seconds, or a date.

    Args:
        value: The value.
        now_s: The time, seconds since the epoch.

    Returns:
        Seconds from now, at least 0; None when it is neither.
    """
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return float(value[:_LONGEST_DIGITS])
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:  # "-0000": of no place
            date = date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - now_s)
    except (ValueError, IndexError, OverflowError):
        return None
