"""The values of a key's fields as databases, caches and services write them.

Bytes, text, numbers, dates, lists and JSON all come for the same thing. What cannot be read is
never taken for absent: each function raises, and its message never shows the value. Absent are None
and blank text (a Redis hash has no null). It knows nothing of records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from llmproxy.errors import MalformedRecord

_LARGEST_WHOLE: Final = 2**63 - 1
_LATEST_S: Final = 1e11
"""In the year 5138. A larger number is milliseconds, and taken for seconds would never come."""


def plain(value: Any) -> Any:
    """Give text for bytes, and None for what is absent.

    Raises:
        MalformedRecord: Bytes that are not UTF-8.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            value = bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedRecord("is not UTF-8") from None
    if isinstance(value, str) and not value.strip():
        return None
    return value


def text(value: Any) -> str:
    """Read a short text of one line; numbers and UUIDs have one, absent is empty.

    Raises:
        MalformedRecord: It has none.
    """
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, bool | float | list | tuple | Mapping):
        raise MalformedRecord(f"is {_kind(value)}; want text")
    shown = str(value).strip()
    if len(shown) > 256 or not shown.isprintable():
        raise MalformedRecord("is too long, or has control characters; want a short line of text")
    return shown


def whole(value: Any) -> int | None:
    """Read a whole number that is not negative.

    Raises:
        MalformedRecord: It is none.
    """
    value = plain(value)
    if value is None:
        return None
    if isinstance(value, str):
        stripped = value.strip()
        if stripped.isascii() and stripped.isdigit() and len(stripped) < 20:
            value = int(stripped)
    if isinstance(value, float | Decimal) and _is_finite(value) and value == int(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_WHOLE:
        raise MalformedRecord(f"is {_kind(value)}; want a whole number, not negative")
    return value


def moment(value: Any) -> float | None:
    """Read a time: ISO 8601, seconds since the epoch, or a date; without a zone it is UTC.

    Returns:
        Seconds since the epoch.

    Raises:
        MalformedRecord: It is none, or may be one or another.
    """
    value = plain(value)
    if value is None:
        return None
    try:
        if isinstance(value, str):
            stripped = value.strip()
            seconds = _number(stripped)
            if seconds is None:
                value = datetime.fromisoformat(stripped)
            elif len(stripped) == 8:
                raise MalformedRecord("may be a day or seconds; want YYYY-MM-DD")
            else:
                value = seconds
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day, tzinfo=UTC)
        if isinstance(value, datetime):
            zoned = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
            return zoned.timestamp()
    except (ValueError, OverflowError):
        raise MalformedRecord("is no time; want ISO 8601 or seconds since the epoch") from None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise MalformedRecord(f"is {_kind(value)}; want a time")
    if not _is_finite(value) or not -_LATEST_S < value < _LATEST_S:
        raise MalformedRecord("is too large a number; want seconds since the epoch")
    return float(value)


def _is_finite(value: float | Decimal) -> bool:
    """Say whether it can be reckoned with; what no float can hold counts as infinite."""
    try:
        return math.isfinite(value)
    except (ValueError, OverflowError):  # a signalling NaN, a huge number
        return False


def _number(stripped: str) -> float | None:
    """Give the value of a text that is a plain decimal number."""
    if stripped.isascii() and stripped.lstrip("-").replace(".", "", 1).isdigit():
        try:
            return float(stripped)
        except ValueError:
            return None
    return None


def names(value: Any) -> tuple[str, ...]:
    """Read a list of texts: a list, JSON, or text with commas; absent is empty.

    Raises:
        MalformedRecord: It is none, or one of them is no text.
    """
    value = plain(value)
    if value is None:
        return ()
    if isinstance(value, str):
        if value.lstrip().startswith(("[", "{")):
            value = json_value(value)
        else:
            value = [part for part in (part.strip() for part in value.split(",")) if part]
            if not value:
                raise MalformedRecord("has nothing between its commas; want a list of text")
    if not isinstance(value, list | tuple):
        raise MalformedRecord(f"is {_kind(value)}; want a list of text")
    items = tuple(map(plain, value))
    if not all(isinstance(item, str) for item in items):
        raise MalformedRecord("is a list with something else than text in it; want a list of text")
    return tuple(item.strip() for item in items)


def mapping(value: Any) -> Mapping[str, Any] | None:
    """Read a mapping, or a JSON object.

    Raises:
        MalformedRecord: It is none.
    """
    value = plain(value)
    if isinstance(value, str):
        value = json_value(value)
    if value is not None and not isinstance(value, Mapping):
        raise MalformedRecord(f"is {_kind(value)}; want a mapping")
    return value


def json_value(source: str | bytes) -> Any:
    """Decode JSON.

    Raises:
        MalformedRecord: It is none.
    """
    try:
        return msgspec.json.decode(source)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise MalformedRecord("is not JSON") from None


def _kind(value: Any) -> str:
    return f"a value of type {type(value).__name__}"
