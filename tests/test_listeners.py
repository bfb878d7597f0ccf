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
from twisted.internet.endpoints import TCP4ClientEndpoint, _SystemdParser, connectProtocol
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
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
