"""Which of the spool's files are deleted, and when: delivered ones after a time, or for room.

It knows nothing of what stands in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.logger import Logger

from llmproxy.usage.part import Pin
from llmproxy.usage.slot import Slot


class Retention:
    """Keeps one part of the spool to its size and its time.

    What a reporter has not read is kept, whatever its age. When there is no room, the oldest
    delivered files go first, then what only those have not read who are given up: reporters that
    want nothing more, and replays. Then a reporter that lags behind another one loses what is
    oldest, so that a receiver which is down costs no other one its records.

    Args:
        slot: The part of the spool.
        max_bytes: How large it may be.
        keep_s: How long delivered files are kept.
        now: Seconds since the epoch.
    """

    _log = Logger()

    def __init__(
        self, slot: Slot, *, max_bytes: int, keep_s: float, now: Callable[[], float]
    ) -> None:
        self._slot = slot
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._now = now
        self._is_failing = False

    def has_room(self, size_bytes: int) -> bool:
        """Say whether so much more may be written; make room if it can be made."""
        if self._slot.segments.total_bytes + size_bytes > self._max_bytes:
            self.trim(size_bytes)
        return self._slot.segments.total_bytes + size_bytes <= self._max_bytes

    def trim(self, wanted_bytes: int = 0) -> None:
        """Delete what need not be kept; log when that fails.

        Args:
            wanted_bytes: How much room there should be.
        """
        segments, served = self._slot.segments, self._served()
        enough = any if served else all  # where nobody is served, there is nobody to wait for
        try:
            while self._is_old() and self._is_read_by(all, self._slot.pins):
                self._remove()
            while segments.total_bytes + wanted_bytes > self._max_bytes and (
                self._is_read_by(enough, served)
            ):
                self._remove()
        except OSError as error:
            self._failed(error)
        else:
            self._is_failing = False

    def give_way(self) -> bool:
        """Delete the oldest file before its time, for the disk is full; False: none may go.

        Here nobody who is served loses anything: there may be room again in a moment.
        """
        if not self._is_read_by(all, self._served()):
            return False
        path = next(iter(self._slot.segments)).path
        try:
            self._remove()
        except OSError as error:
            self._failed(error)
            return False
        self._log.warn("the disk is full: {path} is deleted before its time", path=path)
        return True

    def _failed(self, error: OSError) -> None:
        if not self._is_failing:
            self._log.error("the spool cannot be tidied: {error}", error=error)
        self._is_failing = True

    def _is_old(self) -> bool:
        oldest = next(iter(self._slot.segments), None)
        return oldest is not None and self._now() - oldest.written_s > self._keep_s

    def _served(self) -> list[Pin]:
        """Give those that are not given up."""
        return [pin for pin in self._slot.pins if not pin.is_given_up]

    def _is_read_by(
        self, quantifier: Callable[[Iterable[bool]], bool], pins: Iterable[Pin]
    ) -> bool:
        """Say whether the oldest file was read by all of these, or any; it must not be the last."""
        segments = self._slot.segments
        if len(segments) < 2:
            return False
        second = list(segments)[1].first
        return quantifier(pin.position.segment >= second for pin in pins)

    def _remove(self) -> None:
        self._slot.segments.remove_oldest()
        for pin in self._slot.pins:
            pin.skip_to(self._slot.segments.start)
