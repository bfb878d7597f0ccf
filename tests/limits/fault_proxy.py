"""A TCP proxy on loopback that loses, cuts and delays what a server answers.

It knows nothing of what is said. Bytes towards the server always arrive, unless the connection was
cut before.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure


class FaultProxy:
    """Stands before a server, and is faithful until told otherwise.

    Args:
        reactor: Listens and connects.
        port: The server's, on 127.0.0.1.

    Attributes:
        cut_after_bytes: After so many bytes of answers the connection that brought the last is cut,
            and this is None again, which means never.
        swallow: Whether answers are lost.
        delay_s: How much later answers come.
        closed: Whether new connections are refused.
    """

    def __init__(self, reactor: Any, port: int) -> None:
        self._reactor = reactor
        self._target = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        self._listening: Any = None
        self._sides: set[Protocol] = set()
        self.cut_after_bytes: int | None = None
        self.swallow = False
        self.delay_s = 0.0
        self.closed = False

    @property
    def addr(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._listening.getHost().port}"

    async def start(self) -> None:
        """Listen."""
        factory = Factory.forProtocol(lambda: _ClientSide(self))
        factory.noisy = False
        endpoint = TCP4ServerEndpoint(self._reactor, 0, interface="127.0.0.1")
        self._listening = await endpoint.listen(factory)

    def cut(self) -> None:
        """Cut all connections."""
        for side in tuple(self._sides):
            side.transport.abortConnection()  # type: ignore[union-attr]

    def stop(self) -> Deferred[Any]:
        """Cut all connections, and listen no more."""
        self.closed = True
        self.cut()
        return succeed(self._listening.stopListening())

    def answered(self, client: _ClientSide, data: bytes) -> None:
        """Hand on what the server said, or not."""
        if self.swallow:
            return
        if self.cut_after_bytes is not None:
            if len(data) >= self.cut_after_bytes:
                data = data[: self.cut_after_bytes]
                self.cut_after_bytes = None
                client.say_last(data)
                return
            self.cut_after_bytes -= len(data)
        if self.delay_s:
            self._reactor.callLater(self.delay_s, client.say, data)
        else:
            client.say(data)


class _ClientSide(Protocol):
    """The connection of a client."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._early = bytearray()
        self._server: _ServerSide | None = None
        self._open = False

    def connectionMade(self) -> None:
        if self._proxy.closed:
            self.transport.abortConnection()  # type: ignore[union-attr]
            return
        self._open = True
        self._proxy._sides.add(self)
        factory = Factory.forProtocol(lambda: _ServerSide(self._proxy, self))
        factory.noisy = False
        self._proxy._target.connect(factory).addCallbacks(self._connected, self._refused)

    def _connected(self, server: Any) -> None:
        self._server = server
        if not self._open:
            server.transport.abortConnection()
        elif self._early:
            server.transport.write(bytes(self._early))

    def _refused(self, _: Failure) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        if self._server is None:
            self._early += data
        else:
            self._server.transport.write(data)  # type: ignore[union-attr]

    def say(self, data: bytes) -> None:
        if self._open:
            self.transport.write(data)  # type: ignore[union-attr]

    def say_last(self, data: bytes) -> None:
        self.say(data)
        self._open = False
        self.transport.loseConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._open = False
        self._proxy._sides.discard(self)
        if self._server is not None:
            # What was sent before still arrives.
            self._server.transport.loseConnection()  # type: ignore[union-attr]


class _ServerSide(Protocol):
    """The connection to the server."""

    def __init__(self, proxy: FaultProxy, client: _ClientSide) -> None:
        self._proxy = proxy
        self._client = client

    def connectionMade(self) -> None:
        self._proxy._sides.add(self)

    def dataReceived(self, data: bytes) -> None:
        self._proxy.answered(self._client, data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._proxy._sides.discard(self)
        self._client.transport.loseConnection()  # type: ignore[union-attr]
