"""Timeouts by the thousand, nearly all of which are cancelled: one reactor timer for each length.

Every request starts a few (until the answer's head, until the next request, ...), of few lengths,
and hardly any expires. Timeouts of one length expire in the order in which they were started, so a
queue needs one timer, for its first; starting and cancelling are then a step each, not an entry in
the reactor's heap. It knows a clock, and nothing of what is waited for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Timeout:
    """One of them; over when it expired or was cancelled.

    Attributes:
        due_s: When it expires, on the clock.
    """

    __slots__ = ("_expired", "_queue", "due_s")

    def __init__(self, queue: _Queue, due_s: float, expired: Callable[[], None]) -> None:
        self._queue = queue
        self._expired = expired
        self.due_s = due_s

    def __repr__(self) -> str:
        return f"<Timeout due={self.due_s:.3f}>"

    def cancel(self) -> None:
        """Cancel it; one that is over stays so."""
        self._queue.drop(self)

    def restart(self) -> None:
        """Let it last its full length from now on; one that is over stays so."""
        self._queue.restart(self)

    def expire(self) -> None:
        """Call what it was started with; the queue's own."""
        self._expired()


class _Queue:
    """The timeouts of one length, the first due first."""

    def __init__(self, clock: IReactorTime, after_s: float) -> None:
        self._clock = clock
        self._after_s = after_s
        self._waiting: OrderedDict[Timeout, None] = OrderedDict()
        self._timer: IDelayedCall | None = None
        self._firing = False
        self._now_s = 0.0  # at the last start

    def __repr__(self) -> str:
        return f"<{len(self._waiting)} of {self._after_s:g} s>"

    def start(self, expired: Callable[[], None]) -> Timeout:
        timeout = Timeout(self, self._due_s(), expired)
        self._waiting[timeout] = None
        # While others expire, those that wait already come first: the timer is set after them.
        if self._timer is None and not self._firing:
            self._timer = self._clock.callLater(self._after_s, self._fire)
        return timeout

    def drop(self, timeout: Timeout) -> None:
        waiting = self._waiting
        if timeout in waiting:
            del waiting[timeout]
            if not waiting and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def restart(self, timeout: Timeout) -> None:
        if timeout in self._waiting:
            timeout.due_s = self._due_s()
            self._waiting.move_to_end(timeout)

    def _due_s(self) -> float:
        """Give when a timeout is due that starts now."""
        now_s = self._clock.seconds()
        if now_s < self._now_s:
            self._set_back(now_s + self._after_s)
        self._now_s = now_s
        return now_s + self._after_s

    def _set_back(self, latest_s: float) -> None:
        """The clock, which is the wall's, was set back: nobody waits longer than from now on.

        Those that started before would else hold up all that start now, however long ago they were
        cancelled, for as long as the clock was set back.
        """
        for timeout in self._waiting:
            timeout.due_s = min(timeout.due_s, latest_s)
        if self._timer is not None:
            self._timer.cancel()
            self._set_timer()

    def _set_timer(self) -> None:
        left_s = next(iter(self._waiting)).due_s - self._clock.seconds()
        self._timer = self._clock.callLater(max(left_s, 0.0), self._fire)

    def _fire(self) -> None:
        """Expire what is due; set the timer for what is next."""
        self._timer = None
        self._firing = True
        waiting = self._waiting
        try:
            while waiting:
                first = next(iter(waiting))
                if first.due_s > self._clock.seconds():
                    break
                del waiting[first]
                first.expire()
        finally:
            self._firing = False
            if waiting:
                self._set_timer()


class Timeouts:
    """Starts timeouts.

    Args:
        clock: Keeps time.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._queues: dict[float, _Queue] = {}

    def __repr__(self) -> str:
        return f"<Timeouts {list(self._queues.values())}>"

    def start(self, after_s: float, expired: Callable[[], None]) -> Timeout:
        """Start one.

        Args:
            after_s: How long it lasts; one of few lengths, for each is kept a queue.
            expired: Called when it is over, unless it was cancelled before.
        """
        queue = self._queues.get(after_s)
        if queue is None:
            queue = self._queues[after_s] = _Queue(self._clock, after_s)
        return queue.start(expired)
