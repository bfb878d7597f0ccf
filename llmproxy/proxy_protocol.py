"""The PROXY protocol on our listeners: whose connection it is, told before anything else.

It stands right above the ports, below TLS: a connection begins with the header, within a time, and
is then handed to the wrapped factory as if its peer had come by itself. From there on nothing of
this module has a part in it. It knows nothing of TLS or HTTP.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure

from llmproxy.channel import ip_of
from llmproxy.timeouts import Timeout, Timeouts
from llmproxy.wire.forwarded import TrustedProxies
from llmproxy.wire.proxy_header import ProxyHeader, read_proxy_header


class HeaderReader(Protocol):
    """A connection whose header has not come yet.

    Once it is complete, what the wrapped factory makes takes this protocol's place at the
    transport, and its first bytes are those behind the header.
    """

    _log = Logger()
    transport: Any

    def __init__(self, factory: ProxyProtocolFactory) -> None:
        self._factory = factory
        self._received = b""
        self._deadline: Timeout | None = None
        self._closing = False

    def __repr__(self) -> str:
        return f"<HeaderReader {len(self._received)} bytes>"

    def connectionMade(self) -> None:
        """Begin: the header has its time."""
        self._factory.waiting.add(self)
        timeout_s = self._factory.header_timeout_s
        if timeout_s > 0:
            self._deadline = self._factory.timeouts.start(timeout_s, self._expired)

    def dataReceived(self, data: bytes) -> None:
        """Take a part of the header, and perhaps what follows it."""
        if self._closing:
            return
        self._received += data
        try:
            header = read_proxy_header(self._received)
        except ValueError as error:
            self._refuse(str(error))
            return
        if header is not None:
            self._hand_over(header)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It ended before its header was complete."""
        del reason
        self._end()

    def _end(self) -> None:
        self._factory.waiting.discard(self)
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()

    def _hand_over(self, header: ProxyHeader) -> None:
        self._end()
        transport = self.transport
        peer = _peer(header)
        if peer is not None:
            transport.present_peer(peer)
        protocol = self._factory.wrappedFactory.buildProtocol(transport.getPeer())
        if protocol is None:  # it wants no more connections
            self._close()
            return
        transport.protocol = protocol
        protocol.makeConnection(transport)
        rest = self._received[header.size_bytes :]
        if rest:
            protocol.dataReceived(rest)

    def _refuse(self, reason: str) -> None:
        self._log.debug(
            "a connection of {peer} is closed: {reason}",
            peer=self.transport.getPeer(),
            reason=reason,
        )
        self._end()
        self._close()

    def _expired(self) -> None:
        self._deadline = None
        self._refuse("its PROXY header did not come in server.header_timeout")

    def _close(self) -> None:
        self._closing = True
        self.transport.abortConnection()


class ProxyProtocolFactory(WrappingFactory):
    """Has every connection of another factory begin with a PROXY header.

    Args:
        wrapped: Makes the protocols of the connections; asked once a header is complete.
        trusted: Who may say whose connections these are; None: everybody who can connect.
        reactor: Keeps time.
        header_timeout_s: How long a header may take; 0 is as long as it likes.
        max_waiting: Connections whose header has not come yet; more are closed.

    Attributes:
        timeouts: Of the headers.
        header_timeout_s: How long each may take.
        waiting: The connections whose header has not come yet.
    """

    _log = Logger()

    def __init__(
        self,
        wrapped: IProtocolFactory,
        *,
        trusted: TrustedProxies | None,
        reactor: Any,
        header_timeout_s: float,
        max_waiting: int,
    ) -> None:
        super().__init__(wrapped)
        self.timeouts = Timeouts(reactor)
        self.header_timeout_s = header_timeout_s
        self.waiting: set[HeaderReader] = set()
        self._trusted = trusted
        self._max_waiting = max_waiting

    def __repr__(self) -> str:
        return f"<ProxyProtocolFactory waiting={len(self.waiting)}>"

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:  # type: ignore[override]
        """Wait for a connection's header, if its peer may send one."""
        assert addr is not None, "ports know who connects"
        if self._trusted is not None and not self._trusted.trusts(ip_of(addr)):
            self._log.debug(
                "a connection of {peer} is closed: it is not in server.trusted_proxies", peer=addr
            )
            return None
        if len(self.waiting) >= self._max_waiting:
            return None
        return HeaderReader(self)


def _peer(header: ProxyHeader) -> IAddress | None:
    """Give the address that a header tells of; None: the connection's own stands."""
    if header.is_unix:
        return UNIXAddress(None)
    if not header.ip:
        return None
    kind = IPv6Address if ":" in header.ip else IPv4Address
    return kind("TCP", header.ip, header.port)
