"""One part of the spool directory, as whoever reads it sees it.

It knows nothing of who writes it, and of what stands in the files.
"""

from __future__ import annotations

import os
from typing import Protocol

from llmproxy.usage.segment_reader import DamageNotes, SegmentReader
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

    def keep_place(self) -> None:
        """Write its place again, if it keeps one in the part: the file of it was deleted."""


class Part:
    """The files of one part, as they are when this is made.

    Args:
        directory: The part.
        damage: Is told what of them cannot be read.

    Attributes:
        directory: The part.
        segments: Its files of events.
        reader: Reads them.
        pins: Who has still to read something.

    Raises:
        OSError: Its files cannot be looked at.
    """

    def __init__(self, directory: str, damage: DamageNotes) -> None:
        self.directory = directory
        self.segments = Segments(directory)
        self.reader = SegmentReader(self.segments, damage)
        self.pins: list[Pin] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {os.path.basename(self.directory)}: {self.segments!r}>"

    def cursor_path(self, reporter: str) -> str:
        """Give the name of the file of a reporter's place."""
        return os.path.join(self.directory, f"{reporter}.cursor")
