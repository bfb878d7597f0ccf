"""Unix sockets to listen on: made, left behind, taken over, handed in and removed."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from llmproxy.transport import ImmediateUnixServer
from llmproxy.unix_sockets import Adopting, UnixPort, remove_stale


class Greeter(Protocol):
    """Says hello to whoever connects."""

    def connectionMade(self) -> None:
        """Say it."""
        assert self.transport is not None
        self.transport.write(b"hello")


class UnixSockets(TestCase):
    """On real sockets, in a folder of their own."""

    reactor: Any = global_reactor

    def setUp(self) -> None:
        """Make the folder."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "sock"

    def port(self, mode: int = 0o666) -> UnixPort:
        """Listen."""
        port = UnixPort(os.fsencode(self.path), Factory.forProtocol(Greeter), 9, mode, self.reactor)
        port.startListening()
        return port

    def abandon(self) -> None:
        """Leave a socket that nobody listens on."""
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(self.path))
            left.listen()

    async def greeted(self) -> bytes:
        """Connect, and hear what is said."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.path))
            client.setblocking(False)
            while True:
                await deferLater(self.reactor, 0.01, lambda: None)
                try:
                    return client.recv(100)
                except BlockingIOError:
                    continue

    async def test_made_and_removed(self) -> None:
        """Whoever may connect is said by its mode."""
        port = self.port(0o660)
        status = self.path.stat()
        self.assertTrue(stat.S_ISSOCK(status.st_mode))
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o660)
        self.assertEqual(os.listdir(self.path.parent), ["sock"])
        self.assertEqual(await self.greeted(), b"hello")
        await maybeDeferred(port.stopListening)
        self.assertFalse(self.path.exists())

    async def test_left_by_a_dead_daemon(self) -> None:
        """It is replaced."""
        self.abandon()
        port = self.port()
        self.assertEqual(await self.greeted(), b"hello")
        await maybeDeferred(port.stopListening)

    async def test_of_a_daemon_that_lives(self) -> None:
        """It is refused, and goes on; even when its queue is full."""
        port = self.port()
        with self.assertRaises(CannotListenError) as caught:
            self.port()
        self.assertEqual(caught.exception.socketError.strerror, "Address already in use")
        self.assertEqual(await self.greeted(), b"hello")
        await maybeDeferred(port.stopListening)
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
            busy.bind(str(self.path))
            busy.listen(0)
            waiting.connect(str(self.path))
            with self.assertRaises(CannotListenError):
                self.port()
        self.assertTrue(self.path.exists())

    def test_another_file(self) -> None:
        """What is no socket is never removed."""
        self.path.write_text("precious")
        with self.assertRaisesRegex(FileExistsError, "a file that is no socket"):
            self.port()
        self.assertEqual(self.path.read_text(), "precious")
        self.path.unlink()
        self.path.symlink_to("elsewhere")
        with self.assertRaises(FileExistsError):
            remove_stale(str(self.path))
        self.assertTrue(self.path.is_symlink())
        remove_stale("/no/such/folder/sock")

    async def test_removed_by_somebody_else(self) -> None:
        """The port ends all the same; a socket that is not its own stays."""
        port = self.port()
        self.path.unlink()
        await maybeDeferred(port.stopListening)
        port = self.port()
        self.path.unlink()
        self.abandon()
        await maybeDeferred(port.stopListening)
        self.assertTrue(self.path.exists())

    async def test_handed_in(self) -> None:
        """A socket of systemd's keeps its mode, and stays when we end: the next one goes on."""
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(self.path))
            opened.listen()
            self.path.chmod(0o620)
            for _ in range(2):
                descriptor = os.dup(opened.fileno())
                port = Adopting(self.reactor).adoptStreamPort(
                    descriptor, socket.AF_UNIX, Factory.forProtocol(Greeter)
                )
                os.close(descriptor)
                self.assertEqual(await self.greeted(), b"hello")
                await maybeDeferred(port.stopListening)
                self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o620)

    async def test_other_sockets_that_are_handed_in(self) -> None:
        """They are Twisted's affair."""
        with socket.create_server(("127.0.0.1", 0)) as opened:
            port = Adopting(self.reactor).adoptStreamPort(
                opened.fileno(), socket.AF_INET, Factory.forProtocol(Greeter)
            )
            self.assertEqual(port.getHost().port, opened.getsockname()[1])
            await maybeDeferred(port.stopListening)

    async def test_descriptors_that_clients_pass(self) -> None:
        """They are not taken, whatever their number, and do no harm."""
        made: Deferred[Any] = Deferred()
        ended: Deferred[None] = Deferred()

        class Taking(Protocol):
            """Tells what comes first."""

            def dataReceived(self, data: bytes) -> None:
                """Tell it."""
                made.callback((self.transport, data))

            def connectionLost(self, reason: Failure = connectionDone) -> None:
                """Tell that it ended."""
                ended.callback(None)

        port = UnixPort(os.fsencode(self.path), Factory.forProtocol(Taking), reactor=self.reactor)
        port.transport = ImmediateUnixServer
        port.startListening()
        await deferLater(self.reactor, 0, lambda: None)  # which has opened its own by then
        before = len(os.listdir("/proc/self/fd"))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.path))
            socket.send_fds(client, [b"hello"], [0, 1, 2])
            transport, data = await made
            self.assertEqual(data, b"hello")
            # The client's end and ours.
            self.assertEqual(len(os.listdir("/proc/self/fd")), before + 2)
            transport.write(b"now")
            self.assertEqual(client.recv(10), b"now")  # blocks: sent within the write
            transport.loseConnection()
            await ended
            await maybeDeferred(port.stopListening)
