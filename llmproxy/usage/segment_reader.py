"""Events are read from the spool's files, a batch at a time.

Memory is bounded: by the batch, by the longest line, and by how much is looked at in one go. It
knows nothing of who the events are for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from io import BufferedReader
from typing import Final, Protocol

import attrs

from llmproxy.usage.segments import Position, Segment, Segments
from llmproxy.wire.spool_line import SpoolLine, decode_line, next_start

BATCH_BYTES: Final = 1 << 20
"""How long all events of a batch may be; the first may be longer."""

SCAN_BYTES: Final = 1 << 20
"""How much is looked at in one go."""

LINE_BYTES: Final = 4 << 20
"""What is longer is no line that was ever written here."""


class DamageNotes(Protocol):
    """Is told what cannot be read; see `Damage`."""

    def note(self, segment: int, offset_bytes: int, line: bytes) -> None:
        """Note a damaged line."""

    def note_half(self, segment: int, offset_bytes: int, line: bytes) -> None:
        """Note half a line at the end of a file."""


@attrs.frozen
class Reading:
    """A run of events of one kind.

    Attributes:
        kind: Their kind; empty: there were none.
        events: Their JSON, oldest first.
        oldest_s: When the first was written, seconds since the epoch.
        end: The place behind the last one, and behind all that was passed over.
    """

    kind: str
    events: tuple[bytes, ...] = attrs.field(repr=False)
    oldest_s: float
    end: Position


class SegmentReader:
    """Reads from the files of one part of the spool.

    Args:
        segments: The files.
        damage: Is told what is damaged.
    """

    def __init__(self, segments: Segments, damage: DamageNotes) -> None:
        self._segments = segments
        self._damage = damage

    def read(
        self,
        start: Position,
        stop: Position,
        *,
        kinds: Collection[str],
        limit: int,
        wanted: Callable[[SpoolLine], bool] = lambda _: True,
    ) -> Reading:
        """Read a run of events of one kind; other kinds end it, or are passed over.

        Args:
            start: Where to begin.
            stop: Where to stop at the latest.
            kinds: Which kinds to read.
            limit: How many events, at most.
            wanted: Says of an event whether to read it.

        Returns:
            The run; without events where there were none in reach.

        Raises:
            OSError: A file cannot be read now.
        """
        run = _Run(kinds, limit, wanted)
        position = start
        scanned_bytes = 0
        while position < stop and not run.is_over and scanned_bytes < SCAN_BYTES:
            segment = self._segments.from_number(position.segment)
            if segment is None:
                break
            position = self._segments.nearest(position)
            end_bytes = segment.size_bytes
            if segment.first == stop.segment:
                end_bytes = min(end_bytes, stop.offset_bytes)
            if position.offset_bytes >= end_bytes:
                following = self._segments.from_number(segment.first + 1)
                if following is None:
                    break
                position = Position(following.first, 0, following.first)
                continue
            before_bytes = position.offset_bytes
            position = self._read_file(segment, position, end_bytes, run)
            scanned_bytes += position.offset_bytes - before_bytes
        return Reading(run.kind, tuple(run.events), run.oldest_s, position)

    def _read_file(
        self, segment: Segment, position: Position, end_bytes: int, run: _Run
    ) -> Position:
        offset, ordinal = position.offset_bytes, position.ordinal
        limit_bytes = offset + SCAN_BYTES
        try:
            file = open(segment.path, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            self._damage.note(segment.first, offset, b"(the file is gone)")
            return Position(segment.first, end_bytes, ordinal)
        with file:
            file.seek(offset)
            while offset < min(end_bytes, limit_bytes) and not run.is_over:
                raw = file.readline(min(LINE_BYTES, end_bytes - offset))
                if not raw:  # somebody cut the file
                    self._damage.note(segment.first, offset, b"(the file was cut)")
                    offset = end_bytes
                    break
                length = len(raw)
                has_end = raw.endswith(b"\n")
                line = decode_line(raw) or (None if has_end else decode_line(raw[:-1]))
                if line is None:
                    if start := next_start(raw):
                        # The end of a line was damaged: another one begins behind it.
                        length = start
                        line = decode_line(raw[: start - 1])
                        file.seek(offset + start)
                    elif not has_end:
                        length += _skip_line(file, end_bytes - offset - length)
                if line is None:
                    # With the file's last byte a write may have ended, and its process with it.
                    is_last = offset + length == segment.size_bytes and len(raw) < LINE_BYTES
                    is_half = is_last and not has_end and len(raw) == length
                    note = self._damage.note_half if is_half else self._damage.note
                    note(segment.first, offset, raw[:length])
                elif not run.take(line):
                    break
                offset += length
                ordinal += 1
        return Position(segment.first, offset, ordinal)


@attrs.define
class _Run:
    """What was read so far."""

    kinds: Collection[str]
    limit: int
    wanted: Callable[[SpoolLine], bool]
    kind: str = ""
    events: list[bytes] = attrs.field(factory=list)
    oldest_s: float = 0.0
    size_bytes: int = 0
    is_over: bool = False

    def take(self, line: SpoolLine) -> bool:
        """Take an event, or pass it over; False: it belongs to the next run."""
        if line.kind not in self.kinds or not self.wanted(line):
            return True
        if not self.events:
            self.kind, self.oldest_s = line.kind, line.time_s
        elif line.kind != self.kind or self.size_bytes + len(line.event) > BATCH_BYTES:
            self.is_over = True
            return False
        self.events.append(line.event)
        self.size_bytes += len(line.event)
        self.is_over = len(self.events) >= self.limit
        return True


def _skip_line(file: BufferedReader, room_bytes: int) -> int:
    """Go on to the end of a line; say how far that was."""
    skipped = 0
    while skipped < room_bytes:
        piece = file.readline(min(LINE_BYTES, room_bytes - skipped))
        skipped += len(piece)
        if not piece or piece.endswith(b"\n"):
            break
    return skipped
