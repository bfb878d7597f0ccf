"""Where a reporter stands in one part of the spool: a file of two lines that are written in turn.

A crash in the middle of one leaves the other. Replacing the file instead would make the file system
write at once, which takes milliseconds, and needs room on the disk. The lines have the form of the
spool's. It knows nothing of what is delivered.
"""

from __future__ import annotations

import os
from typing import Final

import attrs
import msgspec

from llmproxy.usage.segments import Position
from llmproxy.wire.spool_line import decode_line, encode_line

_LINE_BYTES: Final = 512


class _PendingJson(msgspec.Struct):
    id: str
    segment: int
    offset_bytes: int
    ordinal: int
    first_try_s: float
    tries: int
    away_s: float = 0.0


class _CursorJson(msgspec.Struct):
    number: int
    segment: int
    offset_bytes: int
    ordinal: int
    pending: _PendingJson | None = None


_DECODER = msgspec.json.Decoder(_CursorJson)


@attrs.frozen
class Begun:
    """A delivery that was begun, and whose end is not known.

    Attributes:
        id: Its id.
        end: The place behind its last event.
        first_try_s: When it was tried first, seconds since the epoch.
        tries: How often it failed.
        away_s: How long since then nobody was there to try it.
    """

    id: str
    end: Position
    first_try_s: float
    tries: int
    away_s: float = 0.0


@attrs.frozen
class Place:
    """What the file says.

    Attributes:
        position: Everything before it is delivered.
        begun: The delivery that begins there; None: none was begun.
        written_s: When it was written, seconds since the epoch.
    """

    position: Position
    begun: Begun | None = None
    written_s: float = 0.0


class CursorDamaged(Exception):
    """The file is there, and says nothing that can be understood."""


class CursorFile:
    """The file.

    Args:
        path: Its name.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._number = 0  # of the line that was written last

    def load(self) -> Place | None:
        """Read it; None: there is none.

        Raises:
            CursorDamaged: It cannot be understood.
            OSError: It cannot be read.
        """
        try:
            with open(self._path, "rb") as file:
                content = file.read(2 * _LINE_BYTES)
        except FileNotFoundError:
            return None
        lines = [_decoded(content[:_LINE_BYTES]), _decoded(content[_LINE_BYTES:])]
        last = max((one for one in lines if one), key=lambda one: one[1].number, default=None)
        if last is None:
            raise CursorDamaged(self._path)
        written_s, found = last
        self._number = found.number
        begun = None
        if (pending := found.pending) is not None:
            end = Position(pending.segment, pending.offset_bytes, pending.ordinal)
            begun = Begun(pending.id, end, pending.first_try_s, pending.tries, pending.away_s)
        position = Position(found.segment, found.offset_bytes, found.ordinal)
        return Place(position, begun, written_s)

    def save(self, place: Place) -> None:
        """Write it; what it said before stays there until the next time.

        Raises:
            OSError: It cannot be written; it says what it said.
        """
        pending = None
        if (begun := place.begun) is not None:
            pending = _PendingJson(
                begun.id,
                **attrs.asdict(begun.end),
                first_try_s=begun.first_try_s,
                tries=begun.tries,
                away_s=begun.away_s,
            )
        number = self._number + 1
        event = msgspec.json.encode(
            _CursorJson(number, **attrs.asdict(place.position), pending=pending)
        )
        room_bytes = _LINE_BYTES - len(encode_line("cursor", place.written_s, event))
        line = encode_line("cursor", place.written_s, event + b" " * room_bytes)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.pwrite(descriptor, line, number % 2 * _LINE_BYTES) != len(line):
                raise OSError(f"{self._path} was not written whole")
        finally:
            os.close(descriptor)
        self._number = number


def _decoded(line: bytes) -> tuple[float, _CursorJson] | None:
    found = decode_line(line)
    if found is None:
        return None
    try:
        return found.time_s, _DECODER.decode(found.event)
    except msgspec.DecodeError:
        return None
