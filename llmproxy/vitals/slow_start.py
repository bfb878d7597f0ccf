"""Slow start: how much of its weight a backend has that is new or back.

Its caches are empty and its kernels cold, and to a strategy that looks for the least busy one it is
the best there is. Pure; the time is an argument.
"""

from __future__ import annotations

from typing import Final

import attrs

LEAST_SHARE: Final = 0.1
"""Of its weight, at the beginning."""


@attrs.define
class SlowStart:
    """A ramp from a tenth to the whole, as straight as a line.

    Attributes:
        length_s: How long it is; 0: there is none.
        began_s: When it began; None: it is over.
    """

    length_s: float
    began_s: float | None = attrs.field(default=None, init=False)

    def begin(self, now_s: float) -> None:
        """Begin it, or begin it again."""
        self.began_s = now_s if self.length_s else None

    def share(self, now_s: float) -> float:
        """Give the share of the weight that counts now, 1.0 for all of it."""
        if self.began_s is None:
            return 1.0
        gone_s = now_s - self.began_s
        if gone_s >= self.length_s:
            self.began_s = None
            return 1.0
        return LEAST_SHARE + (1.0 - LEAST_SHARE) * max(gone_s, 0.0) / self.length_s
