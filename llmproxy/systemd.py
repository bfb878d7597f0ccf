"""What systemd is told: the messages of sd_notify(3), and the watchdog's.

The protocol is one datagram with ``NAME=VALUE`` lines to the Unix socket that ``NOTIFY_SOCKET``
names. Without that variable nobody is told anything. Sockets that systemd hands over are Twisted's
affair: ``listen: "systemd:..."``.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

MICROSECONDS: Final = 1_000_000


class SystemdNotifier:
    """Tells systemd how the daemon is.

    What cannot be sent is logged once and tried no harder: the daemon works without systemd.

    Args:
        address: Of systemd's socket; one that begins with ``@`` is abstract. Empty: nobody listens.
        watchdog_s: Within what time systemd must hear that the daemon is alive; 0: it does not ask.
        clock: Of these signs of life. They come from it alone, so that a reactor that hangs gives
            none.
    """

    _log = Logger()

    def __init__(self, address: str, watchdog_s: float, clock: IReactorTime) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = watchdog_s
        self._socket: socket.socket | None = None
        self._is_failing = False
        self._alive = LoopingCall(self._send, "WATCHDOG=1")
        self._alive.clock = clock

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], process_id: int, clock: IReactorTime
    ) -> SystemdNotifier:
        """Make it of what systemd has put into the environment.

        Args:
            environ: The environment.
            process_id: Ours: the watchdog may be another process's.
            clock: As the constructor's.
        """
        watchdog_us = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(process_id)) == str(process_id)
        watchdog_s = int(watchdog_us) / MICROSECONDS if watchdog_us.isdigit() and is_ours else 0.0
        return cls(environ.get("NOTIFY_SOCKET", ""), watchdog_s, clock)

    def __repr__(self) -> str:
        where = repr(self._address) if self._address else "nobody"
        return f"<SystemdNotifier to {where}, watchdog {self._watchdog_s:g} s>"

    def ready(self, status: str) -> None:
        """Tell that the daemon serves, at the start and after each reload.

        Args:
            status: How it is, in one line.
        """
        self._send(f"READY=1\nSTATUS={status}")
        if self._address and self._watchdog_s > 0 and not self._alive.running:
            self._alive.start(self._watchdog_s / 2)

    def reloading(self) -> None:
        """Tell that a reload begins; `ready` must follow."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS=reloading the configuration")

    def stopping(self, longest_s: float) -> None:
        """Tell that the end has begun.

        Args:
            longest_s: How long it may take; systemd waits for so long, whatever its own limit is.
        """
        longest_us = round(longest_s * MICROSECONDS)
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={longest_us}\nSTATUS=finishing what runs")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(message.encode("utf-8"), self._address)
        except OSError as error:
            if not self._is_failing:
                self._log.error("systemd cannot be told: {error}", error=str(error))
            self._is_failing = True
        else:
            self._is_failing = False
