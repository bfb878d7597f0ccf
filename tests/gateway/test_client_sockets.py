"""The edge over real sockets: what only the kernel can show."""

from __future__ import annotations

import socket
import tempfile
import time
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from llmproxy.channel import EdgeLimits
from llmproxy.resources.base import answer_json
from tests.edge import Edge, get, post, read_answers


class Loopback(TestCase):
    """What only the kernel can show."""

    reactor: Any = global_reactor

    def listen(self, edge: Edge) -> int:
        """Listen on loopback, and leave nothing behind."""
        port = self.reactor.listenTCP(0, edge.site, interface="127.0.0.1")
        self.addCleanup(self._close, edge, port)
        number: int = port.getHost().port
        return number

    async def _close(self, edge: Edge, port: Any) -> None:
        await port.stopListening()
        edge.site.abort_all()

    async def test_a_refusal_can_be_read_by_a_client_that_sends_on(self) -> None:
        """A client that sends all of a large body before it reads finds the 413."""
        edge = Edge(body_limit_bytes=1000, reactor=self.reactor)
        number = self.listen(edge)

        def upload() -> bytes:
            with socket.create_connection(("127.0.0.1", number), 5) as client:
                client.sendall(post(b"x" * 16_000_000))
                received = b""
                while piece := client.recv(65536):
                    received += piece
                return received

        (answer,) = read_answers(await deferToThread(upload))
        self.assertEqual(answer.status, 413)
        self.assertEqual(answer.error_code, "request_too_large")

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
        number = self.listen(edge)

        def download(connection: str, take_some: bool) -> bytes:
            with socket.socket() as client:
                client.settimeout(5)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                client.connect(("127.0.0.1", number))
                client.sendall(get("/", f"Connection: {connection}"))
                received = b""
                for _ in range(12):
                    time.sleep(0.1)
                    received += client.recv(100_000) if take_some else b""
                try:
                    while len(received) < size and (piece := client.recv(1_000_000)):
                        received += piece
                except ConnectionResetError:
                    return b""
                return received

        downloads = [
            deferToThread(download, connection, take_some)
            for connection in ("close", "keep-alive")
            for take_some in (True, False)
        ]
        for slow, stalled in (downloads[:2], downloads[2:]):
            self.assertGreater(len(await slow), size)
            self.assertLess(len(await stalled), size)

    async def test_a_unix_socket(self) -> None:
        """It works like any other; its client has no address."""
        edge = Edge(reactor=self.reactor)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = f"{folder.name}/socket"
        port = self.reactor.listenUNIX(path, edge.site)
        self.addCleanup(self._close, edge, port)

        def ask() -> bytes:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(path)
                client.sendall(get("/", "Connection: close"))
                received = b""
                while piece := client.recv(65536):
                    received += piece
                return received

        (answer,) = read_answers(await deferToThread(ask))
        self.assertEqual(answer.status, 200)
        self.assertEqual(edge.stage.requests[0].client_ip, "")
