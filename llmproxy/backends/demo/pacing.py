"""Sending a stream word by word, at a steady pace.

It must not know what the words are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure


class StreamedRequest(Protocol):
    """The part of a `twisted.web.server.Request` that a stream needs."""

    def write(self, data: bytes) -> Any:
        """Send a piece."""

    def finish(self) -> Any:
        """End the answer well."""

    def loseConnection(self) -> Any:
        """Close the connection."""

    def notifyFinish(self) -> Deferred[None]:
        """Tell when the answer has ended, or failed because the client left."""


class Pacer:
    """Sends streams, each on a clock of its own.

    Args:
        reactor: The clock.
        word_interval_s: Seconds between two words; at 0 other work still comes between them.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime, word_interval_s: float) -> None:
        self._reactor = reactor
        self._word_interval_s = word_interval_s
        self._running: set[LoopingCall] = set()

    @property
    def running(self) -> int:
        """How many streams are being sent."""
        return len(self._running)

    def send(self, request: StreamedRequest, beats: Iterator[Sequence[bytes]]) -> None:
        """Send the first beat now, one more at every interval, then end the answer.

        A client that leaves ends the stream. An error in the beats is logged and closes the
        connection, so that the stream does not look complete.
        """

        def step() -> None:
            beat = next(beats, None)
            if beat is None:
                loop.stop()
                request.finish()
                return
            for event in beat:
                request.write(event)

        def gone(_: Failure) -> None:
            if loop.running:
                loop.stop()

        def broken(failure: Failure) -> None:
            self._log.failure("The demo model failed in a stream", failure)
            request.loseConnection()

        def ended(_: object) -> None:
            self._running.discard(loop)

        loop = LoopingCall(step)
        loop.clock = self._reactor
        self._running.add(loop)
        request.notifyFinish().addErrback(gone)
        loop.start(self._word_interval_s).addErrback(broken).addBoth(ended)
