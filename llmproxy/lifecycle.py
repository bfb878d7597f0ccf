"""The daemon's end: no new work, what runs may finish, then out.

SIGTERM makes the reactor stop the services, and it waits for the Deferreds that they return.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any, Protocol

from twisted.internet.task import deferLater
from twisted.logger import Logger

POLL_S = 0.05


class _Closing(Protocol):
    async def close(self) -> None: ...


class Lifecycle:
    """Drains the daemon when it is stopped.

    Args:
        reactor: Keeps time.
        drain_timeout_s: How long what runs may go on.
        listeners: Closed first.
        running: What runs.
        close_idle: Closes connections on which nothing runs, the others after their answer.
        abort_all: Cuts the connections that are left.

    Attributes:
        draining: Whether new requests are turned away.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        drain_timeout_s: float,
        listeners: _Closing,
        running: Sized,
        close_idle: Callable[[], None],
        abort_all: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._drain_timeout_s = drain_timeout_s
        self._listeners = listeners
        self._running = running
        self._close_idle = close_idle
        self._abort_all = abort_all
        self._hurried = False
        self.draining = False

    def __repr__(self) -> str:
        return f"<Lifecycle draining={self.draining} running={len(self._running)}>"

    def is_draining(self) -> bool:
        """Say whether new requests are turned away."""
        return self.draining

    def hurry(self) -> None:
        """Wait no longer: what still runs is cut."""
        self._hurried = True

    async def drain(self) -> None:
        """Return when nothing runs any more, or time is up."""
        self.draining = True
        await self._listeners.close()
        self._close_idle()
        if len(self._running):
            self._log.info("draining: {count} requests are running", count=len(self._running))
        deadline_s = self._reactor.seconds() + self._drain_timeout_s
        while len(self._running) and not self._hurried and self._reactor.seconds() < deadline_s:
            await deferLater(self._reactor, POLL_S, lambda: None)
        if len(self._running):
            self._log.warn("{count} requests still run and are cut", count=len(self._running))
        self._abort_all()
        await deferLater(self._reactor, 0, lambda: None)
