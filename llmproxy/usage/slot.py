"""The spool directory is shared by processes: each has a numbered part of it to itself.

A lock on a file in the part says that it is taken; it ends with the process, however that ends. It
knows nothing of what stands in the files.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from errno import EBUSY
from itertools import count

from llmproxy.usage.damage import Damage
from llmproxy.usage.part import Part
from llmproxy.usage.segment_writer import is_still


class Slot(Part):
    """One part of the spool directory, held by this process until it is closed.

    Args:
        directory: The part.
        lock: The descriptor of its locked file.

    Attributes:
        damage: What of its files cannot be read.

    Raises:
        OSError: Its files cannot be looked at.
    """

    def __init__(self, directory: str, lock: int) -> None:
        self.damage = Damage(os.path.join(directory, "damaged"))
        super().__init__(directory, self.damage)
        self._lock = lock

    def restore(self) -> None:
        """Make it anew where somebody has deleted it, or its lock: it is still this process's.

        Raises:
            OSError: It cannot be made, or another process has taken it by now.
        """
        if is_still(self._lock, _lock_path(self.directory)):
            return
        os.makedirs(self.directory, 0o700, exist_ok=True)
        lock = _locked(self.directory)
        if lock is None:
            raise OSError(EBUSY, "another process has taken it", self.directory)
        os.close(self._lock)
        self._lock = lock
        for pin in self.pins:
            pin.keep_place()

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
    lock = _locked(directory)
    if lock is None:
        return None
    try:
        return Slot(directory, lock)
    except OSError:
        os.close(lock)
        raise


def _lock_path(directory: str) -> str:
    return os.path.join(directory, "lock")


def _locked(directory: str) -> int | None:
    """Lock a part; None: it is locked."""
    lock = os.open(_lock_path(directory), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return lock


def slot_directories(spool_dir: str) -> Iterator[str]:
    """Give all parts of a spool directory, in order.

    Raises:
        OSError: It cannot be read.
    """
    for name in sorted((name for name in os.listdir(spool_dir) if name.isdecimal()), key=int):
        yield os.path.join(spool_dir, name)
