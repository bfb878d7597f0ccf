"""Something that is done again and again: a LoopingCall that does not die.

It knows when rounds begin and how they are ended, and nothing of what is done in them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure


class Rounds:
    """Runs a coroutine every so often, one at a time.

    A round that takes longer than the interval delays the next; a round that fails is logged and
    the next one comes all the same.

    Args:
        run: Does one round. It is cancelled by `stop`, and must then end soon.
        clock: Tells the time.
        interval_s: Between the beginnings of two rounds.
        log: Where failed rounds are reported.
    """

    def __init__(
        self,
        run: Callable[[], Coroutine[Deferred[Any], Any, None]],
        *,
        clock: IReactorTime,
        interval_s: float,
        log: Logger,
    ) -> None:
        self._run = run
        self._clock = clock
        self._interval_s = interval_s
        self._log = log
        self._waiting: IDelayedCall | None = None
        self._loop: LoopingCall | None = None
        self._ended: Deferred[None] = succeed(None)
        self._running: Deferred[None] | None = None

    def __repr__(self) -> str:
        if self._running is not None:
            state = "running"
        elif self._waiting is not None or self._loop is not None:
            state = "waiting"
        else:
            state = "stopped"
        return f"<Rounds every {self._interval_s:g} s, {state}>"

    def start(self, first_after_s: float = 0.0) -> None:
        """Begin with the first round after so many seconds; 0: now."""
        if first_after_s > 0:
            self._waiting = self._clock.callLater(first_after_s, self._begin)
        else:
            self._begin()

    def stop(self) -> Deferred[None]:
        """Begin no further round, and cancel the one that runs.

        Returns:
            A Deferred that fires when no round runs any more.
        """
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        if self._loop is not None:
            self._loop.stop()
            self._loop = None
        if self._running is not None:
            self._running.cancel()
        return self._ended

    def _begin(self) -> None:
        self._waiting = None
        self._loop = LoopingCall(self._round)
        self._loop.clock = self._clock
        ended: Deferred[None] = Deferred()
        self._ended = ended
        self._loop.start(self._interval_s).addCallback(lambda _: ended.callback(None))

    def _round(self) -> Deferred[None]:
        running = Deferred.fromCoroutine(self._run())
        self._running = running

        def failed(failure: Failure) -> None:
            if self._loop is None and failure.check(CancelledError):
                return
            self._log.failure("a round failed; the next one comes", failure=failure)

        def over(result: None) -> None:
            self._running = None
            return result

        return running.addErrback(failed).addCallback(over)
