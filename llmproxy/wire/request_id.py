"""Request ids: which of the clients' own are kept, and how new ones are made."""

from __future__ import annotations

import re

_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_SANE = re.compile(rb"[A-Za-z0-9._:/+=@~-]{1,128}\Z")


def sane_request_id(value: bytes) -> str:
    """Give a client's own id if it can stand in logs and headers as it is, else nothing."""
    return value.decode("ascii") if _SANE.match(value) else ""


def new_id(time_s: float, random_bytes: bytes) -> str:
    """Make a UUID of version 7 (RFC 9562, section 5.7): sorted by time, unguessable.

    Some inference servers refuse an ``X-Request-ID`` that is no UUID.

    Args:
        time_s: Seconds since the epoch.
        random_bytes: Ten random bytes.
    """
    head = f"{int(time_s * 1000) & 0xFFFFFFFFFFFF:012x}"
    digits = random_bytes.hex()
    variant = _VARIANTS[digits[4]]
    return f"{head[:8]}-{head[8:]}-7{digits[1:4]}-{variant}{digits[5:8]}-{digits[8:]}"
