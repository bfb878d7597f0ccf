"""The files of one part of the spool, oldest first, and places in them.

Each is named after the number of its first line, so that it is known without reading how many lines
lie between two places. It knows nothing of what stands in a line, and of who reads them.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import attrs

_NAME: Final = re.compile(r"(\d{16})\.log", re.ASCII)
_COUNTED_BYTES: Final = 1 << 20


@attrs.frozen(order=True)
class Position:
    """A place between two lines.

    Attributes:
        segment: The number of the file's first line.
        offset_bytes: Where in the file.
        ordinal: The number of the line that begins there; where lines were damaged it may be a
            little off, up to the next file.
    """

    segment: int = 0
    offset_bytes: int = 0
    ordinal: int = 0


@attrs.define
class Segment:
    """One file.

    Attributes:
        first: The number of its first line.
        path: Its name.
        size_bytes: Of its whole lines; what is behind them was never reported.
        lines: How many there are.
        written_s: When the last was written, seconds since the epoch.
    """

    first: int
    path: str
    size_bytes: int = 0
    lines: int = 0
    written_s: float = 0.0


class Segments:
    """The files of one directory.

    Args:
        directory: Where they are.

    Attributes:
        total_bytes: Of all files.

    Raises:
        OSError: They cannot be looked at.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._segments: list[Segment] = []
        for name in sorted(os.listdir(directory)):
            if found := _NAME.fullmatch(name):
                path = os.path.join(directory, name)
                try:
                    status = os.stat(path)
                except FileNotFoundError:
                    continue  # whose part it is deletes what is delivered
                segment = Segment(int(found[1]), path, status.st_size, 0, status.st_mtime)
                if self._segments:
                    self._segments[-1].lines = segment.first - self._segments[-1].first
                self._segments.append(segment)
        if self._segments:
            self._segments[-1].lines = _count_lines(self._segments[-1].path)
        self.total_bytes = sum(segment.size_bytes for segment in self._segments)

    def __repr__(self) -> str:
        return f"<Segments {len(self._segments)} files, {self.total_bytes} bytes>"

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def __len__(self) -> int:
        return len(self._segments)

    @property
    def start(self) -> Position:
        """The place of the oldest line."""
        if not self._segments:
            return Position()
        first = self._segments[0].first
        return Position(first, 0, first)

    @property
    def end(self) -> Position:
        """The place behind the last line."""
        if not self._segments:
            return Position()
        last = self._segments[-1]
        return Position(last.first, last.size_bytes, last.first + last.lines)

    @property
    def last(self) -> Segment | None:
        """The file that is written to."""
        return self._segments[-1] if self._segments else None

    def from_number(self, first: int) -> Segment | None:
        """Give the file whose first line has that number, or else the next one."""
        index = bisect_left(self._segments, first, key=lambda segment: segment.first)
        return self._segments[index] if index < len(self._segments) else None

    def nearest(self, position: Position) -> Position:
        """Give a place that is there: this one, or else the next that is."""
        segment = self.from_number(position.segment)
        if segment is None:
            return self.end
        if segment.first != position.segment:
            return Position(segment.first, 0, segment.first)
        if position.offset_bytes > segment.size_bytes:  # it was cut off
            return Position(segment.first, segment.size_bytes, segment.first + segment.lines)
        return position

    def bytes_after(self, position: Position) -> int:
        """Say how many bytes of lines lie behind a place."""
        after = sum(one.size_bytes for one in self._segments if one.first >= position.segment)
        here = self.from_number(position.segment)
        if here is None or here.first != position.segment:
            return after
        return max(0, after - position.offset_bytes)

    def next_path(self) -> tuple[int, str]:
        """Give the number and the name of the file behind the last one."""
        first = self.end.ordinal
        return first, os.path.join(self._directory, f"{first:016d}.log")

    def add(self, segment: Segment) -> None:
        """Take a file that was made behind the last one."""
        self._segments.append(segment)

    def grow(self, size_bytes: int, lines: int, now_s: float) -> None:
        """Note what was written to the last file."""
        last = self._segments[-1]
        last.size_bytes += size_bytes
        last.lines += lines
        last.written_s = now_s
        self.total_bytes += size_bytes

    def remove_oldest(self) -> None:
        """Delete the oldest file; never the last one, whose name keeps the count of lines.

        Raises:
            OSError: It cannot be deleted.
        """
        oldest = self._segments[0]
        assert oldest is not self._segments[-1]
        with suppress(FileNotFoundError):  # somebody made room by hand
            os.unlink(oldest.path)
        del self._segments[0]
        self.total_bytes -= oldest.size_bytes


def _count_lines(path: str) -> int:
    """Count the lines of a file, one that has no end among them."""
    lines, last = 0, b"\n"
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_COUNTED_BYTES):
            lines += piece.count(b"\n")
            last = piece[-1:]
    return lines + (last != b"\n")
