"""Clients that take nothing of what they are sent: how they are told from slow ones.

A slow client empties its buffers now and then, and its kernel acknowledges bytes; one that has
stalled does neither. It knows the transport, and nothing of requests.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

_TCP_INFO_BYTES_ACKED = 120  # struct tcp_info of linux/tcp.h, since Linux 4.1


class StallWatch:
    """Cuts a connection whose client takes nothing for too long while there is something to take.

    Args:
        reactor: Keeps time.
        transport: The client's connection.
    """

    _log = Logger()

    def __init__(self, reactor: Any, transport: Any) -> None:
        self._reactor = reactor
        self._transport = transport
        self._timeout_s = 0.0
        self._timer: IDelayedCall | None = None
        self._acked = -1

    def __repr__(self) -> str:
        return f"<StallWatch {'on' if self._timer is not None else 'off'}>"

    def begin(self, timeout_s: float) -> None:
        """Watch from now on, unless that is done already; 0 is never."""
        if self._timer is None and timeout_s > 0:
            self._timeout_s = timeout_s
            self._wait()

    def end(self) -> None:
        """Watch no longer."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _wait(self) -> None:
        self._acked = self._bytes_acked()
        self._timer = self._reactor.callLater(self._timeout_s, self._expired)

    def _expired(self) -> None:
        """Cut the client off, unless it took at least something meanwhile."""
        self._timer = None
        if self._bytes_acked() != self._acked:
            self._wait()
            return
        peer = self._transport.getPeer()
        self._log.info("a client that takes nothing is cut off: {peer}", peer=peer)
        self._transport.abortConnection()

    def _bytes_acked(self) -> int:
        """Bytes that the client's kernel has acknowledged; -1 where that cannot be known."""
        beneath = self._socket()
        if beneath is None or not hasattr(socket, "TCP_INFO"):
            return -1
        try:
            report = beneath.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        except OSError:
            return -1  # not TCP
        if len(report) < _TCP_INFO_BYTES_ACKED + 8:
            return -1
        return int(struct.unpack_from("=Q", report, _TCP_INFO_BYTES_ACKED)[0])

    def _socket(self) -> socket.socket | None:
        """Give the connection's socket; TLS has it one transport further down."""
        transport = self._transport
        while transport is not None:
            handle = transport.getHandle()
            if isinstance(handle, socket.socket):
                return handle
            transport = getattr(transport, "transport", None)
        return None
