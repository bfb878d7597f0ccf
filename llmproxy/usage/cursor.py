"""What is new for a reporter: its place in one part of the spool, and the batch that is next.

It knows nothing of how a batch is delivered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import attrs
from twisted.logger import Logger

from llmproxy.deliveries import Batch, EventKind
from llmproxy.usage.cursor_file import Begun, CursorDamaged, CursorFile, Place
from llmproxy.usage.segments import Position
from llmproxy.usage.slot import Slot
from llmproxy.usage.sources import Pending


class Cursor:
    """What is new for a reporter in one part of the spool; its place outlasts the process.

    A reporter without a place there begins at the present end. One whose place cannot be read
    begins with the oldest that there is: rather twice than never.

    Args:
        slot: The part of the spool.
        reporter: Its name.
        kinds: The kinds of events that it takes.
        now: Seconds since the epoch.
        new_id: Makes ids of batches.
        is_given_up: Says whether it may lose what it has not read.
        skipped: Is told how many events were deleted before they were delivered.

    Attributes:
        position: Everything before it is delivered.

    Raises:
        OSError: Its place cannot be read or written.
    """

    _log = Logger()

    def __init__(
        self,
        slot: Slot,
        reporter: str,
        kinds: frozenset[str],
        *,
        now: Callable[[], float],
        new_id: Callable[[], str],
        is_given_up: Callable[[], bool] = lambda: False,
        skipped: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._slot = slot
        self._reporter = reporter
        self._kinds = kinds
        self._now = now
        self._new_id = new_id
        self._is_given_up = is_given_up
        self._skipped = skipped
        self._file = CursorFile(slot.cursor_path(reporter))
        self._end = Position()  # of the batch that was begun
        self._pending: Pending | None = None
        self._begun: Begun | None = None
        self._oldest_s: float | None = None
        self._noticed_s: float | None = None  # when it was seen that there is something
        self._is_unsaved = False
        self.position = slot.segments.end
        try:
            place = self._file.load()
        except CursorDamaged:
            self.position = slot.segments.start
            self._log.error(
                "the place of reporter {reporter} in {slot} is damaged: it is sent again all "
                "that is there",
                reporter=reporter,
                slot=slot.directory,
            )
            place = None
        if place is not None:
            self._resume(place)
        if place is None or place.position != self.position:
            self._save()
        slot.pins.append(self)

    def __repr__(self) -> str:
        return f"<Cursor {self._reporter} {self.position!r} backlog={self.backlog_records}>"

    @property
    def is_given_up(self) -> bool:
        """Whether it may lose what it has not read; see `Pin`."""
        return self._is_given_up()

    @property
    def backlog_records(self) -> int:
        """How many events are not delivered."""
        end = self._slot.segments.end
        return max(1, end.ordinal - self.position.ordinal) if self.position < end else 0

    @property
    def backlog_bytes(self) -> int:
        """How long they are."""
        return self._slot.segments.bytes_after(self.position)

    @property
    def oldest_s(self) -> float:
        """How long the oldest of them has been waiting; at least, where it cannot be read."""
        since_s = self._noticed_s if self._oldest_s is None else self._oldest_s
        return 0.0 if since_s is None else max(0.0, self._now() - since_s)

    def is_due(self, limit: int, interval_s: float) -> bool:
        """Say whether there is a batch to deliver; see `BatchSource`."""
        if self._noticed_s is None and self.backlog_records:
            self._noticed_s = self._now()
        if self._pending is not None or self._begun is not None:
            return True
        end = self._slot.segments.end
        if not self.position < end:
            return False
        if self._oldest_s is None:
            first = self._slot.reader.read(self.position, end, kinds=self._kinds, limit=1)
            if not first.events:  # nothing for this one; the file says so with the next batch
                self.position = first.end
                self._noticed_s = None
                self._is_unsaved = True
                return False
            self._oldest_s = first.oldest_s
        waited_s = self._now() - self._oldest_s
        # A time that lies ahead was written before the clock was set back.
        return self.backlog_records >= limit or not 0 <= waited_s < interval_s

    def take(self, limit: int) -> Pending | None:
        """Give the batch that is next; see `BatchSource`."""
        if self._pending is None:
            begun = self._begun
            end = self._slot.segments.end if begun is None else begun.end
            if begun is not None:
                limit = end.ordinal - self.position.ordinal + 1  # wherever its end is
            reading = self._slot.reader.read(self.position, end, kinds=self._kinds, limit=limit)
            if not reading.events:
                self.position = reading.end if begun is None else max(reading.end, begun.end)
                self._begun = self._oldest_s = self._noticed_s = None
                self._is_unsaved = True
                return None
            if begun is None:
                begun = Begun(self._new_id(), reading.end, self._now(), 0)
            self._begun = begun
            self._end = reading.end
            self._oldest_s = reading.oldest_s
            batch = Batch(begun.id, cast(EventKind, reading.kind), reading.events)
            self._pending = Pending(batch, begun.first_try_s, begun.tries, begun.away_s)
            self._save()
        return self._pending

    def failed(self) -> None:
        """Note a failure; see `BatchSource`."""
        assert self._pending is not None
        self._pending.tries += 1
        if self._begun is not None:
            self._begun = attrs.evolve(self._begun, tries=self._pending.tries)
            self._save()

    def done(self) -> None:
        """Go on; see `BatchSource`."""
        self.position = max(self._end, self.position)
        self._pending = self._begun = self._oldest_s = self._noticed_s = None
        self._save()

    def skip_to(self, position: Position) -> None:
        """Go on at a later place, for what is before it is deleted; see `Pin`.

        A batch that is under way is in memory, and stays so until it is delivered or given up; the
        next process would not find it, so it counts as skipped.
        """
        if position <= self.position:
            return
        skipped = max(0, position.ordinal - self.position.ordinal)
        if skipped:  # and not only from the end of what is deleted to what is next
            self._skipped(skipped)
            self._log.error(
                "{skipped} records are deleted that reporter {reporter} does not have",
                skipped=skipped,
                reporter=self._reporter,
            )
        self.position = position
        self._begun = None
        if self._pending is None:
            self._oldest_s = self._noticed_s = None
        self._save()

    def keep_place(self) -> None:
        """Write its place again; see `Pin`."""
        self._save()

    def close(self) -> None:
        """Give no more; what was begun goes on at the next start, so it still holds its place."""
        if self._is_unsaved:
            self._save()

    def _resume(self, place: Place) -> None:
        """Go on where the file says, as far as that is still there."""
        segments = self._slot.segments
        self.position = place.position
        nearest = segments.nearest(place.position)
        if nearest < place.position:
            self._log.warn(
                "the spool ends before the place of reporter {reporter}: records were lost there",
                reporter=self._reporter,
            )
            self.position = nearest
        elif nearest > place.position:
            self.skip_to(nearest)
        elif place.begun is not None and place.begun.end <= segments.end:
            # While no daemon was there nothing was tried: that is no time of failing.
            away_s = max(0.0, self._now() - place.written_s)
            self._begun = attrs.evolve(place.begun, away_s=place.begun.away_s + away_s)

    def _save(self) -> None:
        """Write the file; when that fails, this process knows, and the next one repeats a batch."""
        try:
            self._file.save(Place(self.position, self._begun, self._now()))
        except OSError as error:
            if not self._is_unsaved:
                self._log.error(
                    "the place of reporter {reporter} cannot be written: {error}",
                    reporter=self._reporter,
                    error=error,
                )
            self._is_unsaved = True
        else:
            self._is_unsaved = False
