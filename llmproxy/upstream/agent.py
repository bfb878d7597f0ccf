"""Our `IAgent`: requests to one backend, over its pool of connections.

It is bound to one origin, so that a request cannot go anywhere else; it sends what it is given and
adds nothing but Host and the body's length. Foreign exceptions become ours here.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

from OpenSSL import SSL
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IAddress, IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.web.client import URI
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from llmproxy.descriptors import DescriptorShortage
from llmproxy.errors import ConnectFailed, Overloaded, ReusedConnectionDied, TlsFailed
from llmproxy.upstream.connection import BackendConnection
from llmproxy.upstream.pool import ConnectionPool

NO_TIMEOUT_S = 86400.0
"""What ``connect_timeout: 0`` stands for: the endpoint takes no "none"."""

_TARGET = re.compile(rb"/[\x21\x22\x24-\x7e]*\Z")  # visible ASCII, without "#"
_T = TypeVar("_T")

_CONNECT_ERRORS = (
    ConnectError,
    DNSLookupError,
    ConnectionClosed,
    DeferredTimeout,
    SSL.Error,
    OSError,
    ValueError,  # the endpoint's word for a host that is no name
)


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
        shortage: Knows when we have no descriptors left.
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
        shortage: DescriptorShortage,
    ) -> None:
        parsed = URI.fromBytes(url)
        self._reactor = reactor
        self._origin = parsed.scheme + b"://" + parsed.netloc
        self._host_line = b"Host: " + (host or parsed.netloc) + b"\r\n"
        self._pool = pool
        self._connect_timeout_s = connect_timeout_s
        self._shortage = shortage
        endpoint: Any = _endpoint(
            reactor,
            parsed.host.strip(b"[]").decode("ascii"),
            parsed.port,
            connect_timeout_s or NO_TIMEOUT_S,
        )
        if parsed.scheme == b"https":
            assert tls is not None
            endpoint = wrapClientTLS(tls, endpoint)
        self._endpoint = endpoint
        self._factory = _Connections(pool)

    def __repr__(self) -> str:
        return f"<BackendAgent {self._origin.decode()} {self._pool!r}>"

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Send a request, as `IAgent` has it; see `send` for what it raises."""
        lines = [
            b"%b: %b\r\n" % (name, value)
            for name, values in (() if headers is None else headers.getAllRawHeaders())
            for value in values
        ]
        return self.send(method, uri, b"".join(lines), bodyProducer)

    def send(
        self,
        method: bytes,
        uri: bytes,
        lines: bytes,
        body: IBodyProducer | None,
    ) -> Deferred[IResponse]:
        """Send a request with its field lines as they stand there; see `IUpstreamClient.request`.

        Raises:
            ValueError: The URI is not of this backend's origin or holds what would end the request
                line, or the body's length is not known.
        """
        origin = self._origin
        target = uri[len(origin) :]
        if not uri.startswith(origin) or not _TARGET.match(target):
            raise ValueError(f"{uri!r} is not a path below {origin!r}")
        if body is not None and body.length is UNKNOWN_LENGTH:
            raise ValueError("the body's length must be known")
        lines = self._host_line + lines
        connection = self._pool.take()
        if connection is None:
            return Deferred.fromCoroutine(self._send_afresh(method, target, lines, body))
        answer: Deferred[Any] = connection.send(method, target, lines, body)
        return answer.addErrback(self._reused_failed)

    async def _send_afresh(
        self, method: bytes, target: bytes, lines: bytes, body: IBodyProducer | None
    ) -> IResponse:
        connection = await self._connect()
        return await connection.send(method, target, lines, body)

    def _reused_failed(self, failure: Failure) -> Failure:
        if failure.check(ReusedConnectionDied):
            # Its siblings are as old: whoever tries again at once gets a fresh one.
            self._pool.close_idle()
        return failure

    async def _connect(self) -> BackendConnection:
        started_s = self._reactor.seconds()
        connecting: Deferred[BackendConnection] = _cancelled_as_such(
            self._endpoint.connect(self._factory)
        )
        if self._connect_timeout_s:
            # The endpoint's own timeout is per address, and not for the look-up of the name.
            connecting.addTimeout(self._connect_timeout_s, self._reactor)
        try:
            connection = await connecting
        except _CONNECT_ERRORS as error:
            ours = self._shortage.explains(error)
            raise (Overloaded if ours else ConnectFailed) from error
        self._pool.add(connection)
        transport: Any = connection.transport
        if isinstance(transport, Connection):
            # The endpoint's wrapper has done what it was for; every read would go through it.
            transport.protocol = connection
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


class _Connections(Factory):
    """Makes connections for a pool."""

    noisy = False  # not a line in the log for each

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def buildProtocol(self, addr: IAddress | None) -> BackendConnection:
        """Make one."""
        del addr
        return BackendConnection(self._pool)


def _endpoint(reactor: Any, host: str, port: int, timeout_s: float) -> Any:
    """Make the endpoint of a host; one that is an address need not be looked up, at great cost."""
    if isIPAddress(host):
        return TCP4ClientEndpoint(reactor, host, port, timeout=timeout_s)
    if isIPv6Address(host):
        return TCP6ClientEndpoint(reactor, host, port, timeout=timeout_s)
    return HostnameEndpoint(reactor, host, port, timeout=timeout_s)


def _cancelled_as_such(connecting: Deferred[_T]) -> Deferred[_T]:
    """Make a Deferred fail with `CancelledError` when it is cancelled.

    An endpoint's own fails then with `ConnectingCancelledError`, or, while it looks up a name, with
    the `DNSLookupError` that would stand for an unreachable backend.
    """
    given_up = False

    def give_up(_: object) -> None:
        nonlocal given_up
        given_up = True
        connecting.cancel()

    def pass_on(result: _T | Failure) -> None:
        if not given_up:
            cleanly.callback(result)

    cleanly: Deferred[_T] = Deferred(give_up)
    connecting.addBoth(pass_on)
    return cleanly
