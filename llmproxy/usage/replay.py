"""What a reporter has already, once more: delivered records that the spool still holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from llmproxy.deliveries import Batch, EventKind
from llmproxy.usage.part import Part
from llmproxy.usage.segments import Position
from llmproxy.usage.sources import Pending
from llmproxy.wire.spool_line import SpoolLine


class Replay:
    """The delivered part of one part of the spool, as a source of batches; see `BatchSource`.

    Args:
        part: The part of the spool.
        stop: Where to stop.
        wanted: Says which events.
        kinds: The kinds of events that it takes.
        now: Seconds since the epoch.
        new_id: Makes ids of batches.

    Attributes:
        position: Everything before it was sent again.
    """

    def __init__(
        self,
        part: Part,
        stop: Position,
        wanted: Callable[[SpoolLine], bool],
        kinds: frozenset[str],
        *,
        now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._part = part
        self._stop = stop
        self._wanted = wanted
        self._kinds = kinds
        self._now = now
        self._new_id = new_id
        self._end = Position()
        self._pending: Pending | None = None
        self.position = part.segments.start
        part.pins.append(self)

    @property
    def is_given_up(self) -> bool:
        """What is new comes before what is old; see `Pin`."""
        return True

    def is_due(self, _limit: int, _interval_s: float) -> bool:
        """Say whether there is more; see `BatchSource`."""
        return self.position < self._stop

    def take(self, limit: int) -> Pending | None:
        """Give the batch that is next; see `BatchSource`."""
        if self._pending is None:
            reading = self._part.reader.read(
                self.position, self._stop, kinds=self._kinds, limit=limit, wanted=self._wanted
            )
            if not reading.events:
                # The file that it ends in may be gone meanwhile.
                self.position = reading.end if reading.end > self.position else self._stop
                return None
            batch = Batch(self._new_id(), cast(EventKind, reading.kind), reading.events)
            self._end = reading.end
            self._pending = Pending(batch, self._now())
        return self._pending

    def failed(self) -> None:
        """Note a failure; see `BatchSource`."""
        assert self._pending is not None
        self._pending.tries += 1

    def done(self) -> None:
        """Go on; see `BatchSource`."""
        self.position, self._pending = max(self._end, self.position), None

    def skip_to(self, position: Position) -> None:
        """Go on at a later place, behind the batch that is under way; see `Pin`."""
        self.position = max(position, self.position)

    def keep_place(self) -> None:
        """Do nothing: a replay does not outlast its process; see `Pin`."""

    def close(self) -> None:
        """Give no more."""
        self._part.pins.remove(self)
