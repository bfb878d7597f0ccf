"""Tests of `llmproxy.upstream.tls`, against real TLS servers on loopback."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmproxy.config.model import BackendTls
from llmproxy.upstream.body import BytesBody
from llmproxy.upstream.tls import tls_connections
from tests.scripted_backend import Connection, ScriptedBackend
from tests.upstream.certificates import Authority
from tests.upstream.loopback import UpstreamTestCase
from tests.upstream.receiver import Receiver


def over_tls(
    context: ssl.SSLContext, script: Callable[[Connection], None]
) -> Callable[[Connection], None]:
    """Make a script that runs over TLS; a handshake that fails ends it."""

    def run(connection: Connection) -> None:
        connection.sock.settimeout(5)
        with contextlib.suppress(ssl.SSLError):
            connection.sock = context.wrap_socket(connection.sock, server_side=True)
            with connection.sock:
                script(connection)

    return run


def answers(connection: Connection) -> None:
    """Answer requests until the peer has enough."""
    while seen := connection.read_request():
        connection.answer(seen.body or b"ok")
    with contextlib.suppress(OSError):
        connection.sock.unwrap()  # type: ignore[attr-defined]


class TlsTests(UpstreamTestCase):
    """A backend on https, and how it is believed."""

    def setUp(self) -> None:
        """Make an authority."""
        self.folder = self.make_folder()
        self.authority = Authority(self.folder, "authority")
        self.context = self.authority.server_context("127.0.0.1", "localhost")

    def tls_backend(
        self,
        script: Callable[[Connection], None] = answers,
        context: ssl.SSLContext | None = None,
    ) -> ScriptedBackend:
        """Start a backend with a certificate for the loopback."""
        return self.backend(over_tls(context or self.context, script))

    def https(self, backend: ScriptedBackend) -> str:
        """Give its URL."""
        return f"https://127.0.0.1:{backend.port}"

    def tls_agent(self, backend: ScriptedBackend, **tls: Any) -> Any:
        """Make an agent that trusts the authority, unless told otherwise."""
        options = {name: tls.pop(name) for name in ("connect_timeout_s", "pool") if name in tls}
        tls.setdefault("ca_file", self.authority.cert_file)
        settings = BackendTls(**tls)
        return self.agent(
            self.https(backend), tls=tls_connections(settings, "127.0.0.1"), **options
        )

    async def body_of(self, backend: ScriptedBackend, **tls: Any) -> bytes:
        """Send a request and give the answer's body."""
        response = await self.ask(self.tls_agent(backend, **tls), self.https(backend) + "/")
        return (await self.receive(response)).body

    async def failing(self, backend: ScriptedBackend, **tls: Any) -> str:
        """Send a request and name its failure."""
        agent = self.tls_agent(backend, **tls)
        url = self.https(backend).encode() + b"/"
        # Longer than one write: it must not go anywhere either.
        return await self.failure_of(agent.request(b"POST", url, None, BytesBody(bytes(1 << 20))))

    async def test_verified(self) -> None:
        """The authority is trusted, the name is right."""
        self.assertEqual(await self.body_of(self.tls_backend()), b"ok")

    async def test_wrong_name(self) -> None:
        """A certificate for another host is no certificate, and the request stays here."""
        backend = self.tls_backend(context=self.authority.server_context("other.test"))
        self.assertEqual(await self.failing(backend), "TlsFailed")
        self.assertEqual(backend.seen, [])

    async def test_untrusted(self) -> None:
        """Nor is one of another authority; nor, without ca_file, one that the system lacks."""
        other = Authority(self.folder, "other")
        backend = self.tls_backend()
        self.assertEqual(await self.failing(backend, ca_file=other.cert_file), "TlsFailed")
        self.assertEqual(await self.failing(backend, ca_file=""), "TlsFailed")
        self.assertEqual(backend.seen, [])

    async def test_several_authorities_in_one_file(self) -> None:
        """Each of them is trusted."""
        other = Authority(self.folder, "other")
        both = self.folder / "both.pem"
        both.write_bytes(b"# ours\n" + other.pem + b"\n# theirs\n" + self.authority.pem)
        self.assertEqual(await self.body_of(self.tls_backend(), ca_file=str(both)), b"ok")

    async def test_not_verified(self) -> None:
        """With ``verify: false`` whoever answers is believed, as the operator wants it."""
        backend = self.tls_backend(context=self.authority.server_context("other.test"))
        self.assertEqual(await self.body_of(backend, verify=False, ca_file=""), b"ok")

    async def test_server_name(self) -> None:
        """The name that is asked for is the name that is checked."""
        for verify in (True, False):
            asked: list[str | None] = []
            context = self.authority.server_context("model.test")
            context.sni_callback = lambda _, name, __, asked=asked: asked.append(name)
            backend = self.tls_backend(context=context)
            body = await self.body_of(backend, server_name="model.test", verify=verify)
            self.assertEqual((body, asked), (b"ok", ["model.test"]))
        backend = self.tls_backend()
        self.assertEqual(await self.failing(backend, server_name="model.test"), "TlsFailed")

    async def test_no_server_name_for_an_address(self) -> None:
        """An address is no name (RFC 6066, section 3)."""
        for verify in (True, False):
            asked: list[str | None] = []
            self.context.sni_callback = lambda _, name, __, asked=asked: asked.append(name)
            self.assertEqual(await self.body_of(self.tls_backend(), verify=verify), b"ok")
            self.assertEqual(asked, [None])

    async def test_client_certificate(self) -> None:
        """It is shown to a backend that asks, with its key in the same file or in another."""
        cert_file, key_file = self.authority.issue("gateway.test")
        joined = self.folder / "joined.pem"
        joined.write_bytes(Path(cert_file).read_bytes() + Path(key_file).read_bytes())
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_verify_locations(self.authority.cert_file)
        subjects: list[Any] = []

        def script(connection: Connection) -> None:
            certificate: Any = connection.sock.getpeercert()  # type: ignore[attr-defined]
            subjects.append(certificate["subjectAltName"])
            answers(connection)

        backend = self.tls_backend(script)
        for shown in (
            {"cert_file": cert_file, "key_file": key_file},
            {"cert_file": str(joined)},
            {"cert_file": str(joined), "verify": False},
        ):
            self.assertEqual(await self.body_of(backend, **shown), b"ok")
        self.assertEqual(subjects, [(("DNS", "gateway.test"),)] * 3)

    async def test_client_certificate_with_its_chain(self) -> None:
        """The certificates that stand between it and the authority are shown with it."""
        middle = Authority(self.folder, "middle", self.authority)
        cert_file, key_file = middle.issue("gateway.test")
        chain = self.folder / "chain.pem"
        chain.write_bytes(Path(cert_file).read_bytes() + middle.pem)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_verify_locations(self.authority.cert_file)
        for verify in (True, False):
            body = await self.body_of(
                self.tls_backend(), cert_file=str(chain), key_file=key_file, verify=verify
            )
            self.assertEqual(body, b"ok")

    async def test_client_certificate_missing(self) -> None:
        """TLS 1.2 says so in the handshake; in 1.3 it comes after, when the request is out."""
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_verify_locations(self.authority.cert_file)
        self.assertIn(await self.failing(self.tls_backend()), ("ConnectionDied", "TlsFailed"))
        self.context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.assertEqual(await self.failing(self.tls_backend()), "TlsFailed")

    async def test_handshake_that_hangs(self) -> None:
        """TCP and TLS have ``connect_timeout`` together; then the connection is cut."""

        def script(connection: Connection) -> None:
            connection.wait_for_close()

        backend = self.backend(script)
        started_at = time.monotonic()
        self.assertEqual(await self.failing(backend, connect_timeout_s=0.1), "TlsFailed")
        self.assertLess(time.monotonic() - started_at, 0.5)
        await self.until(lambda: bool(backend.closed_at))

    async def test_cancelled_in_the_handshake(self) -> None:
        """The backend sees the connection close at once."""

        def script(connection: Connection) -> None:
            connection.sock.recv(1)
            begun.append(True)
            connection.wait_for_close()

        begun: list[bool] = []
        backend = self.backend(script)
        answer = self.tls_agent(backend).request(b"GET", self.https(backend).encode() + b"/")
        await self.until(lambda: bool(begun))
        cancelled_at = time.monotonic()
        answer.cancel()
        self.assertEqual(await self.failure_of(answer), "CancelledError")
        await self.until(lambda: bool(backend.closed_at))
        self.assertLess(backend.closed_at[0] - cancelled_at, 0.25)

    async def test_plain_text_on_an_https_url(self) -> None:
        """What answers is not TLS."""

        def script(connection: Connection) -> None:
            connection.sock.recv(1000)
            connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        self.assertEqual(await self.failing(self.backend(script)), "TlsFailed")

    async def test_closed_in_the_handshake(self) -> None:
        """A backend that hangs up before TLS is there."""

        def script(connection: Connection) -> None:
            connection.sock.recv(10)

        self.assertEqual(await self.failing(self.backend(script)), "TlsFailed")

    async def test_large_bodies(self) -> None:
        """They pass both ways, byte for byte."""
        octets = bytes(range(256)) * 16384
        backend = self.tls_backend()
        agent = self.tls_agent(backend)
        for _ in range(2):
            response = await self.ask(
                agent, self.https(backend) + "/", b"POST", body=BytesBody(octets)
            )
            self.assertTrue((await self.receive(response)).body == octets)
        self.assertEqual(backend.connections, 1)

    async def test_connection_is_used_again(self) -> None:
        """One handshake serves many requests."""
        backend = self.tls_backend()
        pool = self.pool()
        agent = self.tls_agent(backend, pool=pool)
        for number in (1, 2, 3):
            response = await self.ask(agent, self.https(backend) + "/")
            self.assertEqual((await self.receive(response)).body, b"ok")
            self.assertEqual((backend.connections, len(backend.seen)), (1, number))
        self.assertEqual(pool.counts, (1, 1))

    async def test_closed_right_behind_the_answer(self) -> None:
        """A connection of which the end has come is not used again, with a goodbye or without."""
        received, closed = threading.Event(), threading.Event()

        def goodbye(connection: Connection) -> None:
            connection.sock.setblocking(False)
            with contextlib.suppress(ssl.SSLWantReadError):
                connection.sock.unwrap()  # type: ignore[attr-defined]

        def without_goodbye(connection: Connection) -> None:
            connection.sock.shutdown(socket.SHUT_WR)

        for end in (goodbye, without_goodbye):

            def script(connection: Connection, end: Any = end) -> None:
                connection.read_request()
                connection.answer(b"ok")
                received.wait(5)  # or both could be read in one go
                received.clear()
                end(connection)
                closed.set()
                connection.sock.setblocking(True)
                connection.wait_for_close()

            backend = self.tls_backend(script)
            agent = self.tls_agent(backend)
            for number in (1, 2, 3):
                receiver = await self.receive(await self.ask(agent, self.https(backend) + "/"))
                self.assertEqual((receiver.end, backend.connections), ("ResponseDone", number))
                received.set()
                self.assertTrue(closed.wait(5))  # and the reactor has read nothing meanwhile
                closed.clear()

    async def test_cut_in_a_stream(self) -> None:
        """TLS that ends without a goodbye is a broken answer, even where no length was told."""

        def without_goodbye(connection: Connection) -> None:
            connection.sock.shutdown(socket.SHUT_WR)
            connection.wait_for_close()

        def reset(connection: Connection) -> None:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        def goodbye(connection: Connection) -> None:
            connection.sock.unwrap()  # type: ignore[attr-defined]

        for head, cut, expected in (
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", without_goodbye, "ResponseFailed"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", goodbye, "ResponseFailed"),
            (b"HTTP/1.1 200 OK\r\n\r\n", without_goodbye, "ResponseFailed"),
            (b"HTTP/1.1 200 OK\r\n\r\n", reset, "ResponseFailed"),
            (b"HTTP/1.1 200 OK\r\n\r\n", goodbye, "PotentialDataLoss"),
        ):

            def script(connection: Connection, head: bytes = head, cut: Any = cut) -> None:
                connection.read_request()
                connection.send(head + b"data: x\n\n")
                time.sleep(0.02)
                cut(connection)

            backend = self.tls_backend(script)
            response = await self.ask(self.tls_agent(backend), self.https(backend) + "/")
            receiver = await self.receive(response)
            self.assertEqual((receiver.body, receiver.end), (b"data: x\n\n", expected), (head, cut))

    async def test_stopped_in_a_stream(self) -> None:
        """The backend sees at once that nobody reads on."""

        def script(connection: Connection) -> None:
            connection.read_request()
            connection.stream_head()
            connection.chunk(b"one")
            connection.wait_for_close()

        backend = self.tls_backend(script)
        response = await self.ask(self.tls_agent(backend), self.https(backend) + "/")
        receiver = Receiver()
        response.deliverBody(receiver)
        await self.until(lambda: receiver.body == b"one")
        stopped_at = time.monotonic()
        transport: Any = receiver.transport
        transport.stopProducing()
        transport.stopProducing()
        await receiver.ended
        self.assertEqual(receiver.end, "ResponseFailed")
        await self.until(lambda: bool(backend.closed_at))
        self.assertLess(backend.closed_at[0] - stopped_at, 0.25)

    def test_bad_files(self) -> None:
        """What cannot be used is said when the configuration is, not at the first request."""
        empty = self.folder / "empty.pem"
        empty.write_bytes(b"nothing\n")
        cert_file, _ = self.authority.issue("gateway.test")
        _, other_key_file = self.authority.issue("gateway.test")
        torn = self.folder / "torn.pem"
        torn.write_bytes(self.authority.pem.replace(b"A", b"B"))
        for settings, error in (
            (BackendTls(ca_file=str(self.folder / "none.pem")), OSError),
            (BackendTls(ca_file=str(empty)), ValueError),
            (BackendTls(ca_file=str(torn)), ValueError),
            (BackendTls(cert_file=str(self.folder / "none.pem")), OSError),
            (BackendTls(cert_file=str(empty)), ValueError),
            (BackendTls(cert_file=self.authority.cert_file), ValueError),
            (BackendTls(cert_file=cert_file, key_file=other_key_file), ValueError),
            (BackendTls(verify=False, server_name="a" * 70), ValueError),
        ):
            with self.assertRaises(error, msg=settings):
                tls_connections(settings, "127.0.0.1")
