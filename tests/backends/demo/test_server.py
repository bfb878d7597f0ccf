"""Tests of the demo model's life as a service."""

from __future__ import annotations

import socket

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from llmproxy.backends.demo.server import DemoServer
from tests.backends.demo.loopback import LoopbackTestCase

STREAM = b'{"stream":true,"messages":[{"role":"user","content":"hi"}]}'
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: demo\r\nContent-Length: %d\r\n\r\n%b" % (
    len(STREAM),
    STREAM,
)


class RawClient(Protocol):
    """Sends bytes and tells of what comes."""

    def __init__(self) -> None:
        self.received = b""
        self.first: Deferred[None] = Deferred()
        self.closed: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        first = not self.received
        self.received += data
        if first:
            self.first.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell of the end."""
        self.closed.callback(None)


def port_of(server: DemoServer) -> int:
    """Give the port of a server that listens."""
    return int(server.url.rpartition(b":")[2])


async def connect(server: DemoServer) -> RawClient:
    """Open a connection."""
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port_of(server))
    return await connectProtocol(endpoint, RawClient())


async def until_idle(server: DemoServer) -> None:
    """Wait until no stream is sent, a second at most."""
    for _ in range(100):
        if not server.open_streams:
            return
        await deferLater(reactor, 0.01)


class StreamLifeTests(LoopbackTestCase):
    """Streams that end before their time; their words would take minutes."""

    word_interval_s = 60.0

    async def open_stream(self) -> RawClient:
        """Begin a stream and wait for its first piece."""
        client = await connect(self.server)
        assert client.transport is not None
        client.transport.write(REQUEST)
        await client.first
        self.assertEqual(self.server.open_streams, 1)
        return client

    async def test_the_first_piece_comes_at_once(self) -> None:
        """The head and the role do not wait for the first word; `repr` shows the stream."""
        client = await self.open_stream()
        self.assertTrue(client.received.startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertIn(b'"role":"assistant"', client.received)
        self.assertIn("1 streams", repr(self.server))
        self.assertIn(self.server.url.decode(), repr(self.server))
        client.transport.abortConnection()  # type: ignore[union-attr]
        await client.closed

    async def test_a_client_that_leaves_ends_its_stream(self) -> None:
        """No timer is left: the test case looks for them."""
        client = await self.open_stream()
        client.transport.abortConnection()  # type: ignore[union-attr]
        await client.closed
        await until_idle(self.server)
        self.assertEqual(self.server.open_streams, 0)

    async def test_stopping_cuts_streams_and_idle_connections(self) -> None:
        """The cut stream does not look complete."""
        client = await self.open_stream()
        idle = await connect(self.server)
        await self.server.stopService()
        self.assertEqual(self.server.open_streams, 0)
        await client.closed
        await idle.closed
        self.assertNotIn(b"\r\n0\r\n\r\n", client.received)


class ListeningTests(TestCase):
    """The port: taken early, held while the service runs, given back."""

    def setUp(self) -> None:
        """Make a server that does not run yet."""
        self.server = DemoServer(reactor)

    async def test_the_url_is_known_before_the_start(self) -> None:
        """It stays the same, and a connection made before the start is served after it."""
        self.assertEqual(self.server.url, b"")
        url = self.server.listen()
        self.assertRegex(url.decode(), r"^http://127\.0\.0\.1:\d+$")
        self.assertEqual(self.server.listen(), url)
        early = await connect(self.server)
        early.transport.write(b"GET /health HTTP/1.1\r\nHost: demo\r\n\r\n")  # type: ignore[union-attr]
        self.server.startService()
        self.assertEqual(self.server.url, url)
        await early.first
        self.assertIn(b"200 OK", early.received)
        await self.server.stopService()
        await early.closed

    async def test_starting_is_enough(self) -> None:
        """Without `listen` the start takes the port; stopping gives it back; it can start again."""
        for _ in range(2):
            self.server.startService()
            port = port_of(self.server)
            client = await connect(self.server)
            await self.server.stopService()
            await client.closed
            self.assertEqual(self.server.url, b"")
            with self.assertRaises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=1)

    async def test_a_port_that_was_only_taken_is_given_back(self) -> None:
        """Stopping before the start closes the socket."""
        self.server.listen()
        port = port_of(self.server)
        await self.server.stopService()
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1)
