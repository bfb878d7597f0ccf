"""How long a backend takes to begin its answers, and how much of that still counts.

Pure; the time is an argument.
"""

from __future__ import annotations

from math import exp
from typing import Final

import attrs

DECAY_S: Final = 30.0
"""In this time what was seen loses two thirds of its weight."""


@attrs.define
class PeakEwma:
    """An average that goes up at once and comes down slowly.

    An average over all would take many slow answers to notice that a backend has become slow. Here
    one is enough, and what follows it must be better for a while. Without any news it sinks towards
    zero, so that a backend that nobody chooses for it is tried again.

    Source: Twitter's Finagle, its load balancer "Peak EWMA".

    Attributes:
        seen: How many times were seen.
    """

    seen: int = attrs.field(default=0, init=False)
    _value_s: float = attrs.field(default=0.0, init=False)
    _at_s: float = attrs.field(default=0.0, init=False)

    def observe(self, took_s: float, now_s: float) -> None:
        """Take the time that one answer took to begin."""
        self.seen += 1
        value_s, at_s = self._value_s, self._at_s
        self._at_s = max(now_s, at_s)
        if took_s >= value_s or self.seen == 1:
            self._value_s = took_s
            return
        kept = exp((at_s - self._at_s) / DECAY_S)
        self._value_s = value_s * kept + took_s * (1.0 - kept)

    def value_s(self, now_s: float) -> float | None:
        """Give the average as it is now; None: nothing was seen yet."""
        if not self.seen:
            return None
        return self._value_s * exp(min(self._at_s - now_s, 0.0) / DECAY_S)
