"""Request ids: which of the clients' own are kept, and how new ones are made."""

from __future__ import annotations

import re

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
    number = int(time_s * 1000) << 80 | int.from_bytes(random_bytes, "big")
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
