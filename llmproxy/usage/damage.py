"""What of the spool cannot be read is counted, and kept aside for whoever wants to look at it."""

from __future__ import annotations

import os
from typing import Final

from twisted.logger import Logger

KEPT_BYTES: Final = 1 << 20
"""How much damage is kept aside; the rest is only counted."""

_MAX_NOTED: Final = 10_000
"""Places of damage that are remembered, so that no second reader counts them again."""


class Damage:
    """The damaged lines of one part of the spool.

    Args:
        path: The file that they are appended to.

    Attributes:
        records: How many there were since the start; half records are none of them.
    """

    _log = Logger()

    def __init__(self, path: str) -> None:
        self._path = path
        self._noted: set[tuple[int, int]] = set()
        self._told: set[int] = set()  # the files whose damage was logged
        self.records = 0

    def __repr__(self) -> str:
        return f"<Damage {self.records} records>"

    def note(self, segment: int, offset_bytes: int, line: bytes) -> None:
        """Count a damaged line; that of a place that is known is counted no more."""
        if not self._is_new(segment, offset_bytes):
            return
        self.records += 1
        if segment not in self._told:
            self._told.add(segment)
            self._log.error(
                "the spool is damaged in file {segment} at byte {offset}, and perhaps further on: "
                "what is damaged is not delivered, but kept in {path}",
                segment=segment,
                offset=offset_bytes,
                path=self._path,
            )
        self._keep(line)

    def note_half(self, segment: int, offset_bytes: int, line: bytes) -> None:
        """Keep aside the half of a record that its process did not live to write.

        Nobody is waiting for it: an answer's end is shown when its whole record is written.
        """
        if not self._is_new(segment, offset_bytes):
            return
        self._log.warn(
            "the last record in file {segment} of the spool, at byte {offset}, was cut off by the "
            "end of its process; what there is of it is kept in {path}",
            segment=segment,
            offset=offset_bytes,
            path=self._path,
        )
        self._keep(line)

    def _is_new(self, segment: int, offset_bytes: int) -> bool:
        place = (segment, offset_bytes)
        if place in self._noted:
            return False
        if len(self._noted) < _MAX_NOTED:
            self._noted.add(place)
        return True

    def _keep(self, line: bytes) -> None:
        try:
            self._append(line)
        except OSError as error:
            self._log.error("a damaged record cannot be kept: {error}", error=error)

    def _append(self, line: bytes) -> None:
        descriptor = os.open(
            self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            if os.fstat(descriptor).st_size + len(line) < KEPT_BYTES:
                os.write(descriptor, line if line.endswith(b"\n") else line + b"\n")
        finally:
            os.close(descriptor)
