"""The spool directory is shared by processes: each has a numbered part of it to itself.

A lock on a file in the part says that it is taken; it ends with the process, however that ends. It
knows nothing of what stands in the files.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from itertools import count
from typing import Protocol

from llmproxy.usage.damage import Damage
from llmproxy.usage.segment_reader import SegmentReader
from llmproxy.usage.segments import Position, Segments


class Pin(Protocol):
    """Somebody who has still to read what is behind a place.

    Attributes:
        position: The place.
    """

    position: Position

    @property
    def is_given_up(self) -> bool:
        """Whether it may lose what it has not read, before anybody else loses anything."""

    def skip_to(self, position: Position) -> None:
        """Go on at a later place: what was before it is deleted."""


class Slot:
    """One part of the spool directory, held by this process until it is closed.

    Args:
        directory: The part.
        lock: The descriptor of its locked file.

    Attributes:
        directory: The part.
        segments: Its files of events.
        damage: What of them cannot be read.
        reader: Reads them.
        pins: Who has still to read something.

    Raises:
        OSError: Its files cannot be looked at.
    """

    def __init__(self, directory: str, lock: int) -> None:
        self.directory = directory
        self._lock = lock
        self.segments = Segments(directory)
        self.damage = Damage(os.path.join(directory, "damaged"))
        self.reader = SegmentReader(self.segments, self.damage)
        self.pins: list[Pin] = []

    def __repr__(self) -> str:
        return f"<Slot {os.path.basename(self.directory)}: {self.segments!r}>"

    def cursor_path(self, reporter: str) -> str:
        """Give the name of the file of a reporter's place."""
        return os.path.join(self.directory, f"{reporter}.cursor")

    def close(self) -> None:
        """Let others have it."""
        os.close(self._lock)


def take_slot(spool_dir: str) -> Slot:
    """Take the first part that nobody has; make it when there is none.

    Raises:
        OSError: It cannot be made or used.
    """
    os.makedirs(spool_dir, 0o700, exist_ok=True)
    for number in count():  # pragma: no branch - it ends when it finds one
        directory = os.path.join(spool_dir, str(number))
        os.makedirs(directory, 0o700, exist_ok=True)
        if slot := try_slot(directory):
            return slot
    raise AssertionError  # count() has no end


def try_slot(directory: str) -> Slot | None:
    """Take that part of the spool; None: another process has it, or this one.

    Raises:
        OSError: It cannot be used.
    """
    lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Slot(directory, lock)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError:
        os.close(lock)
        raise


def slot_directories(spool_dir: str) -> Iterator[str]:
    """Give all parts of a spool directory, in order.

    Raises:
        OSError: It cannot be read.
    """
    for name in sorted((name for name in os.listdir(spool_dir) if name.isdecimal()), key=int):
        yield os.path.join(spool_dir, name)
