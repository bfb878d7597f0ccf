"""One TLS connection in memory, both ends in the test's hands."""

from __future__ import annotations

import contextlib
import ssl
import time
from typing import Any

from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from llmproxy.config.model import ServerTls
from llmproxy.tls.certificates import Certificates
from llmproxy.tls.transport import EdgeTlsFactory
from tests.upstream.certificates import Authority

NAME = "gateway.test"
TIMEOUT_S = 10.0


class Recorder(Protocol):
    """The protocol above TLS: notes what comes."""

    def __init__(self) -> None:
        self.received = b""
        self.lost: list[Failure] = []

    def dataReceived(self, data: bytes) -> None:
        """Note it."""
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Note it."""
        self.lost.append(reason)


class Pair:
    """One connection in memory: our side over a string transport, and a client of Python's.

    Args:
        settings: Of our side, or its certificates.
        context: The client's.
        name: The name that the client asks for; None: it asks for none.
        more: Further arguments of ``wrap_bio``.

    Attributes:
        clock: Our side's.
        above: The protocol above our TLS.
        tls: Our TLS.
        transport: What is below it.
        client: The client's TLS.
    """

    def __init__(
        self,
        settings: ServerTls | Certificates,
        context: ssl.SSLContext,
        name: str | None = NAME,
        **more: Any,
    ) -> None:
        self.clock = Clock()
        self.above = Recorder()
        above: Any = Factory.forProtocol(lambda: self.above)
        ours = (
            Certificates(settings, Clock(), time.time)
            if isinstance(settings, ServerTls)
            else settings
        )
        self.factory: Any = EdgeTlsFactory(
            ours, above, reactor=self.clock, handshake_timeout_s=TIMEOUT_S
        )
        self.connect()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name, **more)

    def connect(self) -> None:
        """Begin our side, as when a port accepts a connection."""
        self.tls: Any = self.factory.buildProtocol(None)
        self.transport = StringTransport()
        self.tls.makeConnection(self.transport)

    def pump(self, size: int = 1 << 20) -> bool:
        """Carry what both sides have said, so many bytes at a time; tell whether it was any."""
        data = self._outgoing.read()
        for start in range(0, len(data), size):
            self.tls.dataReceived(data[start : start + size])
        self._incoming.write(answered := self.transport.value())
        self.transport.clear()
        return bool(data or answered)

    def shake_hands(self, size: int = 1 << 20) -> None:
        """Do the handshake, and what comes with it."""
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
                while self.pump(size):
                    pass
                return
            assert self.pump(size), "the handshake does not go on"

    def read(self) -> bytes:
        """Give what the client can read; nothing is the end of TLS."""
        while self.pump():
            pass
        return self.client.read(1 << 16)


def trusting(authority: Authority) -> ssl.SSLContext:
    """Make a client's context that trusts an authority."""
    return ssl.create_default_context(cafile=authority.cert_file)
