"""The transport that sends at once: order, backpressure and ends, over real sockets."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from llmproxy.transport import ImmediateServer


class Peer(Protocol):
    """The server's protocol; the test writes through its transport."""

    def __init__(self, test: TransportTests) -> None:
        self._test = test
        self.paused = 0
        self.resumed = 0
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        """Tell the test."""
        self._test.connected.callback(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the test."""
        self.lost.callback(None)

    def pauseProducing(self) -> None:
        """Count."""
        self.paused += 1

    def resumeProducing(self) -> None:
        """Count."""
        self.resumed += 1

    def stopProducing(self) -> None:
        """Nothing."""


class TransportTests(TestCase):
    """`ImmediateServer` on a listening port."""

    async def _connect(self) -> tuple[Peer, Any, socket.socket]:
        """Connect a socket; give the server's protocol, its transport and the socket."""
        self.connected: Deferred[Peer] = Deferred()
        factory: Any = Factory.forProtocol(lambda: Peer(self))
        port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
        port.transport = ImmediateServer
        self.addCleanup(port.stopListening)
        client = socket.create_connection(("127.0.0.1", port.getHost().port))
        self.addCleanup(client.close)
        client.settimeout(5)
        peer = await self.connected
        assert isinstance(peer.transport, ImmediateServer)
        return peer, peer.transport, client

    async def _take(self, client: socket.socket, size: int) -> bytes:
        """Read so many bytes while the reactor runs."""
        client.setblocking(False)
        parts, have = [], 0
        while have < size:
            try:
                part = client.recv(1 << 20)
            except BlockingIOError:
                await deferLater(reactor, 0.001, lambda: None)
                continue
            assert part, "closed too early"
            parts.append(part)
            have += len(part)
        return b"".join(parts)

    async def test_sent_within_the_write(self) -> None:
        """The bytes are in the client's socket before the reactor turns again."""
        peer, transport, client = await self._connect()
        transport.write(b"now")
        assert client.recv(10) == b"now"
        transport.writeSequence([b"a", b"", b"bc"])
        assert client.recv(10) == b"abc"
        assert not transport.dataBuffer
        transport.loseConnection()
        await peer.lost

    async def test_order_is_kept_when_the_kernel_is_full(self) -> None:
        """What does not fit is queued, and what follows goes behind it."""
        peer, transport, client = await self._connect()
        pieces = [bytes([65 + number]) * 3_000_000 for number in range(5)] + [b"tail", b"!"]
        for piece in pieces[:3]:
            transport.write(piece)
        transport.writeSequence(pieces[3:])
        wanted = b"".join(pieces)
        assert await self._take(client, len(wanted)) == wanted
        transport.write(b"and on")
        assert await self._take(client, 6) == b"and on"
        transport.loseConnection()
        await peer.lost

    async def test_producer(self) -> None:
        """A producer is paused while the client takes nothing, and resumed when it does."""
        peer, transport, client = await self._connect()
        transport.registerProducer(peer, True)
        transport.write(b"x" * 20_000_000)
        assert peer.paused == 1
        await self._take(client, 20_000_000)
        await deferLater(reactor, 0.01, lambda: None)
        assert peer.resumed == 1
        transport.unregisterProducer()
        transport.loseConnection()
        await peer.lost

    async def test_all_is_sent_before_the_close(self) -> None:
        """`loseConnection` waits for what is queued."""
        peer, transport, client = await self._connect()
        transport.write(b"y" * 20_000_000)
        transport.loseConnection()
        assert len(await self._take(client, 20_000_000)) == 20_000_000
        await peer.lost

    async def test_half_close(self) -> None:
        """`loseWriteConnection` ends our side after what was written."""
        peer, transport, client = await self._connect()
        transport.write(b"bye")
        transport.loseWriteConnection()
        await deferLater(reactor, 0.01, lambda: None)
        assert client.recv(10) == b"bye"
        assert client.recv(10) == b""
        client.close()
        await peer.lost

    async def test_nothing_after_an_abort(self) -> None:
        """What is written after `abortConnection` is not sent."""
        peer, transport, client = await self._connect()
        transport.abortConnection()
        transport.write(b"late")
        await peer.lost
        with self.assertRaises(ConnectionResetError):
            client.recv(10)

    async def test_client_that_has_gone(self) -> None:
        """A write into a broken connection does not tell its loss from inside the write."""
        peer, transport, client = await self._connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        client.close()
        for _ in range(3):
            transport.write(b"into the void")
            assert not peer.lost.called
        await peer.lost
        transport.write(b"still allowed")

    async def test_on_behalf_of_another(self) -> None:
        """Its peer is who connected, until another is presented."""
        peer, transport, client = await self._connect()
        assert transport.getPeer().port == client.getsockname()[1]
        transport.present_peer(IPv4Address("TCP", "192.0.2.7", 9))
        assert transport.getPeer() == IPv4Address("TCP", "192.0.2.7", 9)
        transport.loseConnection()
        await peer.lost
