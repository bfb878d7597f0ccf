"""The idle connections to one backend: last in, first out, and none kept for long."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IDelayedCall

from llmproxy.upstream.connection import BackendConnection

IDLE_S = 4.0
"""Just under the five seconds after which uvicorn (vLLM, SGLang) closes an idle connection."""

MAX_IDLE = 256


class ConnectionPool:
    """Keeps idle connections for the next request.

    Args:
        reactor: Clock of their expiry.
        idle_s: How long one is kept.
        max_idle: How many are kept.
    """

    def __init__(self, reactor: Any, idle_s: float = IDLE_S, max_idle: int = MAX_IDLE) -> None:
        self._reactor = reactor
        self._idle_s = idle_s
        self._max_idle = max_idle
        self._idle: list[tuple[float, BackendConnection]] = []
        self._open: set[BackendConnection] = set()
        self._sweep: IDelayedCall | None = None
        self._closed = False

    def __repr__(self) -> str:
        idle, open_ = self.counts
        caps = f"at most {self._max_idle}, for {self._idle_s:g} s"
        return f"<ConnectionPool idle={idle} ({caps}) open={open_}>"

    @property
    def counts(self) -> tuple[int, int]:
        """How many connections are idle, and how many are open, these among them."""
        return len(self._idle), len(self._open)

    def add(self, connection: BackendConnection) -> None:
        """Count a new connection."""
        self._open.add(connection)

    def take(self) -> BackendConnection | None:
        """Give the connection that was idle for the shortest time and is not at its end, if any."""
        now = self._reactor.seconds()
        while self._idle:
            expires_s, connection = self._idle.pop()
            if expires_s > now and connection.is_quiet():
                return connection
            connection.close()
        return None

    def put(self, connection: BackendConnection) -> None:
        """Take a connection back that can carry another request."""
        if self._closed or len(self._idle) >= self._max_idle:
            connection.close()
            return
        idle_s = self._idle_s
        if connection.keep_alive_s is not None:
            # Close before the backend does: a request sent as it closes is lost.
            idle_s = min(idle_s, connection.keep_alive_s - 1)
        if idle_s <= 0:
            connection.close()
            return
        self._idle.append((self._reactor.seconds() + idle_s, connection))
        if self._sweep is None:
            self._sweep = self._reactor.callLater(self._idle_s, self._close_expired)

    def forget(self, connection: BackendConnection) -> None:
        """A connection has closed."""
        self._open.discard(connection)
        self._idle = [entry for entry in self._idle if entry[1] is not connection]

    def close_idle(self) -> None:
        """Close all that are idle: one of them was found dead, or the backend goes away."""
        idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def close(self) -> None:
        """Close all that are idle, and every other as it becomes so."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self.close_idle()

    def _close_expired(self) -> None:
        self._sweep = None
        now = self._reactor.seconds()
        kept = []
        for expires_s, connection in self._idle:
            if expires_s > now:
                kept.append((expires_s, connection))
            else:
                connection.close()
        self._idle = kept
        if kept:
            self._sweep = self._reactor.callLater(self._idle_s, self._close_expired)
