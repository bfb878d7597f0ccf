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
    """

    id: str
    end: Position
    first_try_s: float
    tries: int


@attrs.frozen
class Place:
    """What the file says.

    Attributes:
        position: Everything before it is delivered.
        begun: The delivery that begins there; None: none was begun.
    """

    position: Position
    begun: Begun | None = None


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
        found = max((one for one in lines if one), key=lambda one: one.number, default=None)
        if found is None:
            raise CursorDamaged(self._path)
        self._number = found.number
        begun = None
        if (pending := found.pending) is not None:
            end = Position(pending.segment, pending.offset_bytes, pending.ordinal)
            begun = Begun(pending.id, end, pending.first_try_s, pending.tries)
        return Place(Position(found.segment, found.offset_bytes, found.ordinal), begun)

    def save(self, place: Place, now_s: float) -> None:
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
            )
        number = self._number + 1
        event = msgspec.json.encode(
            _CursorJson(number, **attrs.asdict(place.position), pending=pending)
        )
        room_bytes = _LINE_BYTES - len(encode_line("cursor", now_s, event))
        line = encode_line("cursor", now_s, event + b" " * room_bytes)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.pwrite(descriptor, line, number % 2 * _LINE_BYTES) != len(line):
                raise OSError(f"{self._path} was not written whole")
        finally:
            os.close(descriptor)
        self._number = number


def _decoded(line: bytes) -> _CursorJson | None:
    found = decode_line(line)
    if found is None:
        return None
    try:
        return _DECODER.decode(found.event)
    except msgspec.DecodeError:
        return None
