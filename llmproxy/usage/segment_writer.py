"""Lines are appended to the spool's files, whole or not at all.

It knows nothing of what stands in a line, and of what follows when one cannot be written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from llmproxy.usage.segments import Segment, Segments

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class SegmentWriter:
    """Appends to the last file, and begins another when it is full.

    A file that was closed is not written again, but for an empty one: what a crash left at its end
    stays there, and readers pass over it; nor is one that somebody has deleted or moved away. What
    was appended is with the system: it survives the process; `sync` forces it to the disk.

    Args:
        segments: The files.
        segment_bytes: From which size on another file is begun.
        write: Writes to a descriptor and says how much; for tests.
        restore: Called before a file is opened: the directory may be gone.

    Attributes:
        files_made: How many files it has begun.
    """

    def __init__(
        self,
        segments: Segments,
        *,
        segment_bytes: int,
        write: Callable[[int, bytes], int] = os.write,
        restore: Callable[[], None] = lambda: None,
    ) -> None:
        self._segments = segments
        self._restore = restore
        self._segment_bytes = segment_bytes
        self._write = write
        self._descriptor: int | None = None
        self._full: list[int] = []  # not yet forced to the disk
        self.files_made = 0

    def append(self, block: bytes, lines: int, now_s: float) -> None:
        """Append lines.

        Args:
            block: Whole lines.
            lines: How many.
            now_s: When that is, seconds since the epoch.

        Raises:
            OSError: It could not be written; nothing of it will be read.
        """
        descriptor = self._open()
        written = 0
        try:
            while written < len(block):  # one turn, but for a disk that fills up just now
                written += self._write(descriptor, block[written:] if written else block)
        except OSError:
            if written:
                self._take_back(descriptor)
            raise
        self._segments.grow(written, lines, now_s)

    def unsynced(self) -> list[int]:
        """Give the descriptors that are not to be closed while they are forced to the disk."""
        return [*self._full, *(() if self._descriptor is None else (self._descriptor,))]

    def synced(self, descriptors: list[int]) -> None:
        """Close those of the descriptors that are not written to any more."""
        for descriptor in descriptors:
            if descriptor in self._full:
                self._full.remove(descriptor)
                os.close(descriptor)

    def close(self) -> None:
        """Close all files."""
        for descriptor in self.unsynced():
            os.close(descriptor)
        self._full.clear()
        self._descriptor = None

    def _open(self) -> int:
        last = self._segments.last
        if self._descriptor is not None and last is not None:
            if not is_still(self._descriptor, last.path):
                self._full.append(self._descriptor)
                self._descriptor = None
            elif last.size_bytes < self._segment_bytes:
                return self._descriptor
        if self._descriptor is not None:
            try:
                return self._begin()
            except OSError:
                return self._descriptor  # there may be room in it
        self._restore()
        if last is not None and not last.size_bytes:
            self._descriptor = os.open(last.path, _FLAGS)
            return self._descriptor
        return self._begin()

    def _begin(self) -> int:
        first, path = self._segments.next_path()
        descriptor = os.open(path, _FLAGS | os.O_EXCL, 0o600)
        if self._descriptor is not None:
            self._full.append(self._descriptor)
        self._descriptor = descriptor
        self._segments.add(Segment(first, path))
        self.files_made += 1
        return descriptor

    def _take_back(self, descriptor: int) -> None:
        """Cut off half a line; where that fails, leave it at the end of a file that is done."""
        last = self._segments.last
        assert last is not None
        try:
            os.ftruncate(descriptor, last.size_bytes)
        except OSError:
            self._full.append(descriptor)
            self._descriptor = None
            with suppress(OSError):
                self._begin()


def is_still(descriptor: int, path: str) -> bool:
    """Say whether an open file is still the one of that name, as far as that can be seen."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
