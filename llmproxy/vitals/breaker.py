"""The breaker of one backend: whether what was seen of it lets requests go there.

Pure. The time is an argument, requests are any objects that can be told apart; what a failure is,
and what is done while the breaker is open, is decided elsewhere.

=========  ==============================================  ======================================
state      a request                                       leaves it
=========  ==============================================  ======================================
closed     goes there                                      to open, with too many failures
open       does not                                        to half_open, ``open_for_s`` later
half_open  goes there alone: it is the probe               to closed, when the probe was good;
                                                           to open, when it was bad; a probe that
                                                           proves nothing makes room for another
=========  ==============================================  ======================================
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

import attrs

from llmproxy.values import Evidence

BreakerPosition = Literal["closed", "open", "half_open"]

ANSWERS_PER_FAILURE: Final = 10
"""With more answers for each failure than these, the failures are not the backend's state.

A busy backend that fails one request of a hundred has five failures in a minute, too.
"""


@attrs.frozen
class BreakerSettings:
    """When a breaker opens, and for how long.

    Attributes:
        failures: So many open it; 0: nothing does.
        window_s: Within this time.
        open_for_s: How long nothing is sent there.
    """

    failures: int = 5
    window_s: float = 60.0
    open_for_s: float = 30.0


@attrs.define(eq=False)
class Breaker:
    """What was seen of one backend, and what follows from it.

    It opens when the last `BreakerSettings.failures` failures came within the window, and at least
    one of ten answers in that time was one of them.

    Attributes:
        settings: May be replaced; what was seen stays.
        is_closed: Whether requests go there; the other two states differ by the time only.
        times_opened: How often it opened, from closed or from half-open.
        last_failure_s: When it failed last; minus infinity: never.
        probe: The request that is out while it is half-open.
    """

    settings: BreakerSettings
    is_closed: bool = attrs.field(default=True, init=False)
    times_opened: int = attrs.field(default=0, init=False)
    last_failure_s: float = attrs.field(default=float("-inf"), init=False)
    probe: object | None = attrs.field(default=None, init=False, repr=False)
    _opened_s: float = attrs.field(default=0.0, init=False, repr=False)
    _answers: int = attrs.field(default=0, init=False, repr=False)
    # Of each of the last failures: when it was, and how many answers there were before it.
    _failures: deque[tuple[float, int]] = attrs.field(factory=deque, init=False, repr=False)

    def position(self, now_s: float) -> BreakerPosition:
        """Say in which state it is now."""
        if self.is_closed:
            return "closed"
        return "half_open" if now_s >= self.half_open_s else "open"

    @property
    def half_open_s(self) -> float:
        """When it goes from open to half-open."""
        return self._opened_s + self.settings.open_for_s

    def admits(self, now_s: float) -> bool:
        """Say whether a request may go there."""
        return self.is_closed or (self.probe is None and self.position(now_s) == "half_open")

    def begin(self, request: object, now_s: float) -> None:
        """Take note that a request goes there; it is the probe if one is wanted."""
        if not self.is_closed and self.admits(now_s):
            self.probe = request

    def observe(self, request: object, evidence: Evidence, now_s: float) -> bool:
        """Take what a request showed.

        While it is not closed only the probe counts: other requests began before it opened, or went
        there because there was nobody else.

        Returns:
            Whether it closed or opened by that.
        """
        if evidence == "bad":
            self.last_failure_s = now_s
        if not self.is_closed:
            if self.probe is not request or evidence == "none":
                return False
            if evidence == "good":
                self.close()
            else:
                self._open(now_s)
            return True
        if evidence == "none":
            return False
        self._answers += 1
        if evidence == "good" or not self._too_many(now_s):
            return False
        self._open(now_s)
        return True

    def end(self, request: object) -> None:
        """Take note that a request is over; if it was the probe, another one may follow."""
        if self.probe is request:
            self.probe = None

    def close(self) -> None:
        """Forget what was held against it."""
        self.is_closed = True
        self.probe = None
        self._failures.clear()

    def _too_many(self, now_s: float) -> bool:
        """Take note of a failure in the closed state, and say whether it is one too many."""
        most, failures = self.settings.failures, self._failures
        failures.append((now_s, self._answers))
        while len(failures) > most:
            failures.popleft()
        if not most or len(failures) < most:
            return False
        first_s, answers = failures[0]
        since = self._answers - answers + 1
        return now_s - first_s <= self.settings.window_s and since <= most * ANSWERS_PER_FAILURE

    def _open(self, now_s: float) -> None:
        self.is_closed = False
        self.probe = None
        self.times_opened += 1
        self._opened_s = now_s
