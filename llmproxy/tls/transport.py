"""The transport of TLS towards clients.

It stands between the listening ports and the site: `EdgeTlsFactory` wraps the site's factory, so
that the channel sees a connection like any other, and beneath it is the transport that the ports
make, with its writes that go out at once. It knows nothing of HTTP.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from llmproxy.tls.contexts import reasons
from llmproxy.tls.subjects import subject_of

CLOSE_WAIT_S = 5.0
"""How long a client may take to close its side after we have closed ours."""


class EdgeTls(TLSMemoryBIOProtocol):
    """One client connection's TLS.

    What is written goes to the transport below in the same turn. A handshake has a time in which it
    must be done. Closing leaves the client some time to read and to close as well, and cutting
    shows it no end of TLS, so that nobody takes what came before for complete.
    """

    _log = Logger()
    factory: EdgeTlsFactory
    _handshake_deadline: IDelayedCall | None = None
    _close_deadline: IDelayedCall | None = None
    _is_open = False

    def makeConnection(self, transport: Any) -> None:
        """Begin: the client's handshake may come."""
        timeout_s = self.factory.handshake_timeout_s
        if timeout_s > 0:
            self._handshake_deadline = self.factory.reactor.callLater(
                timeout_s, self._handshake_expired
            )
        super().makeConnection(transport)

    def dataReceived(self, bytes: bytes) -> None:
        """Take what the client sent, encrypted."""
        super().dataReceived(bytes)
        if not self._is_open:
            connection: SSL.Connection | None = self.getHandle()
            # A client's last word in every handshake is its Finished.
            if connection is not None and connection.get_peer_finished() is not None:
                self._is_open = True
                self._end_handshake_deadline()

    def _handshake_expired(self) -> None:
        self._handshake_deadline = None
        self.abortConnection()

    def _end_handshake_deadline(self) -> None:
        deadline, self._handshake_deadline = self._handshake_deadline, None
        if deadline is not None:
            deadline.cancel()

    def client_subject(self) -> str:
        """Give the subject of the client's verified certificate; empty: it showed none.

        It is known from the handshake's end on.
        """
        certificate = self.getPeerCertificate()
        return "" if certificate is None else subject_of(certificate)

    def loseConnection(self) -> None:
        """Close once all that was written is sent.

        We wait for the client's own close, but not for ever: one that never answers ours would hold
        the connection. Reading on meanwhile also keeps the kernel from sending a reset, which could
        destroy our last words (RFC 9112, section 9.6).
        """
        super().loseConnection()
        if self.connected and self._close_deadline is None:
            self._close_deadline = self.factory.reactor.callLater(CLOSE_WAIT_S, self.close_below)

    def loseWriteConnection(self) -> None:
        """Close our half, and read on for a while: over TLS that is how everything is closed."""
        self.loseConnection()

    def close_below(self) -> None:
        """Wait no longer for the client's own close; what was written is sent all the same."""
        deadline, self._close_deadline = self._close_deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()
        assert self.transport is not None
        self.transport.loseConnection()

    def abortConnection(self) -> None:
        """Cut the connection: the client gets a reset, and before it no sign of a good end."""
        if self.connected:
            transport: Any = self.transport
            transport.abortConnection()
            super().abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the channel; note why a handshake failed."""
        self._end_handshake_deadline()
        deadline, self._close_deadline = self._close_deadline, None
        if deadline is not None:
            deadline.cancel()
        if not self._is_open:
            why = self._reason or reason
            self._log.debug(
                "a TLS handshake with {peer} failed: {reason}",
                peer=self.getPeer(),
                reason=reasons(why.value) or why.getErrorMessage(),
            )
        super().connectionLost(reason)


class EdgeTlsFactory(TLSMemoryBIOFactory):
    """Puts TLS under the connections of another factory.

    Args:
        connections: Makes the TLS side of each connection.
        wrapped: Makes the protocols of the connections.
        reactor: Keeps time.
        handshake_timeout_s: How long a handshake may take; 0 is as long as it likes.

    Attributes:
        reactor: Keeps time for the connections.
        handshake_timeout_s: How long their handshakes may take.
    """

    # Not Twisted's default, which keeps what is written for the reactor's next turn.
    protocol: type[TLSMemoryBIOProtocol] = EdgeTls

    def __init__(
        self,
        connections: IOpenSSLServerConnectionCreator,
        wrapped: IProtocolFactory,
        *,
        reactor: Any,
        handshake_timeout_s: float,
    ) -> None:
        super().__init__(connections, isClient=False, wrappedFactory=wrapped, clock=reactor)
        self.reactor = reactor
        self.handshake_timeout_s = handshake_timeout_s

    def buildProtocol(self, addr: IAddress | None) -> TLSMemoryBIOProtocol | None:  # type: ignore[override]
        """Make a connection's TLS, unless the wrapped factory wants no more connections."""
        wrapped = self.wrappedFactory.buildProtocol(addr)
        return None if wrapped is None else self.protocol(self, wrapped)
