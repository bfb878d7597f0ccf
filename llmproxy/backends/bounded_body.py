"""Reading a whole answer of a backend that is asked something small.

For the control path (model lists, health checks): the data path never reads a body whole. It knows
nothing of what the body means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss

from llmproxy.errors import LLMProxyError

if TYPE_CHECKING:
    from twisted.web.iweb import IResponse


class BodyTooLong(LLMProxyError):
    """The answer's body is over the limit; its connection was closed."""


def read_bounded(response: IResponse, limit_bytes: int) -> Deferred[bytes]:
    """Read an answer's body, but no more than so much.

    Args:
        response: Whose body nobody has asked for yet.
        limit_bytes: The longest body to take.

    Returns:
        A Deferred of the body. It fails with `BodyTooLong`, or with what ended the connection too
        early; a body that ends with its connection counts as whole (RFC 9112, section 6.3).
        Cancelling it closes the connection.
    """
    reader = _Reader(limit_bytes)
    response.deliverBody(reader)
    return reader.body


class _Reader(Protocol):
    """Gathers a body up to a limit."""

    def __init__(self, limit_bytes: int) -> None:
        self.body: Deferred[bytes] = Deferred(lambda _: self._close())
        self._room_bytes = limit_bytes
        self._pieces: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        if self.body.called:
            return
        self._room_bytes -= len(data)
        if self._room_bytes < 0:
            self.body.errback(BodyTooLong("the answer is too long"))
            self._close()
        else:
            self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.body.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.body.callback(b"".join(self._pieces))
        else:
            self.body.errback(reason)

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()
