"""The transport of client connections: what is written goes out at once where it can.

Twisted's own keeps what is written for the next turn of the reactor, and asks the kernel twice
about each piece (``epoll_ctl`` to be told that it can be sent, and again to be told no more). A
streamed token waits for that, and it costs more than the sending. Here, when nothing is queued, the
kernel is handed the bytes in the same turn. What it does not take is queued as ever, so that order,
producers and closing stay Twisted's affair. It builds on Twisted's public transport alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.tcp import Server


class ImmediateServer(Server):
    """A server's side of a TCP connection that sends at once while nothing is queued."""

    _queued = False
    _aborted = False

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
