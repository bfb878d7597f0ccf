"""How late the event loop is: something is due four times a second, and it is seen when it runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

INTERVAL_S: Final = 0.25
LOOKS_IN_A_WINDOW: Final = 40
WINDOWS: Final = 6
"""Six windows of ten seconds: the worst of a minute, whoever asks for it and how often."""


class LoopLag(Service):
    """Measures the event loop.

    Args:
        observe: Called with each lag, in seconds.
        clock: The event loop's.
        most_s: A lag that is greater, twice in a row, is too much; 0: none is.

    Attributes:
        most_s: As the argument; it may change.
    """

    _log = Logger()

    def __init__(
        self, observe: Callable[[float], object], clock: IReactorTime, most_s: float = 0.0
    ) -> None:
        self._observe = observe
        self.most_s = most_s
        self._last_s = self._before_s = 0.0
        self._clock = clock
        self._due_s = 0.0
        self._looks = 0
        self._worst: deque[float] = deque([0.0], maxlen=WINDOWS)
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock

    def __repr__(self) -> str:
        return f"<LoopLag worst {self.worst_s():.3f} s>"

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        self._due_s = self._clock.seconds() + INTERVAL_S
        self._loop.start(INTERVAL_S, now=False)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        self._loop.stop()

    def worst_s(self) -> float:
        """Give the greatest lag of the last minute, in seconds."""
        return max(self._worst)

    def is_late(self) -> bool:
        """Say whether the event loop has more to do than it can, and not just for once."""
        return 0.0 < self.most_s < min(self._last_s, self._before_s)

    def _look(self) -> None:
        lag_s = max(self._clock.seconds() - self._due_s, 0.0)
        self._before_s, self._last_s = self._last_s, lag_s
        # The loop keeps to its own beat and leaves out the beats that it has missed.
        self._due_s += INTERVAL_S * (lag_s // INTERVAL_S + 1)
        self._worst[-1] = max(self._worst[-1], lag_s)
        self._looks += 1
        if self._looks % LOOKS_IN_A_WINDOW == 0:
            self._worst.append(0.0)
        try:
            self._observe(lag_s)
        except Exception:  # noqa: BLE001 - the outermost edge: the next look comes all the same
            self._log.failure("the lag of the event loop cannot be counted")
