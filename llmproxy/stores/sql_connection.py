"""What the drivers of SQL databases have in common: a connection that one thread asks.

It knows nothing of any driver, of threads' lives or of pools. A driver maps all exceptions of its
library, whose messages may quote parameters (keys, that is) or a connection string: of them nothing
but names and codes goes into ours.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from llmproxy.errors import StoreUnavailable

Rows = Sequence[Sequence[Any]]
"""What a query gives."""

Dialect = Literal["postgres", "mysql", "sqlite"]
"""Whose SQL a database speaks."""


class ConnectionBroken(StoreUnavailable):
    """The connection cannot be used any more; on another one the same query may succeed."""


class SqlConnection(Protocol):
    """One connection. All but `cut` is called by the thread that made it, and may block."""

    @property
    def is_usable(self) -> bool:
        """Whether it is worth asking; it may be broken all the same."""

    def ask(self, statement: str, parameters: Sequence[Any]) -> Rows:
        """Ask, with bound parameters.

        Returns:
            The rows. There are none when a parameter is what the database cannot hold, such as a
            NUL in a text, or a word where the column has numbers: nothing is equal to it.

        Raises:
            ConnectionBroken: The connection is lost.
            StoreUnavailable: The database cannot or will not answer.
        """

    def write(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement with each of these rows of parameters, in one transaction.

        Raises:
            ValueRefused: A parameter is what a column cannot hold; nothing is stored.
            ConnectionBroken: The connection is lost; it is not known what was stored.
            StoreUnavailable: The database cannot or will not do it; nothing is stored.
        """

    def cut(self) -> None:
        """End what it is at, from another thread; it is broken then. It may be closed already."""

    def close(self) -> None:
        """Close it; never raises."""


class SqlDriver(Protocol):
    """Connects to one database."""

    dialect: Dialect
    """Whose SQL it speaks."""
    marker: str
    """What stands for a parameter in statements."""
    quote: str
    """What stands on both sides of an identifier."""

    def connect(self) -> SqlConnection:
        """Connect; blocks, for about the configured time at most.

        Raises:
            StoreUnavailable: It does not work.
        """


class Lifeline:
    """A second handle on a connection's socket, by which another thread can end the connection.

    The library's own number of the socket may be another connection's by the time that it is used.

    Args:
        fileno: The number of the connection's socket.
    """

    def __init__(self, fileno: int) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = socket.socket(fileno=os.dup(fileno))

    def cut(self) -> None:
        """Shut the connection down in both directions: whoever waits for it sees its end."""
        with self._lock, contextlib.suppress(OSError):  # it may be at its end already
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """Give the handle back."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
