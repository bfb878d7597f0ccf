"""The lines of the spool: one event each, with a checksum before it.

A line is eight hex digits of the CRC-32 of what follows the next space, the kind of event, the time
when it was written (milliseconds since the epoch), the event's JSON, and a line end:

    1f0c2a9b usage 1793880985123 {"id":"..."}

So it can be read with ``cut -d' ' -f4-``, and a reader that meets damage finds the next whole line.
The module knows nothing of files, and nothing of what stands in an event.
"""

from __future__ import annotations

import re
from typing import Final
from zlib import crc32

import attrs

_START: Final = re.compile(rb"[0-9a-f]{8} [a-z]+ [0-9]+ \{")
_MAX_SPLITS: Final = 16
"""How many places of a damaged line are tried for the start of another one."""


@attrs.frozen
class SpoolLine:
    """What a line says.

    Attributes:
        kind: The kind of event.
        time_s: When it was written, seconds since the epoch.
        event: Its JSON.
    """

    kind: str
    time_s: float
    event: bytes = attrs.field(repr=False)


def encode_line(kind: str, time_s: float, event: bytes) -> bytes:
    """Write a line.

    Args:
        kind: Lower case letters.
        time_s: When that is, seconds since the epoch.
        event: A JSON object without line ends.
    """
    checked = b"%s %d %s" % (kind.encode("ascii"), time_s * 1000, event)
    return b"%08x %s\n" % (crc32(checked), checked)


def decode_line(line: bytes) -> SpoolLine | None:
    """Read a line, with its end or without; None: it is damaged."""
    line = line.removesuffix(b"\n")
    if line[:9] != b"%08x " % crc32(line[9:]):
        return None
    fields = line[9:].split(b" ", 2)
    if len(fields) != 3:
        return None
    kind, time_ms, event = fields
    try:
        return SpoolLine(kind.decode("ascii"), int(time_ms) / 1000, event)
    except ValueError:  # no writer of ours made it
        return None


def next_start(damaged: bytes) -> int:
    """Find where another line begins in a damaged one, whose own end was lost; 0: nowhere.

    A place counts when what stands before it (but for the one byte of the line's end) is whole, or
    what stands behind it.
    """
    for number, found in enumerate(_START.finditer(damaged, 1)):
        if number == _MAX_SPLITS:
            break
        start = found.start()
        if decode_line(damaged[: start - 1]) or decode_line(damaged[start:]):
            return start
    return 0
