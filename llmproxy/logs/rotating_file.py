"""Lines to a file that is set aside when it is full, by us or by somebody else.

The file is opened for appending, so that several processes can write it, and it can be truncated
under them. Of these processes only one sets a full file aside: each locks the file that it has
open, and looks whether it still bears the name.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Sequence
from typing import Final

from twisted.logger import Logger
from zope.interface import implementer

from llmproxy.interfaces import ILogSink
from llmproxy.logs.streams import encoded
from llmproxy.values import LogLine

_CLOSED: Final = -1


@implementer(ILogSink)
class RotatingFile:
    """Appends lines to a file.

    Args:
        path: Its name; older ones are called ``PATH.1``, ``PATH.2``, ..., oldest last.
        max_size_bytes: It is set aside before it grows beyond; 0: never.
        keep: How many older ones stay, at least one.

    Raises:
        OSError: It cannot be opened.
    """

    _log = Logger()

    def __init__(self, path: str, max_size_bytes: int = 0, keep: int = 1) -> None:
        self._path = path
        self._max_size_bytes = max_size_bytes
        self._keep = keep
        self._rotates = max_size_bytes > 0
        # Threads log as well; and the one that holds it may have to tell of this very file.
        self._lock = threading.RLock()
        self._file = self._open()

    def __repr__(self) -> str:
        return f"<RotatingFile {self._path}>"

    def write(self, lines: Sequence[LogLine]) -> None:
        """Append lines, all of them to the same file."""
        content = encoded("".join([line.text for line in lines]))
        with self._lock:
            if self._rotates:
                size_bytes = os.fstat(self._file).st_size
                if size_bytes and size_bytes + len(content) > self._max_size_bytes:
                    self._rotate()
            written = os.write(self._file, content)
            while written < len(content):  # a disk that is nearly full takes a part
                written += os.write(self._file, content[written:])

    def reopen(self, max_size_bytes: int, keep: int) -> None:
        """Open the file of that name, after somebody moved the old one away.

        Args:
            max_size_bytes: As the constructor's, from now on.
            keep: Likewise.

        Raises:
            OSError: It cannot be opened; the old one stays in use.
        """
        with self._lock:
            self._max_size_bytes, self._keep = max_size_bytes, keep
            self._begin_anew()

    def close(self) -> None:
        """Let go of the file; what is written after that raises `OSError`."""
        with self._lock:
            file, self._file = self._file, _CLOSED
            os.close(file)

    def _begin_anew(self) -> None:
        file = self._open()
        os.close(self._file)
        self._file = file
        self._rotates = self._max_size_bytes > 0

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def _rotate(self) -> None:
        """Set the file aside, unless another process did; a failure costs no line."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                if self._bears_the_name():
                    self._shift()
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._begin_anew()
        except OSError as error:
            # Said once, and first forgotten: this may be the very log that it is said in.
            self._rotates = False
            self._log.error(
                "{path} is full and cannot be set aside, so it grows on: {error}",
                path=self._path,
                error=error.strerror,
            )

    def _bears_the_name(self) -> bool:
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._file))

    def _shift(self) -> None:
        for number in range(self._keep, 1, -1):
            younger = f"{self._path}.{number - 1}"
            if os.path.exists(younger):
                os.replace(younger, f"{self._path}.{number}")
        os.replace(self._path, f"{self._path}.1")
