"""A token bucket, without a timer: arithmetic on the time at which it is asked.

A bucket of capacity C that is refilled with R units in each period of P nanoseconds is looked at by
what is missing from it. One unit is counted as P parts, of which R come back each nanosecond. So
all numbers are whole, nothing is ever rounded, and a wait that was told is the wait that it takes.
What is missing at the time t is ``full_at - R * t``, if that is above 0: one number is the whole
state, and a bucket that nobody asks needs no care.

Pure: it knows nothing of what is counted, nor of a clock. Times are whole nanoseconds that do not
run backwards.
"""

from __future__ import annotations

from typing import Final

SECOND_NS: Final = 1_000_000_000
MINUTE_NS: Final = 60 * SECOND_NS


class Bucket:
    """One bucket; it begins full.

    Its level may go below nothing, by `take` without `admits`: then nothing passes until that is
    refilled.

    Args:
        rate: Units that come back in each period, at least 1.
        capacity: Units that fit, at least 1.
        period_ns: The period.
    """

    __slots__ = ("_capacity_parts", "_full_at", "capacity", "period_ns", "rate")

    def __init__(self, rate: int, capacity: int, period_ns: int) -> None:
        self.rate = rate
        self.capacity = capacity
        self.period_ns = period_ns
        self._capacity_parts = capacity * period_ns
        self._full_at = 0

    def __repr__(self) -> str:
        return f"<Bucket {self.rate} in {self.period_ns / SECOND_NS:g} s, {self.capacity} at once>"

    def admits(self, units: int, now_ns: int) -> bool:
        """Say whether so many units can be taken now; it changes nothing."""
        missing = self._full_at - self.rate * now_ns
        if missing < 0:
            missing = 0
        return missing + units * self.period_ns <= self._capacity_parts

    def take(self, units: int, now_ns: int) -> None:
        """Take units out, be they there or not; put them back if ``units`` is negative.

        What does not fit any more is lost.
        """
        full_now = self.rate * now_ns
        full_at = self._full_at
        if full_at < full_now:
            full_at = full_now
        self._full_at = full_at + units * self.period_ns

    def wait_ns(self, units: int, now_ns: int) -> int:
        """Say how long until so many units, at most ``capacity``, can be taken; 0: now."""
        over = self._missing(now_ns) + units * self.period_ns - self._capacity_parts
        return -(-over // self.rate) if over > 0 else 0

    def remaining(self, now_ns: int) -> int:
        """Say how many whole units can be taken now."""
        left = self._capacity_parts - self._missing(now_ns)
        return left // self.period_ns if left > 0 else 0

    def reset_ns(self, now_ns: int) -> int:
        """Say how long until it is full."""
        return -(-self._missing(now_ns) // self.rate)

    def is_full(self, now_ns: int) -> bool:
        """Say whether it is as if nobody had ever taken anything."""
        return self._full_at <= self.rate * now_ns

    def resize(self, rate: int, capacity: int, now_ns: int) -> None:
        """Give it another rate and capacity; what is missing stays missing."""
        missing = self._missing(now_ns)
        self.rate = rate
        self.capacity = capacity
        self._capacity_parts = capacity * self.period_ns
        self._full_at = rate * now_ns + missing

    def _missing(self, now_ns: int) -> int:
        missing = self._full_at - self.rate * now_ns
        return missing if missing > 0 else 0
