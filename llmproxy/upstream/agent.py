"""Our `IAgent`: requests to one backend, over its pool of connections.

It is bound to one origin, so that a request cannot go anywhere else; it sends what it is given and
adds nothing but Host and the body's length. Foreign exceptions become ours here.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory
from twisted.web.client import URI
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from llmproxy.errors import ConnectFailed, ReusedConnectionDied, TlsFailed
from llmproxy.upstream.connection import BackendConnection
from llmproxy.upstream.pool import ConnectionPool

NO_TIMEOUT_S = 86400.0
"""What ``connect_timeout: 0`` stands for: the endpoint takes no "none"."""


@implementer(IAgent)
class BackendAgent:
    """Sends requests to one backend.

    Args:
        reactor: Connects and keeps time.
        url: The backend's URL; only its origin counts.
        pool: Its idle connections.
        connect_timeout_s: For TCP and TLS together.
        host: The Host field; empty: the URL's.
        tls: Makes the TLS side of a connection; for https.
    """

    def __init__(
        self,
        reactor: Any,
        url: bytes,
        pool: ConnectionPool,
        *,
        connect_timeout_s: float,
        host: bytes = b"",
        tls: IOpenSSLClientConnectionCreator | None = None,
    ) -> None:
        parsed = URI.fromBytes(url)
        self._reactor = reactor
        self._origin = parsed.scheme + b"://" + parsed.netloc
        self._host_line = b"Host: " + (host or parsed.netloc) + b"\r\n"
        self._pool = pool
        self._connect_timeout_s = connect_timeout_s
        endpoint: Any = HostnameEndpoint(
            reactor,
            parsed.host.strip(b"[]"),
            parsed.port,
            timeout=connect_timeout_s or NO_TIMEOUT_S,
        )
        if parsed.scheme == b"https":
            assert tls is not None
            endpoint = wrapClientTLS(tls, endpoint)
        self._endpoint = endpoint

    def __repr__(self) -> str:
        return f"<BackendAgent {self._origin.decode()} {self._pool!r}>"

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Send a request; see `IUpstreamClient.request`.

        Raises:
            ValueError: The URI is not of this backend's origin.
        """
        origin = self._origin
        if not uri.startswith(origin) or uri[len(origin) : len(origin) + 1] != b"/":
            raise ValueError(f"{uri!r} is not below {origin!r}")
        lines = [self._host_line]
        if headers is not None:
            for name, values in headers.getAllRawHeaders():
                lines.extend(b"%s: %s\r\n" % (name, value) for value in values)
        return Deferred.fromCoroutine(
            self._request(method, uri[len(origin) :], lines, bodyProducer)
        )

    async def _request(
        self, method: bytes, target: bytes, lines: list[bytes], body: IBodyProducer | None
    ) -> IResponse:
        connection = self._pool.take()
        if connection is None:
            connection = await self._connect()
        try:
            return await connection.send(method, target, lines, body)
        except ReusedConnectionDied:
            # Its siblings are as old: whoever tries again gets a fresh one.
            self._pool.close_idle()
            raise

    async def _connect(self) -> BackendConnection:
        started_s = self._reactor.seconds()
        factory = Factory.forProtocol(lambda: BackendConnection(self._pool))
        try:
            connection: BackendConnection = await self._endpoint.connect(factory)
        except CancelledError:
            raise
        except (ConnectError, DNSLookupError, ConnectionClosed, SSL.Error, OSError) as error:
            raise ConnectFailed from error
        self._pool.add(connection)
        ready = connection.ready
        if not ready.called and self._connect_timeout_s:
            left_s = self._connect_timeout_s - (self._reactor.seconds() - started_s)
            ready.addTimeout(max(left_s, 0.001), self._reactor)
        try:
            await ready
        except DeferredTimeout as error:
            connection.abort()
            raise TlsFailed("The TLS handshake took longer than connect_timeout.") from error
        except CancelledError:
            connection.abort()
            raise
        return connection
