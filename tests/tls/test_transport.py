"""TLS towards clients: what is agreed on, its clocks and its ends, in memory and over sockets."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from llmproxy.config.model import ServerTls
from llmproxy.listeners import Listeners
from llmproxy.tls.certificates import Certificates
from llmproxy.tls.transport import CLOSE_WAIT_S, EdgeTls, EdgeTlsFactory
from tests.tls.pair import NAME, TIMEOUT_S, Pair, Recorder, trusting
from tests.upstream.certificates import Authority


class TestAgreement:
    """What a handshake comes to."""

    def test_modern(self, settings: ServerTls, authority: Authority) -> None:
        """TLS 1.3, a certificate that is believed, and bytes both ways."""
        pair = Pair(settings, trusting(authority))
        pair.shake_hands()
        assert pair.client.version() == "TLSv1.3"
        pair.client.write(b"ping")
        pair.pump()
        assert pair.above.received == b"ping"
        assert ISSLTransport.providedBy(pair.above.transport)
        pair.tls.writeSequence([b"po", b"ng"])
        assert pair.read() == b"pong"

    def test_byte_by_byte(self, settings: ServerTls, authority: Authority) -> None:
        """However the client's bytes come."""
        pair = Pair(settings, trusting(authority))
        pair.shake_hands(1)
        pair.client.write(b"ping")
        pair.pump(1)
        assert pair.above.received == b"ping"

    def test_what_lies_between(self, folder: Path, authority: Authority) -> None:
        """The file's further certificates are sent, and join ours to one that is trusted."""
        between = Authority(folder, "between", issuer=authority)
        cert_file, key_file = between.issue(NAME)
        chain = folder / "chain.pem"
        chain.write_bytes(Path(cert_file).read_bytes() + between.pem)
        alone = ServerTls(enabled=True, cert_file=cert_file, key_file=key_file)
        with pytest.raises(ssl.SSLCertVerificationError):
            Pair(alone, trusting(authority)).shake_hands()
        whole = ServerTls(enabled=True, cert_file=str(chain), key_file=key_file)
        Pair(whole, trusting(authority)).shake_hands()

    @pytest.mark.parametrize(
        ("minimum", "offered", "agreed"),
        [
            ("1.2", ssl.TLSVersion.TLSv1_1, ""),
            ("1.2", ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
            ("1.3", ssl.TLSVersion.TLSv1_2, ""),
            ("1.3", ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
        ],
    )
    def test_versions(
        self,
        settings: ServerTls,
        authority: Authority,
        minimum: Any,
        offered: ssl.TLSVersion,
        agreed: str,
    ) -> None:
        """Below the minimum there is no connection."""
        wanted = ServerTls(
            enabled=True,
            cert_file=settings.cert_file,
            key_file=settings.key_file,
            min_version=minimum,
        )
        context = trusting(authority)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old versions are deprecated
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = offered
        context.set_ciphers("ALL:@SECLEVEL=0")
        pair = Pair(wanted, context)
        if agreed:
            pair.shake_hands()
            assert pair.client.version() == agreed
        else:
            with pytest.raises(ssl.SSLError):
                pair.shake_hands()
            assert pair.transport.disconnecting
            assert pair.above.received == b""

    @pytest.mark.parametrize("ciphers", ["ECDHE+AES+SHA256", "kRSA+AESGCM", "DHE+AESGCM"])
    def test_weak_ciphers(self, settings: ServerTls, authority: Authority, ciphers: str) -> None:
        """No CBC, and no key exchange that a stolen key undoes."""
        context = trusting(authority)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers + ":@SECLEVEL=0")
        with pytest.raises(ssl.SSLError):
            Pair(settings, context).shake_hands()

    @pytest.mark.parametrize("ciphers", ["ECDHE+AESGCM", "ECDHE+CHACHA20"])
    def test_good_ciphers(self, settings: ServerTls, authority: Authority, ciphers: str) -> None:
        """Of TLS 1.2."""
        context = trusting(authority)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
        pair = Pair(settings, context)
        pair.shake_hands()
        assert pair.client.version() == "TLSv1.2"

    @pytest.mark.parametrize(
        ("offered", "chosen"),
        [
            ([], None),
            (["h2", "http/1.1"], "http/1.1"),
            (["http/1.0"], "http/1.0"),
            (["http/1.0", "http/1.1"], "http/1.1"),
        ],
    )
    def test_alpn(
        self, settings: ServerTls, authority: Authority, offered: list[str], chosen: str | None
    ) -> None:
        """HTTP/1 is chosen wherever it is offered, and not needed."""
        context = trusting(authority)
        if offered:
            context.set_alpn_protocols(offered)
        pair = Pair(settings, context)
        pair.shake_hands()
        assert pair.client.selected_alpn_protocol() == chosen
        told = pair.tls.negotiatedProtocol
        assert (told and told.decode()) == chosen

    def test_no_protocol_in_common(self, settings: ServerTls, authority: Authority) -> None:
        """A client that speaks only others is told so in the handshake."""
        context = trusting(authority)
        context.set_alpn_protocols(["h2"])
        pair = Pair(settings, context)
        with pytest.raises(ssl.SSLError, match="alert no application protocol"):
            pair.shake_hands()
        assert pair.transport.disconnecting

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_sessions_are_taken_up_again(
        self, settings: ServerTls, authority: Authority, version: ssl.TLSVersion
    ) -> None:
        """By a ticket, so that nothing is kept here."""
        context = trusting(authority)
        context.maximum_version = version
        first = Pair(settings, context)
        first.shake_hands()
        first.tls.write(b"a ticket comes before this")
        first.read()
        assert first.client.session is not None
        # The same connections' side, as every connection of a daemon has it.
        again = Pair(settings, context, session=first.client.session)
        again.factory = first.factory
        again.connect()
        again.shake_hands()
        assert again.client.session_reused

    def test_no_renegotiation(self, settings: ServerTls) -> None:
        """Which TLS 1.2 knows, and only attackers want."""
        clock, above = Clock(), Recorder()
        factory: Any = Factory.forProtocol(lambda: above)
        tls: Any = EdgeTlsFactory(
            Certificates(settings, Clock(), time.time),
            factory,
            reactor=clock,
            handshake_timeout_s=0,
        ).buildProtocol(None)
        transport = StringTransport()
        tls.makeConnection(transport)
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        client = SSL.Connection(context, None)
        client.set_connect_state()

        def shake_hands() -> None:
            for _ in range(10):
                with contextlib.suppress(SSL.WantReadError):
                    client.do_handshake()
                with contextlib.suppress(SSL.WantReadError):
                    tls.dataReceived(client.bio_read(1 << 16))
                if transport.value():
                    client.bio_write(transport.value())
                    transport.clear()

        shake_hands()
        assert client.get_protocol_version_name() == "TLSv1.2"
        client.renegotiate()
        with pytest.raises(SSL.Error, match="no renegotiation"):
            shake_hands()


class TestClocks:
    """Handshakes and ends that never come."""

    def test_a_handshake_that_is_never_done(
        self, settings: ServerTls, authority: Authority
    ) -> None:
        """It is cut when its time is over, whatever trickles in."""
        pair = Pair(settings, trusting(authority))
        with contextlib.suppress(ssl.SSLWantReadError):
            pair.client.do_handshake()
        hello = pair._outgoing.read()
        for byte in hello[:9]:
            pair.clock.advance(TIMEOUT_S / 10)
            pair.tls.dataReceived(bytes((byte,)))
        assert not pair.transport.disconnected
        pair.clock.advance(TIMEOUT_S / 10)
        assert pair.transport.disconnected
        pair.tls.connectionLost(Failure(ConnectionError()))
        assert len(pair.above.lost) == 1
        assert pair.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_the_clock_ends_with_the_handshake(
        self, settings: ServerTls, authority: Authority, version: ssl.TLSVersion
    ) -> None:
        """What comes later has other clocks."""
        context = trusting(authority)
        context.maximum_version = version
        pair = Pair(settings, context)
        assert len(pair.clock.getDelayedCalls()) == 1
        pair.shake_hands()
        assert pair.clock.getDelayedCalls() == []

    def test_no_clock(self, settings: ServerTls) -> None:
        """0 is as long as it likes."""
        factory: Any = Factory.forProtocol(Recorder)
        clock = Clock()
        tls: Any = EdgeTlsFactory(
            Certificates(settings, Clock(), time.time),
            factory,
            reactor=clock,
            handshake_timeout_s=0,
        ).buildProtocol(None)
        tls.makeConnection(StringTransport())
        assert clock.getDelayedCalls() == []

    def test_close(self, settings: ServerTls, authority: Authority) -> None:
        """The client reads all and an end; when it closes as well, the connection is closed."""
        pair = Pair(settings, trusting(authority))
        pair.shake_hands()
        pair.tls.write(b"bye")
        pair.tls.loseConnection()
        assert pair.read() == b"bye"
        assert pair.read() == b""
        assert not pair.transport.disconnecting
        with contextlib.suppress(ssl.SSLWantReadError):
            pair.client.unwrap()
        pair.pump()
        assert pair.transport.disconnecting
        pair.tls.connectionLost(Failure(ConnectionError()))
        assert pair.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("method", ["loseConnection", "loseWriteConnection"])
    def test_a_client_that_does_not_close(
        self, settings: ServerTls, authority: Authority, method: str
    ) -> None:
        """What it still sends is read for a while, then the connection is closed all the same."""
        pair = Pair(settings, trusting(authority))
        pair.shake_hands()
        getattr(pair.tls, method)()
        pair.tls.loseConnection()
        assert pair.read() == b""
        pair.clock.advance(CLOSE_WAIT_S - 0.1)
        pair.client.write(b"still here")
        pair.pump()
        assert pair.above.received == b"still here"
        assert not pair.transport.disconnecting
        pair.clock.advance(0.1)
        assert pair.transport.disconnecting
        pair.tls.connectionLost(Failure(ConnectionError()))
        assert pair.clock.getDelayedCalls() == []

    def test_a_client_that_is_not_waited_for(
        self, settings: ServerTls, authority: Authority
    ) -> None:
        """Has all and an end; the connection is closed at once."""
        pair = Pair(settings, trusting(authority))
        pair.shake_hands()
        pair.tls.write(b"bye")
        pair.tls.loseConnection()
        pair.tls.close_below()
        assert pair.read() == b"bye"
        assert pair.read() == b""
        assert pair.transport.disconnecting
        assert not pair.transport.disconnected
        assert pair.clock.getDelayedCalls() == []
        pair.tls.connectionLost(Failure(ConnectionError()))

    def test_close_within_the_handshake(self, settings: ServerTls, authority: Authority) -> None:
        """There is nothing to be said: it is cut."""
        pair = Pair(settings, trusting(authority))
        pair.tls.loseConnection()
        assert pair.transport.disconnected
        pair.tls.connectionLost(Failure(ConnectionError()))
        assert pair.clock.getDelayedCalls() == []
        # What comes after the end does no harm.
        pair.tls.abortConnection()
        pair.tls.loseConnection()
        pair.tls.write(b"late")


class Peer(Recorder):
    """A protocol on a real connection; the test writes through its transport."""

    def __init__(self, test: Sockets) -> None:
        super().__init__()
        self._test = test
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        """Tell the test."""
        self._test.made.callback(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the test."""
        super().connectionLost(reason)
        self.gone.callback(None)


class Sockets(TestCase):
    """Over real ports, and the transport that `Listeners` gives them."""

    reactor: Any = global_reactor

    def setUp(self) -> None:
        """Make certificates, and listen."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        authority = Authority(Path(folder.name), "authority")
        cert_file, key_file = authority.issue("127.0.0.1")
        self.context = trusting(authority)
        self.made: Deferred[Peer] = Deferred()
        self.events: list[Any] = []
        observe: Any = self.events.append
        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.full = False
        test = self

        class Peers(Factory):
            """Makes the protocols, as long as there is room."""

            def buildProtocol(self, addr: Any) -> Peer | None:
                """Make one."""
                return None if test.full else Peer(test)

        wrapped: Any = Peers()
        self.factory = EdgeTlsFactory(
            Certificates(ServerTls(cert_file=cert_file, key_file=key_file), Clock(), time.time),
            wrapped,
            reactor=self.reactor,
            handshake_timeout_s=5,
        )
        listeners = Listeners(self.reactor, ["127.0.0.1:0"], self.factory, " with TLS")
        listeners.privilegedStartService()
        self.addCleanup(lambda: Deferred.fromCoroutine(listeners.close()))
        self.number: int = listeners.ports[0].getHost().port  # type: ignore[attr-defined]

    def connect(self) -> ssl.SSLSocket:
        """Connect; in a thread, for it blocks."""
        sock = socket.create_connection(("127.0.0.1", self.number), 5)
        named = {"server_hostname": "127.0.0.1", "suppress_ragged_eofs": False}
        return self.context.wrap_socket(sock, **named)  # type: ignore[arg-type]

    async def connected(self) -> tuple[Peer, Any, ssl.SSLSocket]:
        """Connect and shake hands; give our protocol, its transport and the client."""
        client = await deferToThread(self.connect)
        self.addCleanup(client.close)
        peer = await self.made
        assert isinstance(peer.transport, EdgeTls)
        while peer.received != b"hello":
            with contextlib.suppress(ssl.SSLWantReadError):
                await deferToThread(client.send, b"hello"[len(peer.received) :])
            turned: Deferred[None] = Deferred()
            self.reactor.callLater(0.01, turned.callback, None)
            await turned
        return peer, peer.transport, client

    async def test_sent_within_the_write(self) -> None:
        """The bytes are in the client's socket before the reactor turns again."""
        peer, transport, client = await self.connected()
        transport.write(b"now")
        self.assertEqual(client.recv(10), b"now")  # blocks: nothing else runs meanwhile
        transport.writeSequence([b"a", b"", b"bc"])
        self.assertEqual(client.recv(10), b"abc")
        client.close()
        await peer.gone

    async def test_all_is_sent_before_the_close(self) -> None:
        """However much it is; then TLS ends as it should."""
        peer, transport, client = await self.connected()
        transport.write(b"y" * 5_000_000)
        transport.loseConnection()

        def take() -> int:
            size = 0
            while piece := client.recv(65536):  # a cut would raise
                size += len(piece)
            client.close()
            return size

        self.assertEqual(await deferToThread(take), 5_000_000)
        await peer.gone

    async def test_a_cut_shows_no_end(self) -> None:
        """Or an answer that ends with its connection would seem complete."""
        peer, transport, client = await self.connected()
        transport.write(b"first")
        self.assertEqual(client.recv(10), b"first")
        below = socket.socket(fileno=client.detach())
        self.addCleanup(below.close)
        below.settimeout(5)
        transport.write(b"half of it")
        transport.abortConnection()
        # One record of TLS 1.3 and no second one, which would be the alert that all has been sent.
        self.assertEqual(len(below.recv(100)), 5 + len(b"half of it") + 1 + 16)
        await peer.gone
        with self.assertRaises(ConnectionResetError):
            below.recv(100)

    async def test_a_client_that_ends_tls_has_gone(self) -> None:
        """As one that closes its connection."""
        peer, _, client = await self.connected()
        await deferToThread(client.unwrap)
        await peer.gone

    async def test_no_room(self) -> None:
        """A connection that the factory does not want is closed."""
        self.full = True

        def refused() -> None:
            with self.assertRaises((ssl.SSLError, ConnectionError)):
                self.connect()

        await deferToThread(refused)

    async def _say(self, first: Callable[[socket.socket], None]) -> list[str]:
        """Open a connection that is no TLS, until it ends; give what was logged of it."""
        self.events.clear()

        def run() -> None:
            with socket.create_connection(("127.0.0.1", self.number), 5) as client:
                first(client)
                with contextlib.suppress(ConnectionResetError):
                    while client.recv(1000):
                        pass

        await deferToThread(run)
        await (await self.made).gone
        self.assertTrue(all(event["log_level"] is LogLevel.debug for event in self.events))
        return [str(event.get("reason")) for event in self.events]

    async def test_plain_http(self) -> None:
        """It is closed; the log says it only to those who want to know."""
        told = await self._say(lambda client: client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
        self.assertIn("http request", told)

    async def test_port_scanners(self) -> None:
        """They come and go."""
        self.assertEqual(len(await self._say(lambda client: client.shutdown(socket.SHUT_WR))), 1)

    async def test_a_client_that_does_not_trust_us(self) -> None:
        """The log has its alert."""
        self.context = ssl.create_default_context()

        def distrust() -> None:
            with self.assertRaises(ssl.SSLCertVerificationError):
                self.connect()

        self.events.clear()
        await deferToThread(distrust)
        await (await self.made).gone
        (event,) = (event for event in self.events if "reason" in event)
        self.assertIs(event["log_level"], LogLevel.debug)
        self.assertIn("unknown ca", event["reason"])
