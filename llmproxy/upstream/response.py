"""A backend's answer, as `IResponse`: the head now, the body piece by piece."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IProtocol, IPushProducer
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH
from zope.interface import implementer

from llmproxy.interfaces import IUpstreamResponse

if TYPE_CHECKING:
    from llmproxy.upstream.connection import BackendConnection

_COMPLETE = Failure(ResponseDone())
"""How every whole body ends; making one anew costs more than a small answer's parsing."""


@implementer(IPushProducer)
class BodyTransport:
    """What the receiver of a body holds of the connection: it may pause it, resume it, or cut it.

    After the body's end the connection may serve another request: then nothing here reaches it.

    Attributes:
        paused: Whether the receiver has paused it.
    """

    disconnecting = False

    def __init__(self, connection: BackendConnection) -> None:
        self._connection: BackendConnection | None = connection
        self.paused = False

    def release(self) -> None:
        """The body has ended: let go of the connection."""
        self._connection = None

    def pauseProducing(self) -> None:
        """Read no further for now."""
        self.paused = True
        if self._connection is not None:
            self._connection.pause()

    def resumeProducing(self) -> None:
        """Read on."""
        self.paused = False
        if self._connection is not None:
            self._connection.resume()

    def stopProducing(self) -> None:
        """Cut the connection: nobody wants the rest."""
        if self._connection is not None:
            self._connection.abort()

    def loseConnection(self) -> None:
        """Cut the connection."""
        self.stopProducing()

    def abortConnection(self) -> None:
        """Cut the connection."""
        self.stopProducing()


@implementer(IUpstreamResponse)
class UpstreamResponse:
    """One answer.

    Attributes:
        version: As in ``(b"HTTP", 1, 1)``.
        code: Status.
        phrase: Reason phrase.
        fields: All fields in their order, names in lower case.
        length: Content-Length, or `UNKNOWN_LENGTH`.
    """

    request: Any = None
    previousResponse: Any = None

    def __init__(
        self,
        connection: BackendConnection,
        version: tuple[bytes, int, int],
        code: int,
        phrase: bytes,
        fields: list[tuple[bytes, bytes]],
    ) -> None:
        self.version = version
        self.code = code
        self.phrase = phrase
        self.fields = fields
        self.length: Any = UNKNOWN_LENGTH
        for name, value in fields:
            if name == b"content-length":
                self.length = int(value)
        self._transport = BodyTransport(connection)
        self._connection: BackendConnection | None = connection
        self._receiver: Any = None
        self._pieces: list[bytes] = []
        self._end: Failure | None = None

    def __repr__(self) -> str:
        state = "ended" if self._end is not None else "open"
        return f"<UpstreamResponse {self.code} {state}>"

    @functools.cached_property
    def headers(self) -> Headers:
        """The fields as `IResponse` has them, made at the first look."""
        headers = Headers()
        for name, value in self.fields:
            headers.addRawHeader(name, value)
        return headers

    def setPreviousResponse(self, response: Any) -> None:
        """Part of `IResponse`; no redirect is ever followed here."""
        self.previousResponse = response

    def deliverBody(self, protocol: IProtocol) -> None:
        """Give the body to a protocol; its ``connectionLost`` tells how it ended.

        With `ResponseDone` it is complete; with `PotentialDataLoss` it was ended by the closing of
        the connection and may be; with `ResponseFailed` it broke off.
        """
        assert self._receiver is None
        self._receiver = protocol
        protocol.makeConnection(self._transport)  # type: ignore[arg-type]
        pieces, self._pieces = self._pieces, []
        if pieces:
            protocol.dataReceived(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._end is not None:
            protocol.connectionLost(self._end)
        elif self._connection is not None and not self._transport.paused:
            self._connection.resume()

    def body_received(self, piece: bytes) -> None:
        """Pass a piece on; one read of the connection is one piece."""
        if self._receiver is not None:
            self._receiver.dataReceived(piece)
        else:
            self._pieces.append(piece)

    def body_ended(self, reason: Failure | None = None) -> None:
        """Pass the body's end on; without a reason it is complete."""
        self._transport.release()
        self._connection = None
        self._end = reason if reason is not None else _COMPLETE
        if self._receiver is not None:
            self._receiver.connectionLost(self._end)
