"""The listeners: addresses as endpoints, and real ones on loopback."""

from __future__ import annotations

import os
import socket
import tempfile
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    UNIXClientEndpoint,
    _SystemdParser,
    connectProtocol,
)
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import TestCase

from llmproxy.listeners import BACKLOG, CannotListen, Listeners, describe, endpoint_string
from llmproxy.transport import ImmediateServer, ImmediateUnixServer


@pytest.mark.parametrize(
    ("listen", "endpoint"),
    [
        (":8000", f"tcp:8000:backlog={BACKLOG}"),
        ("127.0.0.1:8000", f"tcp:8000:backlog={BACKLOG}:interface=127.0.0.1"),
        ("[::1]:8000", rf"tcp:8000:backlog={BACKLOG}:interface=\:\:1"),
        ("[::]:0", rf"tcp:0:backlog={BACKLOG}:interface=\:\:"),
        ("tcp:8000", "tcp:8000"),
        ("tcp:8000:interface=127.0.0.1", "tcp:8000:interface=127.0.0.1"),
        ("systemd:domain=INET:index=0", "systemd:domain=INET:index=0"),
    ],
)
def test_endpoint_strings(listen: str, endpoint: str) -> None:
    """The short forms become endpoint strings; those that are stay."""
    assert endpoint_string(listen) == endpoint


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (IPv4Address("TCP", "127.0.0.1", 8000), "127.0.0.1:8000"),
        (IPv6Address("TCP", "::1", 8000), "[::1]:8000"),
        (UNIXAddress(b"/run/llmproxy.sock"), "unix:/run/llmproxy.sock"),
        ("elsewhere", "elsewhere"),
    ],
)
def test_described(address: Any, text: str) -> None:
    """As operators write addresses."""
    assert describe(address) == text


class Closed(Protocol):
    """Tells when its connection ends."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def connectionLost(self, reason: Any = None) -> None:
        """Tell."""
        self.ended.callback(None)


class Accumulating(Closed):
    """Keeps what it receives."""

    received = b""

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.received += data


def says(word: bytes) -> Factory:
    """Make a factory whose protocols say a word, and close."""

    class Saying(Protocol):
        def connectionMade(self) -> None:
            assert self.transport is not None
            self.transport.write(word)
            self.transport.loseConnection()

    return Factory.forProtocol(Saying)


class Loopback(TestCase):
    """On real sockets."""

    reactor: Any = global_reactor

    def listeners(self, *listens: str) -> Listeners:
        """Make listeners whose protocols do nothing."""
        made = Listeners(self.reactor, listens, Factory.forProtocol(Protocol))
        self.addCleanup(lambda: Deferred.fromCoroutine(made.close()))
        return made

    async def test_an_adopted_socket(self) -> None:
        """What systemd has opened already is listened on, with the same transport above it."""
        made: Deferred[Any] = Deferred()

        class Greeting(Protocol):
            """Gives itself to the test."""

            def connectionMade(self) -> None:
                """Give it."""
                made.callback(self)

        opened = socket.create_server(("127.0.0.1", 0))
        address = opened.getsockname()
        # Twisted closes the descriptor that it was given, once it has one of its own.
        self.patch(_SystemdParser, "_sddaemon", ListenFDs([opened.detach()]))
        listeners = Listeners(
            self.reactor, ["systemd:domain=INET:index=0"], Factory.forProtocol(Greeting)
        )
        listeners.privilegedStartService()
        self.addCleanup(lambda: Deferred.fromCoroutine(listeners.close()))
        self.assertEqual(len(listeners.ports), 1)
        with socket.create_connection(address, 5) as client:
            greeting = await made
            self.assertIsInstance(greeting.transport, ImmediateServer)
            greeting.transport.write(b"now")
            self.assertEqual(client.recv(10), b"now")  # blocks: the reactor does not turn
            greeting.transport.loseConnection()

    async def test_unix_sockets(self) -> None:
        """Made anew or handed in by systemd: the same transport above both, and told well."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        made: Deferred[Any] = Deferred()

        class Greeting(Protocol):
            """Gives itself to the test."""

            def connectionMade(self) -> None:
                """Give it."""
                made.callback(self)

        handed_in, own = f"{folder.name}/a", f"{folder.name}/b"
        opened = socket.socket(socket.AF_UNIX)
        opened.bind(handed_in)
        opened.listen()
        self.patch(_SystemdParser, "_sddaemon", ListenFDs([opened.detach()]))
        listeners = Listeners(
            self.reactor,
            ["systemd:domain=UNIX:index=0", f"unix:{own}:mode=600"],
            Factory.forProtocol(Greeting),
        )
        listeners.privilegedStartService()
        self.addCleanup(lambda: Deferred.fromCoroutine(listeners.close()))
        self.assertEqual(repr(listeners), f"<Listeners ['unix:{handed_in}', 'unix:{own}']>")
        for path in (handed_in, own):
            made = Deferred()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                greeting = await made
                self.assertIsInstance(greeting.transport, ImmediateUnixServer)
                self.assertEqual(describe(greeting.transport.getPeer()), "unix:")
                greeting.transport.write(b"now")
                self.assertEqual(client.recv(10), b"now")  # blocks: the reactor does not turn
                greeting.transport.loseConnection()
        await listeners.close()
        self.assertEqual(os.listdir(folder.name), ["a"])

    async def test_open_and_close(self) -> None:
        """Connections are taken until it closes; those that were taken stay."""
        listeners = self.listeners("127.0.0.1:0", "tcp:0:interface=127.0.0.1")
        listeners.privilegedStartService()
        self.assertEqual(len(listeners.ports), 2)
        numbers = [port.getHost().port for port in listeners.ports]  # type: ignore[attr-defined]
        self.assertIn(f"'127.0.0.1:{numbers[0]}'", repr(listeners))
        clients = []
        for number in numbers:
            endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", number)
            clients.append(await connectProtocol(endpoint, Closed()))
        await listeners.close()
        self.assertEqual(listeners.ports, [])
        for number in numbers:
            endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", number)
            with self.assertRaises(ConnectionRefusedError):
                await connectProtocol(endpoint, Protocol())
        for client in clients:
            self.assertFalse(client.ended.called)
            assert client.transport is not None
            client.transport.loseConnection()
            await client.ended

    async def greeting(self, number: int) -> bytes:
        """Connect to a port, and give what the other side says."""
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", number)
        client = await connectProtocol(endpoint, Accumulating())
        await client.ended
        return client.received

    async def test_who_has_connected_before_the_end(self) -> None:
        """Is taken, though the reactor had no turn for it before the socket was closed."""
        listeners = Listeners(self.reactor, ["127.0.0.1:0"], says(b"hello"))
        listeners.privilegedStartService()
        port: Any = listeners.ports[0]
        number = port.getHost().port
        clients = [socket.create_connection(("127.0.0.1", number), 5) for _ in range(30)]
        closing = Deferred.fromCoroutine(listeners.close())
        clients.append(socket.create_connection(("127.0.0.1", number), 5))
        await closing
        for client in clients:
            with client:
                self.assertEqual(client.recv(10), b"hello")
        await deferLater(self.reactor, 0)

    async def test_ports_that_are_for_others(self) -> None:
        """Who has connected there is theirs, at the end as well."""
        listeners = Listeners(self.reactor, ["127.0.0.1:0"], Factory())
        listeners.privilegedStartService()
        port: Any = listeners.ports[0]
        port.stopReading()
        port._shouldShutdown = False
        address = port.socket.getsockname()
        with port.socket.dup() as theirs, socket.create_connection(address, 5):
            await listeners.close()
            taken, _ = theirs.accept()
            taken.close()

    async def test_another_configuration(self) -> None:
        """Ports that stay are not touched, others are opened and closed; all have its factory."""
        listeners = Listeners(
            self.reactor, ["127.0.0.1:0", "tcp:0:interface=127.0.0.1"], says(b"1")
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(listeners.close()))
        listeners.privilegedStartService()
        kept = listeners.ports[1]
        first, second = (port.getHost().port for port in listeners.ports)  # type: ignore[attr-defined]
        self.assertEqual(await self.greeting(first), b"1")
        listeners.adopt(
            listeners.prepare(
                ["tcp:0:interface=127.0.0.1", "tcp:0:interface=127.0.0.2"], says(b"2")
            )
        )
        self.assertIs(listeners.ports[0], kept)
        self.assertEqual(listeners.ports[1].getHost().host, "127.0.0.2")  # type: ignore[attr-defined]
        self.assertEqual(await self.greeting(second), b"2")
        with self.assertRaises(ConnectionRefusedError):
            await self.greeting(first)

    async def test_unix_sockets_of_another_configuration(self) -> None:
        """They come and go with their files; one that stays is not made anew."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        first, second, third = (f"unix:{folder.name}/{name}" for name in "abc")
        listeners = Listeners(self.reactor, [first, second], says(b"1"))
        self.addCleanup(lambda: Deferred.fromCoroutine(listeners.close()))
        listeners.privilegedStartService()
        made = os.stat(f"{folder.name}/b").st_ino
        listeners.adopt(listeners.prepare([second, third], says(b"2")))
        await deferLater(self.reactor, 0)
        listeners.discard(listeners.prepare([second, first], says(b"3")))
        await deferLater(self.reactor, 0)
        self.assertEqual(sorted(os.listdir(folder.name)), ["b", "c"])
        self.assertEqual(os.stat(f"{folder.name}/b").st_ino, made)
        for name in "bc":
            endpoint = UNIXClientEndpoint(self.reactor, f"{folder.name}/{name}")
            client = await connectProtocol(endpoint, Accumulating())
            await client.ended
            self.assertEqual(client.received, b"2")

    async def test_what_cannot_be_had_changes_nothing(self) -> None:
        """Whatever was opened before it is closed again."""
        listeners = Listeners(self.reactor, ["127.0.0.1:0"], says(b"1"))
        self.addCleanup(lambda: Deferred.fromCoroutine(listeners.close()))
        listeners.privilegedStartService()
        ports = listeners.ports
        port: int = ports[0].getHost().port  # type: ignore[attr-defined]
        taken = f"127.0.0.1:{port}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            other = f"tcp:{free.getsockname()[1]}:interface=127.0.0.1"
        with self.assertRaises(CannotListen):
            listeners.prepare([other, taken], says(b"2"))
        self.assertEqual(listeners.ports, ports)
        self.assertEqual(await self.greeting(port), b"1")
        prepared = listeners.prepare([other], says(b"2"))
        listeners.discard(prepared)
        self.assertEqual(await self.greeting(port), b"1")
        await deferLater(self.reactor, 0)
        with socket.create_server(("127.0.0.1", int(other.split(":")[1]))):
            pass  # nobody listens there

    def test_a_socket_that_systemd_has_not_handed_over(self) -> None:
        """It is said so, by its number and by its name."""
        self.patch(_SystemdParser, "_sddaemon", ListenFDs([]))
        for which in ("index=0", "name=http"):
            with self.assertRaises(CannotListen) as caught:
                self.listeners(f"systemd:domain=INET:{which}").privilegedStartService()
            self.assertIn("systemd has handed over no such socket", str(caught.exception))

    def test_a_port_in_use(self) -> None:
        """One line says which address, and why."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            listen = f"127.0.0.1:{taken.getsockname()[1]}"
            with self.assertRaises(CannotListen) as caught:
                self.listeners("127.0.0.1:0", listen).privilegedStartService()
        self.assertEqual(
            str(caught.exception), f"cannot listen on '{listen}': Address already in use"
        )

    def test_an_address_that_makes_no_sense(self) -> None:
        """One line as well, whatever Twisted makes of it."""
        for listen in ("nonsense:1", "203.0.113.1:0", "tcp:x", "unix:/no/such/folder/socket"):
            with self.assertRaises(CannotListen) as caught:
                self.listeners(listen).privilegedStartService()
            message = str(caught.exception)
            self.assertTrue(message.startswith(f"cannot listen on '{listen}': "), message)
            self.assertNotIn("\n", message)
            self.assertGreater(len(message), len(listen) + 22)
