"""Durations, sizes, times and networks as a configuration file writes them.

Each function takes what stands in the file and gives the model's value, or raises `ValueError` with
what it wanted to see. It knows nothing of keys and files.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Final

from llmproxy.config.setting import Cidr, Duration, Percent, Size, Timestamp

WANTED_DURATION: Final = "a duration such as 500ms, 30s, 5m, 1h, 2d or a number of seconds"
WANTED_SIZE: Final = "a size such as 64MiB, 10MB, 32KiB, 1GiB or a number of bytes"
WANTED_CIDR: Final = "an IP network or address such as 10.0.0.0/8, fd00::/8 or 192.0.2.7"
WANTED_PERCENT: Final = "a percentage from 0% to 100%, such as 50%"
WANTED_TIMESTAMP: Final = "a date or time such as 2030-12-31 or 2030-12-31T18:00:00Z"

_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)")
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?%", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_LARGEST_SIZE = 2**63 - 1


def duration(value: object) -> Duration:
    """Read a duration.

    Returns:
        Seconds, never negative, always finite.

    Raises:
        ValueError: It is none.
    """
    seconds = _amount(value, _SECONDS)
    if seconds is None or seconds < 0 or not math.isfinite(seconds):
        raise ValueError(WANTED_DURATION)
    return Duration(seconds)


def size(value: object) -> Size:
    """Read a size.

    Returns:
        Bytes, never negative, at most 2**63 - 1.

    Raises:
        ValueError: It is none, or no whole number of bytes.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        size_bytes: int | None = value
    else:
        amount = _amount(value, _BYTES)
        whole = amount is not None and math.isfinite(amount) and amount.is_integer()
        size_bytes = int(amount) if amount is not None and whole else None
    if size_bytes is None or not 0 <= size_bytes <= _LARGEST_SIZE:
        raise ValueError(WANTED_SIZE)
    return Size(size_bytes)


def _amount(value: object, units: dict[str, float] | dict[str, int]) -> float | None:
    """Give a number, or a number with one of the units, in the base unit; None: neither."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    found = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if found is None or found[2] not in units:
        return None
    amount, unit = float(found[1]), units[found[2]]
    # 100 / 1000 is 0.1, but 100 * 0.001 is a little more.
    return amount / round(1 / unit) if unit < 1 else amount * unit


def percent(value: object) -> Percent:
    """Read a percentage; a number without its sign may be meant as a fraction, and is none.

    Returns:
        A number from 0 to 100.

    Raises:
        ValueError: It is none.
    """
    found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    read = None if found is None else float(found[1])
    if read is None or read > 100:
        raise ValueError(WANTED_PERCENT)
    return Percent(read)


def cidr(value: object) -> Cidr:
    """Read an IP network or address.

    Returns:
        It, as it was written.

    Raises:
        ValueError: It is none, or has bits set beyond its prefix.
    """
    if not isinstance(value, str):
        raise ValueError(WANTED_CIDR)
    try:
        # An address may carry a zone ("fe80::1%eth0"), which no network can hold.
        if "/" in value:
            ip_network(value, strict=False)
        elif "%" in value or not ip_address(value):
            raise ValueError(WANTED_CIDR)
    except ValueError:
        raise ValueError(WANTED_CIDR) from None
    network = ip_network(value, strict=False)
    if "/" in value and ip_address(value.partition("/")[0]) != network.network_address:
        raise ValueError(f"{network}: no bits may be set beyond the prefix")
    return Cidr(value)


def timestamp(value: object) -> Timestamp:
    """Read an ISO 8601 date or time; a date is its first moment, no zone means UTC.

    Returns:
        Seconds since the epoch.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, str):
        raise ValueError(WANTED_TIMESTAMP)
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        # Whoever shows it shows it in UTC, where the years from 1 to 9999 are all there is.
        return Timestamp(moment.astimezone(UTC).timestamp())
    except (ValueError, OverflowError):
        raise ValueError(WANTED_TIMESTAMP) from None
