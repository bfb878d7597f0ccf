"""An agent whose answers the test gives, for what is asked over treq on the control path."""

from __future__ import annotations

from collections.abc import Callable

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.web.client import Response, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer


class FakeTransport:
    """The connection that an answer comes on.

    Attributes:
        closed: Whether the reader has had enough; as on a real connection, it is told of the end
            only later.
    """

    def __init__(self) -> None:
        self.closed = False

    def resumeProducing(self) -> None:
        """Nothing is ever held back here."""

    def loseConnection(self) -> None:
        """Close."""
        self.closed = True


class Asked:
    """One request that was sent, and the way to answer it.

    Attributes:
        method: As sent.
        url: As sent.
        headers: As sent.
        cancelled: Whether the asker gave up before the head.
    """

    def __init__(self, method: bytes, url: bytes, headers: Headers) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.cancelled = False
        self.transport = FakeTransport()
        self.response: Deferred[IResponse] = Deferred(self._cancel)

    def _cancel(self, response: Deferred[IResponse]) -> None:
        # As Twisted's client does: not with a CancelledError of its own.
        self.cancelled = True
        response.errback(ResponseNeverReceived([Failure(ConnectionLost())]))

    def begin(self, code: int, body: bytes = b"") -> Response:
        """Answer with a head and the beginning of a body."""
        response = Response((b"HTTP", 1, 1), code, b"", Headers(), self.transport)
        self.response.callback(response)
        if body:
            response._bodyDataReceived(body)
        return response

    def answer(self, code: int, body: bytes = b"") -> None:
        """Answer wholly."""
        self.begin(code, body)._bodyDataFinished()

    def fail(self, error: Exception) -> None:
        """Fail before a head came."""
        self.response.errback(error)


@implementer(IAgent)
class FakeAgent:
    """Keeps what is asked, and answers by rule when it has one.

    Attributes:
        asked: All requests, in their order.
        rule: Called with each request as it comes, to answer it at once.
    """

    def __init__(self, rule: Callable[[Asked], None] | None = None) -> None:
        self.asked: list[Asked] = []
        self.rule = rule

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Keep a request."""
        assert bodyProducer is None
        asked = Asked(method, uri, headers or Headers())
        self.asked.append(asked)
        if self.rule is not None:
            self.rule(asked)
        return asked.response

    def client(self) -> HTTPClient:
        """Make a real treq client over this agent."""
        return HTTPClient(self)


def respond(code: int, body: bytes = b"") -> Callable[[Asked], None]:
    """Make a rule that answers everything alike."""
    return lambda asked: asked.answer(code, body)


def ready(asked: Deferred[bytes]) -> bytes | Failure | None:
    """Give a Deferred's result or failure; None while there is none."""
    results: list[bytes | Failure] = []
    asked.addBoth(results.append)
    return results[0] if results else None
