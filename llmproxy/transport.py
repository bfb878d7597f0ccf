"""The transports of client connections: what is written goes out at once where it can.

Twisted's own keeps what is written for the next turn of the reactor, and asks the kernel twice
about each piece (``epoll_ctl`` to be told that it can be sent, and again to be told no more). A
streamed token waits for that, and it costs more than the sending. Here, when nothing is queued, the
kernel is handed the bytes in the same turn. What it does not take is queued as ever, so that order,
producers and closing stay Twisted's affair. It builds on Twisted's public transport alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IAddress


class ImmediateServer(tcp.Server):
    """A server's side of a TCP connection that sends at once while nothing is queued.

    Its peer may be another than who is connected: the one on whose behalf that one connects.
    """

    _queued = False
    _aborted = False
    _presented: IAddress | None = None

    def present_peer(self, peer: IAddress) -> None:
        """Have another address in the place of the connection's own."""
        self._presented = peer

    def getPeer(self) -> IAddress:
        """Give the client's address."""
        return super().getPeer() if self._presented is None else self._presented

    def write(self, data: bytes) -> None:
        """Write; see `ITransport.write`."""
        if (
            data
            and not self._queued
            and self.connected
            and not self.disconnecting
            and not self._aborted
        ):
            try:
                sent = self.socket.send(data)
            except OSError:
                # Full, or broken: the reactor's own turn finds out which, and tells who must know.
                # Were the connection's loss told from here, the writer would hear of it inside its
                # write.
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        if data:
            self._queued = True
            super().write(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Write several pieces; see `ITransport.writeSequence`."""
        if self._queued:
            super().writeSequence(iovec)
        else:
            self.write(b"".join(iovec))

    def doWrite(self) -> Any:
        """Send what is queued, when the reactor says that it can be."""
        result = super().doWrite()
        if not self.dataBuffer:
            self._queued = False
        return result

    def abortConnection(self) -> None:
        """Cut the connection; nothing that is written after this is sent."""
        self._aborted = True
        super().abortConnection()


class ImmediateUnixServer(ImmediateServer, unix.Server):
    """The same of a Unix socket.

    Clients cannot pass file descriptors: what Twisted does about them costs a little at every read
    and write, and breaks when they come in pairs.
    """

    def doRead(self) -> Any:
        """Read what has come, and nothing beside it."""
        return tcp.Connection.doRead(self)

    def writeSomeData(self, data: bytes) -> Any:
        """Send bytes, and nothing beside them."""
        return tcp.Connection.writeSomeData(self, data)
