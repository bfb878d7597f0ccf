"""The parts of the spool that other processes write, or wrote, looked at and not touched.

Their owners may write and delete meanwhile. It knows nothing of what is done with what is read.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from math import inf

import attrs

from llmproxy.usage.cursor_file import CursorDamaged, CursorFile
from llmproxy.usage.part import Part
from llmproxy.usage.segments import Position
from llmproxy.usage.slot import slot_directories


class _OfTheOwner:
    """Notes nothing: damage is for the owner to count, and a file that is gone was delivered."""

    def note(self, segment: int, offset_bytes: int, line: bytes) -> None:
        """Leave it to the owner."""

    def note_half(self, segment: int, offset_bytes: int, line: bytes) -> None:
        """Leave it to the owner."""


def other_parts(spool_dir: str, held: Collection[str]) -> Iterator[Part]:
    """Give the parts of a spool as they are now, but for some directories.

    Raises:
        OSError: They cannot be looked at.
    """
    for directory in slot_directories(spool_dir):
        if directory not in held:
            yield Part(directory, _OfTheOwner())


def place_in(part: Part, reporter: str) -> Position | None:
    """Say up to where a reporter has what stands in a part.

    Returns:
        The place; None: it has nothing there, or who writes the part will send it everything.

    Raises:
        OSError: It cannot be read.
    """
    try:
        place = CursorFile(part.cursor_path(reporter)).load()
    except CursorDamaged:
        return None
    return None if place is None else part.segments.nearest(place.position)


def waiting_strangers(part: Part, known: Collection[str]) -> Iterator[str]:
    """Give the reporters that do not have all of a part, but for those that are known.

    Raises:
        OSError: It cannot be read.
    """
    for name in sorted(os.listdir(part.directory)):
        reporter, suffix = os.path.splitext(name)
        if suffix == ".cursor" and reporter not in known:
            place = place_in(part, reporter)
            if place is None or place < part.segments.end:
                yield reporter


@attrs.frozen
class Backlog:
    """What a reporter does not have.

    Attributes:
        records: How many events.
        size_bytes: How long they are.
        since_s: When the oldest was written, seconds since the epoch; infinity: there is none.
    """

    records: int = 0
    size_bytes: int = 0
    since_s: float = inf

    def __add__(self, other: Backlog) -> Backlog:
        return Backlog(
            self.records + other.records,
            self.size_bytes + other.size_bytes,
            min(self.since_s, other.since_s),
        )


@attrs.frozen
class Elsewhere:
    """What some parts hold.

    Attributes:
        size_bytes: All of it, delivered or not.
        backlogs: What each reporter does not have, by name.
    """

    size_bytes: int
    backlogs: Mapping[str, Backlog]


def look_elsewhere(
    spool_dir: str, held: Collection[str], kinds: Mapping[str, Collection[str]]
) -> Elsewhere:
    """Look at all parts of a spool but some; this reads files, and is for a thread.

    Args:
        spool_dir: Where the parts are.
        held: The directories that are left out.
        kinds: The kinds of events that each reporter takes, by name.

    Raises:
        OSError: They cannot be read.
    """
    size_bytes = 0
    backlogs = dict.fromkeys(kinds, Backlog())
    for part in other_parts(spool_dir, held):
        size_bytes += part.segments.total_bytes
        for name in kinds:
            backlogs[name] += _backlog_in(part, name, kinds[name])
    return Elsewhere(size_bytes, backlogs)


def _backlog_in(part: Part, reporter: str, kinds: Collection[str]) -> Backlog:
    place, end = place_in(part, reporter), part.segments.end
    if place is None or not place < end:
        return Backlog()
    first = part.reader.read(place, end, kinds=kinds, limit=1)
    return Backlog(
        max(1, end.ordinal - place.ordinal),
        part.segments.bytes_after(place),
        first.oldest_s if first.events else inf,
    )
