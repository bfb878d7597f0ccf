"""The demo model as a Twisted service on a loopback port of its own.

It must not know who calls it: there is no authentication, because only this machine can.
"""

from __future__ import annotations

import socket

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IReactorSocket, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure

from llmproxy.backends.demo.pacing import Pacer
from llmproxy.backends.demo.site import DemoSite

_BACKLOG = 1024


class DemoServer(Service):
    """Serves the demo model on 127.0.0.1, on a free port.

    Args:
        reactor: Must also provide `IReactorSocket`.
        word_interval_s: Seconds between two words of a stream.
    """

    def __init__(self, reactor: IReactorTime, *, word_interval_s: float = 0.03) -> None:
        self._reactor = reactor
        self._pacer = Pacer(reactor, word_interval_s)
        self._connections = OpenConnections(DemoSite(reactor, self._pacer))
        self._socket: socket.socket | None = None
        self._port: IListeningPort | None = None
        self._url = b""

    def __repr__(self) -> str:
        place = self._url.decode() or "not listening"
        return f"<DemoServer {place}, {self.open_streams} streams>"

    @property
    def url(self) -> bytes:
        """The origin, ``b"http://127.0.0.1:PORT"``; empty before `listen` or `startService`."""
        return self._url

    @property
    def open_streams(self) -> int:
        """How many streams are being sent."""
        return self._pacer.running

    def listen(self) -> bytes:
        """Take a port, so that the URL is known before the service starts.

        The reactor has no part in it: a daemon may still fork. Connections made before the start
        wait for it.

        Returns:
            The URL.

        Raises:
            OSError: There is no port to be had.
        """
        if not self._url:
            self._socket = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
            self._socket.setblocking(False)  # the reactor takes it as it is
            self._url = b"http://127.0.0.1:%d" % self._socket.getsockname()[1]
        return self._url

    def startService(self) -> None:
        """Serve, on the port that `listen` took or on a new one."""
        self.listen()
        if self._socket is not None:
            self._port = IReactorSocket(self._reactor).adoptStreamPort(
                self._socket.fileno(),
                socket.AF_INET,
                self._connections,  # type: ignore[arg-type]
            )
            self._close_socket()  # the reactor has its own duplicate
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Stop listening, and end what is open: a stream that was running is cut.

        Returns:
            A Deferred that fires when the port and all connections are closed; do not cancel it.
        """
        super().stopService()
        self._close_socket()
        self._url = b""
        port, self._port = self._port, None
        closed = succeed(None) if port is None else port.stopListening() or succeed(None)
        return closed.addCallback(lambda _: self._connections.end_all())

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Connection(ProtocolWrapper):
    """One connection, which tells when it is gone."""

    factory: OpenConnections

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.factory.lost()


class OpenConnections(WrappingFactory[_Connection]):
    """Knows the connections of a factory, so that they can be ended."""

    protocol = _Connection
    noisy = False

    def __init__(self, site: DemoSite) -> None:
        super().__init__(site)
        self._all_ended: Deferred[None] | None = None

    def end_all(self) -> Deferred[None]:
        """Abort every connection.

        Returns:
            A Deferred that fires when all of them are gone.
        """
        if not self.protocols:
            return succeed(None)
        self._all_ended = Deferred()
        for connection in list(self.protocols):
            connection.transport.abortConnection()
        return self._all_ended

    def lost(self) -> None:
        """Note that a connection is gone."""
        if self._all_ended is not None and not self.protocols:
            ended, self._all_ended = self._all_ended, None
            ended.callback(None)
