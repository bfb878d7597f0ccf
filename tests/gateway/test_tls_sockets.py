"""The edge over TLS and real sockets: its last words, its clocks and its backpressure."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from llmproxy.channel import EdgeLimits
from llmproxy.config.model import ServerTls
from llmproxy.listeners import Listeners
from llmproxy.resources.base import answer_json
from llmproxy.site import SURPLUS_CONNECTIONS, EdgeRequest
from llmproxy.tls.certificates import Certificates
from llmproxy.tls.transport import EdgeTlsFactory
from tests.edge import Edge, get, post, read_answers
from tests.upstream.certificates import Authority


class OverTls(TestCase):
    """An edge in memory behind a real port with TLS, and clients of Python's."""

    reactor: Any = global_reactor

    def setUp(self) -> None:
        """Make certificates."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        authority = Authority(Path(folder.name), "authority")
        cert_file, key_file = authority.issue("127.0.0.1")
        self.settings = ServerTls(cert_file=cert_file, key_file=key_file)
        self.context = ssl.create_default_context(cafile=authority.cert_file)

    def listen(self, edge: Edge, handshake_timeout_s: float = 5.0) -> None:
        """Listen on loopback, and leave nothing behind."""
        wrapped: Any = edge.site
        factory = EdgeTlsFactory(
            Certificates(self.settings, self.reactor, time.time),
            wrapped,
            reactor=self.reactor,
            handshake_timeout_s=handshake_timeout_s,
        )
        listeners = Listeners(self.reactor, ["127.0.0.1:0"], factory)
        listeners.privilegedStartService()
        port: Any = listeners.ports[0]
        self.number: int = port.getHost().port

        async def close() -> None:
            await listeners.close()
            edge.site.abort_all()
            while repr(edge.site) != "<EdgeSite 0 connections>":
                await self.turn()

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))

    async def turn(self) -> None:
        """Let the reactor turn."""
        turned: Deferred[None] = Deferred()
        self.reactor.callLater(0.005, turned.callback, None)
        await turned

    def connect(self, receive_buffer_bytes: int = 0) -> ssl.SSLSocket:
        """Connect; in a thread, for it blocks. A cut raises, it is no end."""
        sock = socket.socket()
        sock.settimeout(5)
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.connect(("127.0.0.1", self.number))
        return self.context.wrap_socket(
            sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False
        )

    async def exchange(self, sent: bytes) -> bytes:
        """Send all, then read to the end of TLS."""

        def run() -> bytes:
            with self.connect() as client:
                client.sendall(sent)
                received = b""
                while piece := client.recv(65536):
                    received += piece
                return received

        return await deferToThread(run)

    async def test_a_request(self) -> None:
        """It is answered, and known to be secure."""
        edge = Edge(reactor=self.reactor)
        self.listen(edge)
        (answer,) = read_answers(await self.exchange(get("/", "Connection: close")))
        self.assertEqual(answer.status, 200)
        (request,) = edge.stage.requests
        self.assertTrue(request.secure)
        self.assertEqual(request.client_ip, "127.0.0.1")

    async def test_a_refusal_can_be_read_by_a_client_that_sends_on(self) -> None:
        """A client that sends all of a large body before it reads finds the 413."""
        self.listen(Edge(body_limit_bytes=1000, reactor=self.reactor))
        (answer,) = read_answers(await self.exchange(post(b"x" * 16_000_000)))
        self.assertEqual(answer.status, 413)
        self.assertEqual(answer.error_code, "request_too_large")

    async def test_an_error_can_be_read_by_a_client_that_sends_on(self) -> None:
        """So does one that sent what cannot be understood, and 16 MB behind it."""
        self.listen(Edge(reactor=self.reactor))
        (answer,) = read_answers(await self.exchange(b"GET x\r\n\r\n" + b"x" * 16_000_000))
        self.assertEqual(answer.status, 400)

    async def test_a_client_that_never_shakes_hands(self) -> None:
        """It is cut, and its place is free again."""
        edge = Edge(reactor=self.reactor)
        self.listen(edge, handshake_timeout_s=0.2)

        def wait() -> float:
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", self.number), 5) as client:
                client.sendall(b"\x16")
                with contextlib.suppress(ConnectionResetError):
                    self.assertEqual(client.recv(10), b"")
                return time.monotonic() - began

        self.assertLess(await deferToThread(wait), 2)
        while repr(edge.site) != "<EdgeSite 0 connections>":
            await self.turn()

    async def test_no_room(self) -> None:
        """A connection over all limits is closed, and nobody is harmed by it."""
        edge = Edge(max_connections=1 - SURPLUS_CONNECTIONS, reactor=self.reactor)
        self.listen(edge)

        def run() -> bytes:
            with self.connect() as first:
                with self.assertRaises((ssl.SSLError, ConnectionError)):
                    self.connect()
                first.sendall(get("/", "Connection: close"))
                return first.recv(65536)

        self.assertTrue((await deferToThread(run)).startswith(b"HTTP/1.1 200 "))

    async def test_a_kept_connection_that_waits_too_long(self) -> None:
        """Its end is told in TLS."""
        edge = Edge(limits=EdgeLimits(idle_timeout_s=0.2), reactor=self.reactor)
        self.listen(edge)
        (answer,) = read_answers(await self.exchange(get("/")))
        self.assertEqual(answer.status, 200)

    async def test_a_client_that_leaves(self) -> None:
        """The request is told, whether TLS was ended well or not."""
        left: list[str] = []

        def behaviour(request: EdgeRequest) -> None:
            request.on_gone(lambda: left.append(request.uri.decode()))
            request.begin(200, b"", [])
            request.write(b"so far")

        self.listen(Edge(behaviour, reactor=self.reactor))

        def leave(path: str, end: Callable[[ssl.SSLSocket], object]) -> None:
            with self.connect() as client:
                client.sendall(get(path))
                client.recv(65536)
                end(client)

        await deferToThread(leave, "/well", lambda client: client.unwrap())
        await deferToThread(leave, "/badly", lambda client: client.shutdown(socket.SHUT_RDWR))
        while len(left) < 2:
            await self.turn()
        self.assertEqual(left, ["/well", "/badly"])

    async def test_a_slow_client_is_not_a_stalled_one(self) -> None:
        """Whoever takes a little now and then keeps its connection, though the buffer is full.

        Whoever takes nothing loses it.
        """
        size = 6_000_000
        edge = Edge(
            lambda request: answer_json(request, 200, "x" * size),
            limits=EdgeLimits(write_stall_timeout_s=0.3),
            reactor=self.reactor,
        )
        self.listen(edge)

        def download(connection: str, take_some: bool) -> bytes:
            with self.connect(65536) as client:
                client.sendall(get("/", f"Connection: {connection}"))
                received = b""
                for _ in range(12):
                    time.sleep(0.1)
                    end = len(received) + 100_000
                    while take_some and len(received) < end:
                        received += client.recv(100_000)
                with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
                    while len(received) < size and (piece := client.recv(1_000_000)):
                        received += piece
                return received

        downloads = [
            deferToThread(download, connection, take_some)
            for connection in ("close", "keep-alive")
            for take_some in (True, False)
        ]
        for slow, stalled in (downloads[:2], downloads[2:]):
            self.assertGreater(len(await slow), size)
            self.assertLess(len(await stalled), size)

    async def test_an_answer_that_breaks_off(self) -> None:
        """One that only its connection's end frames does not end well."""

        def behaviour(request: EdgeRequest) -> None:
            request.begin(200, b"", [])
            request.write(b"so far")
            request.break_off(b"")

        self.listen(Edge(behaviour, reactor=self.reactor))

        def run() -> None:
            with self.connect() as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                while client.recv(65536):
                    pass

        with self.assertRaises((ConnectionResetError, ssl.SSLEOFError)):
            await deferToThread(run)
