"""Unix sockets to listen on: those that we make and remove, and those that systemd keeps.

Twisted's own ports ask a file beside the socket whether its daemon lives, which goes wrong where
process ids are few, as in containers; do not end when somebody has removed the socket; and change
and remove sockets that they were only handed. It knows nothing of what is served.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IProtocolFactory
from twisted.python.failure import Failure


class UnixPort(unix.Port):
    """A port whose socket is made when it begins, and removed when it ends.

    A socket that a dead daemon has left is replaced. At the end the socket is removed only if it
    still is the one that was made.
    """

    _made: tuple[int, int] | None = None

    def startListening(self) -> None:
        """Listen.

        Raises:
            CannotListenError: The socket is somebody else's, or cannot be there.
            FileExistsError: There is a file that is no socket.
        """
        remove_stale(os.fsdecode(self._path))
        super().startListening()
        self._made = _identity(self._path)

    def connectionLost(self, reason: Failure) -> None:
        """Listen no more."""
        if self._made is not None and _identity(self._path) == self._made:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
        tcp.Port.connectionLost(self, reason)

    @property
    def _path(self) -> bytes:
        return bytes(self._bindPath)


class AdoptedUnixPort(unix.Port):
    """A port over a socket that listens already, and is another's to change and to remove.

    Args:
        listening: The socket.
        factory: Makes the protocols of its connections.
        reactor: Reads from it.
    """

    # At its end Twisted would shut the socket down, for all who have it.
    _shouldShutdown = False

    def __init__(self, listening: socket.socket, factory: IProtocolFactory, reactor: Any) -> None:
        super().__init__(listening.getsockname(), factory, reactor=reactor)
        self._listening = listening

    def startListening(self) -> None:
        """Accept connections."""
        factory: Any = self.factory
        factory.doStart()
        port: Any = self  # whose descriptor is an attribute, to Twisted, that it deletes at the end
        port.socket, port.fileno = self._listening, self._listening.fileno
        self.numberAccepts = 100
        self.connected = True
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        """Accept no more."""
        tcp.Port.connectionLost(self, reason)


class Adopting:
    """A reactor for endpoints of adopted sockets: makes `AdoptedUnixPort` of Unix sockets.

    Args:
        reactor: Makes the ports of all others.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> Any:
        """Make a port of a listening socket; see `IReactorSocket`."""
        if addressFamily != socket.AF_UNIX:
            return self._reactor.adoptStreamPort(fileDescriptor, addressFamily, factory)
        # The endpoint closes the descriptor that it was given.
        listening = socket.socket(fileno=os.dup(fileDescriptor))
        listening.setblocking(False)
        port = AdoptedUnixPort(listening, factory, self._reactor)
        port.startListening()
        return port


def remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more; one that lives is left alone.

    Raises:
        FileExistsError: There is a file that is no socket.
    """
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is no socket", path)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # one whose queue is full would keep us waiting
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            with suppress(FileNotFoundError):
                os.unlink(path)


def _identity(path: bytes) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
