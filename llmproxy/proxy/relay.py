"""The relay: a backend's body to its client, each piece the moment it comes.

One read is one write; nothing is parsed or re-framed on the way. The meter looks at a piece after
it was written. The client's transport pauses the relay, the relay pauses the backend's connection.

The client is told of the end last: what shows it that the answer is complete, or broken off, goes
out with `Relay.close`, when everything else about the exchange is settled and recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from zope.interface import implementer

from llmproxy.errors import (
    BadResponse,
    FirstByteTimeout,
    GatewayError,
    GatewayTimeout,
    RelayBroken,
    StallTimeout,
)
from llmproxy.interfaces import IClientRequest, IProgress
from llmproxy.proxy.meter import Meter
from llmproxy.wire.api_errors import error_event
from llmproxy.wire.withhold import UsageWithholder


@implementer(IPushProducer, IProgress)
class Relay(Protocol):
    """Receives one body and passes it on.

    States: waiting (for the body's protocol to be connected), relaying, ended, closed.

    Args:
        request: The client's request; its answer has begun.
        meter: Sees every piece.
        withholder: Takes the usage chunk out again that the client did not ask for; or None.
        clock: Of the timeouts.
        is_stream: Whether the body is an event stream.
        is_readable: Whether it can be looked into; compressed, it cannot.
        first_byte_by_s: When the first piece must have come, on the clock; None: no limit. Many
            servers send their head at once, and the prefill comes behind it.
        stall_timeout_s: Longest silence between two pieces; 0: no limit.
        deadline_s: When the total time is over, on the clock; None: never.
        length_bytes: Of the whole body, where the client was told it; None: it was not. The piece
            that completes it is kept for `close`, for it is the end.
        on_first_piece: Called with this relay when the first piece has come.

    Attributes:
        finished: Fires when the body has ended well; fails with `RelayBroken` when it broke off
            after its first byte, and in both cases `close` is to follow; with `BadResponse` or
            `GatewayTimeout` when it broke off before. Cancelling it, because the client left, cuts
            the backend's connection.
        bytes_out: Bytes of the body given to the client, or to be given by `close`.
        first_piece_s: When the first piece came, on the clock; None before.
        last_piece_s: When the last piece came; before the first, when the relay was made.
        is_stream: Whether the body is an event stream.
    """

    def __init__(
        self,
        request: IClientRequest,
        *,
        meter: Meter,
        withholder: UsageWithholder | None,
        clock: IReactorTime,
        is_stream: bool,
        is_readable: bool = True,
        first_byte_by_s: float | None,
        stall_timeout_s: float,
        deadline_s: float | None,
        length_bytes: int | None = None,
        on_first_piece: Callable[[Relay], None],
    ) -> None:
        self._request = request
        self._meter = meter
        self._withholder = withholder
        self._clock = clock
        self.is_stream = is_stream
        self._is_readable = is_readable
        self._first_byte_by_s = first_byte_by_s
        self._stall_timeout_s = stall_timeout_s
        self._deadline_s = deadline_s
        self._missing_bytes = length_bytes
        self._rest = b""
        self._is_broken = False
        self._timer: IDelayedCall | None = None
        self._resumed_s = self.last_piece_s = clock.seconds()
        self._on_first_piece = on_first_piece
        self._paused = False
        self._ended = False
        self._head_sent = False
        self.finished: Deferred[None] = Deferred(self._cancelled)
        self.bytes_out = 0
        self.first_piece_s: float | None = None

    def __repr__(self) -> str:
        state = "ended" if self._ended else "paused" if self._paused else "relaying"
        return f"<Relay {state} bytes_out={self.bytes_out}>"

    # the body

    def connectionMade(self) -> None:
        """The body begins: from now on the client's transport paces it."""
        self._request.registerProducer(self, True)
        if self.is_stream:
            # The client learns at once that the stream is open; a plain answer's head waits for its
            # body, so that a backend that dies in between is still a clean error.
            self._head_sent = True
            self._request.write(b"")

    def silent_s(self, now_s: float) -> float:
        """Say how long nothing has come; while the client takes nothing, that says nothing: 0."""
        return 0.0 if self._paused else now_s - max(self.last_piece_s, self._resumed_s)

    def watch(self) -> None:
        """Watch over silence, if the body has not come whole already."""
        if not self._ended:
            self._wake()

    def dataReceived(self, piece: bytes) -> None:
        """Pass a piece on."""
        now = self._clock.seconds()
        self.last_piece_s = now
        if self.first_piece_s is None:
            self.first_piece_s = now
            if not self._ended:
                self._on_first_piece(self)
        if self._ended:
            return
        out = piece if self._withholder is None else self._withholder.feed(piece)
        if out:
            self.bytes_out += len(out)
            if self._missing_bytes is not None:
                self._missing_bytes -= len(out)
                if self._missing_bytes <= 0:
                    self._rest, out = out, b""
            if out:
                self._head_sent = True
                self._request.write(out)
        self._meter.feed(piece)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The body has ended; how, the reason tells."""
        if self._ended:
            return
        self._end()
        if reason.check(ResponseDone) or (reason.check(PotentialDataLoss) and not self._is_torn()):
            if self._withholder is not None:
                self._rest = self._withholder.end()
                self.bytes_out += len(self._rest)
            self.finished.callback(None)
        else:
            message = "The inference server broke off its answer."
            self._break_off("connection_lost", message, BadResponse(message))

    def cut_short(self, error: GatewayError) -> None:
        """End an answer that may not go on; `finished` fails with the error if nothing went out."""
        if not self._ended:
            self._end()
            self._cut()
            self._break_off(error.code, str(error), error)

    def close(self) -> None:
        """Give the client the end, once `finished` told what kind of end it is."""
        rest, self._rest = self._rest, b""
        if self._is_broken:
            self._request.break_off(rest)
            return
        if rest:
            self._request.write(rest)
        self._request.finish()

    def _break_off(self, code: str, message: str, unsent: GatewayError) -> None:
        if not self._head_sent:
            self.finished.errback(unsent)
            return
        farewell = b""
        if self.is_stream:
            farewell = error_event(message, code)
            if not self._at_event_end():
                farewell = b"\n\n" + farewell  # end the torn event, so that this one can be read
        self._is_broken, self._rest = True, farewell
        self.bytes_out += len(farewell)
        self.finished.errback(
            RelayBroken(
                code,
                message,
                timeout=isinstance(unsent, GatewayTimeout),
                blames_backend=unsent.blames_backend,
            )
        )

    def _is_torn(self) -> bool:
        """Whether a body that the closing of its connection ended is a stream cut in an event."""
        return self.is_stream and self._is_readable and self._meter.ends_torn()

    def _at_event_end(self) -> bool:
        """Whether what the client has so far ends with a whole event."""
        if self._withholder is not None and self._withholder.holding:
            return True
        return self.bytes_out == 0 or self._meter.ends_at_event

    def _end(self) -> None:
        self._ended = True
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._request.unregisterProducer()

    def _cancelled(self, finished: Deferred[None]) -> None:
        """The client has left."""
        del finished
        if not self._ended:
            self._end()
            self._cut()

    def _cut(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.stopProducing()

    # the clocks: one timer, pushed on when it fires, never per piece

    def _wake(self) -> None:
        """Set the timer to the next moment at which something may be due."""
        now = self._clock.seconds()
        due = []
        if self._deadline_s is not None:
            if now >= self._deadline_s:
                self._time_out(GatewayTimeout())
                return
            due.append(self._deadline_s)
        if self.first_piece_s is None:
            if self._first_byte_by_s is not None:
                if now >= self._first_byte_by_s:
                    self._time_out(FirstByteTimeout())
                    return
                due.append(self._first_byte_by_s)
            if self._stall_timeout_s:  # the first silence that counts cannot be over sooner
                due.append(now + self._stall_timeout_s)
        elif self._stall_timeout_s:
            # While the client takes nothing, the backend's silence is our own doing.
            silent_s = self.silent_s(now)
            if silent_s >= self._stall_timeout_s:
                self._time_out(StallTimeout())
                return
            due.append(now - silent_s + self._stall_timeout_s)
        self._timer = self._clock.callLater(min(due) - now, self._wake) if due else None

    def _time_out(self, error: GatewayTimeout) -> None:
        self._timer = None
        self._end()
        self._cut()
        self._break_off(error.code, str(error), error)

    # backpressure

    def pauseProducing(self) -> None:
        """The client takes less than there is."""
        self._paused = True
        transport: Any = self.transport
        transport.pauseProducing()

    def resumeProducing(self) -> None:
        """The client takes again."""
        self._paused = False
        self._resumed_s = self._clock.seconds()
        transport: Any = self.transport
        transport.resumeProducing()

    def stopProducing(self) -> None:
        """The client's transport is going away; the exchange hears of it and cancels."""
