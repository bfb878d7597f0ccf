"""TLS towards clients: our certificate, and the transport that speaks with it.

It stands between the listening ports and the site: `EdgeTlsFactory` wraps the site's factory, so
that the channel sees a connection like any other, and beneath it is the transport that the ports
make, with its writes that go out at once. It knows nothing of HTTP but the names that ALPN has for
it. Another protocol is a name more in `PROTOCOLS`, and a protocol from the wrapped factory that is
an `IHandshakeListener` and looks at its transport's ``negotiatedProtocol``.
"""

from __future__ import annotations

from typing import Any, Final

from OpenSSL import SSL, crypto
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
from zope.interface import implementer

from llmproxy.config.model import ServerTls

PROTOCOLS: Final = (b"http/1.1", b"http/1.0")
"""What ALPN may choose, the best first."""

CLOSE_WAIT_S = 5.0
"""How long a client may take to close its side after we have closed ours."""

_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all good
_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}


@implementer(IOpenSSLServerConnectionCreator)
class ServerConnections:
    """Makes the TLS side of client connections, all with one certificate.

    Args:
        settings: ``server.tls``; its files are there, the loader has looked.

    Raises:
        OSError: A file cannot be read.
        ValueError: It holds no certificate or key, or the two do not belong together.
    """

    def __init__(self, settings: ServerTls) -> None:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(_VERSIONS[settings.min_version])
        context.set_cipher_list(_CIPHERS)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        # An idle connection keeps no buffers. Sessions are the clients' to keep, as tickets.
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_alpn_select_callback(_choose_protocol)
        with open(settings.cert_file, "rb"), open(settings.key_file, "rb") as file:
            pem = file.read()
        try:
            # With a passphrase given, OpenSSL never asks for one at the terminal.
            loaded = crypto.load_privatekey(crypto.FILETYPE_PEM, pem, passphrase=b"")
            key: Any = loaded.to_cryptography_key()
            context.use_certificate_chain_file(settings.cert_file)
            context.use_privatekey(key)
            context.check_privatekey()
        except (SSL.Error, crypto.Error) as error:
            names = f"{settings.cert_file} and {settings.key_file}"
            raise ValueError(f"{names} cannot be used: {_reasons(error)}") from error
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Make the TLS side of one connection."""
        del tlsProtocol
        return SSL.Connection(self._context, None)


def _choose_protocol(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """Choose one of the protocols that a client offers by ALPN.

    Raises:
        SSL.Error: It offers none of ours, which ends the handshake (RFC 7301, section 3.2).
    """
    del connection
    for protocol in PROTOCOLS:
        if protocol in offered:
            return protocol
    raise SSL.Error([("SSL routines", "", "no application protocol")])


def _reasons(error: BaseException | None) -> str:
    """Give OpenSSL's reasons in words."""
    queue = error.args[0] if error is not None and error.args else ""
    if isinstance(queue, list):
        return "; ".join(reason for _, _, reason in queue)
    return str(error)


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

    def loseConnection(self) -> None:
        """Close once all that was written is sent.

        We wait for the client's own close, but not for ever: one that never answers ours would hold
        the connection. Reading on meanwhile also keeps the kernel from sending a reset, which could
        destroy our last words (RFC 9112, section 9.6).
        """
        super().loseConnection()
        if self.connected and self._close_deadline is None:
            self._close_deadline = self.factory.reactor.callLater(CLOSE_WAIT_S, self._close_below)

    def loseWriteConnection(self) -> None:
        """Close our half, and read on for a while: over TLS that is how everything is closed."""
        self.loseConnection()

    def _close_below(self) -> None:
        self._close_deadline = None
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
                reason=_reasons(why.value) or why.getErrorMessage(),
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
