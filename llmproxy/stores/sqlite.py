"""The gateway's own SQLite file: transactions run in threads, one boundary for SQLite's errors.

One thread writes and two read. SQLite lets one connection write at a time, and threads that wait
for its lock do so by polling: so writes stand in a queue of ours, which also keeps them, and what
is told of them, in order. Readers of a file with a write-ahead log wait for nobody, so that a long
synchronisation or a long report holds up no look-up of a key. It knows no table.

A file that is deleted or replaced while it is open goes on under no name: what is written there is
lost with the process. So each time it is looked whether the name still leads to the file, and no
connection makes a new one in its place.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from llmproxy.errors import StoreUnavailable
from llmproxy.stores.sqlite_schema import MIGRATIONS, Migration, as_file_error, prepare

if TYPE_CHECKING:
    from twisted.enterprise.adbapi import ConnectionPool

T = TypeVar("T")

READERS: Final = 2
"""Threads that read: a report, and look-ups of keys beside it."""


class SqliteFile(Service):
    """One SQLite file, brought to today's tables when this is made.

    Making it blocks, and opens nothing that outlives it: it may be done before a fork. Work begins
    when the reactor runs. Stopping lets what was asked for end, and everything after it fails.

    Args:
        path: The file; its directory is made when only that is missing.
        reactor: The reactor.
        busy_timeout_s: How long a write waits while another process writes.
        migrations: How the tables come to be.

    Raises:
        ValueError: It is not SQLite, not ours, or of a later version.
        OSError: It cannot be opened or written.

    Attributes:
        path: The file's absolute path.
    """

    def __init__(
        self,
        path: str,
        *,
        reactor: Any,
        busy_timeout_s: float = 5.0,
        migrations: Sequence[Migration] = MIGRATIONS,
    ) -> None:
        self.path: Final = os.path.abspath(path)
        self._busy_timeout_s = busy_timeout_s
        self._stopped = False
        self._under_way = 0
        self._idle: Deferred[None] | None = None
        prepare(self.path, migrations)
        self._identity = _identity(self.path)
        # Only who has such a file has adbapi in memory.
        from twisted.enterprise.adbapi import ConnectionPool

        make = partial(
            ConnectionPool,
            "sqlite3",
            f"{Path(self.path).as_uri()}?mode=rw",
            uri=True,
            timeout=busy_timeout_s,
            isolation_level=None,  # transactions begin where we say
            check_same_thread=False,  # they are closed by the reactor's thread
            cp_reactor=reactor,
            cp_min=0,
        )
        self._writer: ConnectionPool = make(cp_max=1, cp_openfun=_open_writer)
        self._readers: ConnectionPool = make(cp_max=READERS, cp_openfun=_open_reader)

    def __repr__(self) -> str:
        state = " stopped" if self._stopped else ""
        return f"<SqliteFile {self.path} under_way={self._under_way}{state}>"

    def stopService(self) -> Deferred[None]:
        """Take no more work, and close the file when what was asked for has ended."""
        super().stopService()
        self._stopped = True
        return Deferred.fromCoroutine(self._close())

    def at_once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work(connection)`` in a write transaction here and now; for the start only.

        Raises:
            OSError: The file cannot be used.
        """
        try:
            connection = sqlite3.connect(
                self.path, timeout=self._busy_timeout_s, isolation_level=None
            )
            try:
                _open_writer(connection)
                connection.execute("BEGIN IMMEDIATE")
                try:
                    result = work(connection)
                except BaseException:
                    connection.rollback()
                    raise
                connection.commit()
                return result
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise as_file_error(error, self.path) from error

    def write(
        self,
        work: Callable[[sqlite3.Connection], T],
        committed: Callable[[T], None] = lambda _: None,
    ) -> Deferred[T]:
        """Run ``work(connection)`` in the writing thread, in one transaction, in order.

        Args:
            work: What it raises undoes the transaction, and is the Deferred's failure.
            committed: Called in the reactor's thread with the result once it is in the file, also
                when nobody waits for it any more.

        Returns:
            A Deferred of the result; it fails with `StoreUnavailable`. Cancelling it ends the
            waiting only: the transaction runs.
        """
        return self._run(self._writer, "BEGIN IMMEDIATE", work, committed)

    def read(self, work: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        """Run ``work(connection)`` in a reading thread, on one snapshot of the file.

        Returns:
            A Deferred of the result; it fails with `StoreUnavailable`. Cancelling it leaves the
            result unread.
        """
        return self._run(self._readers, "BEGIN", work)

    def read_in_order(self, work: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        """Read like `read`, but after the writes asked for before, and before those after."""
        return self._run(self._writer, "BEGIN", work)

    def _run(
        self,
        pool: ConnectionPool,
        begin: str,
        work: Callable[[sqlite3.Connection], T],
        committed: Callable[[T], None] = lambda _: None,
    ) -> Deferred[T]:
        if self._stopped:
            return fail(StoreUnavailable(f"{self.path} is closed"))

        def told(result: T) -> T:
            committed(result)
            return result

        self._under_way += 1
        ran: Deferred[T] = pool.runWithConnection(self._transact, begin, work)
        ran.addCallback(told).addErrback(self._translate)
        # Who waits has a Deferred of their own: cancelling it does not touch the one that counts.
        waiting: Deferred[T] = Deferred()
        ran.chainDeferred(waiting)
        ran.addBoth(self._ended)
        return waiting

    def _transact(
        self, connection: sqlite3.Connection, begin: str, work: Callable[[sqlite3.Connection], T]
    ) -> T:
        """Do the work in a transaction, which adbapi commits or rolls back after it."""
        if _identity(self.path) != self._identity:
            raise StoreUnavailable(
                f"{self.path} was deleted or replaced while it was open: put it back, or restart"
            )
        connection.execute(begin)
        return work(connection)

    def _ended(self, _: Any) -> None:
        self._under_way -= 1
        if not self._under_way and self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def _translate(self, failure: Failure) -> Failure:
        """Map SQLite's errors to ours: the one boundary."""
        if failure.check(sqlite3.Error) is None:
            return failure
        raise StoreUnavailable(f"{self.path}: {failure.getErrorMessage()}") from failure.value

    async def _close(self) -> None:
        if self._under_way:
            self._idle = Deferred()
            await self._idle
        self._readers.close()
        self._writer.close()


def _identity(path: str) -> tuple[int, int] | None:
    """Tell which file a name leads to; None: to none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open_writer(connection: sqlite3.Connection) -> None:
    # With a write-ahead log, NORMAL cannot damage the file; a loss of power may undo the last
    # transactions, a crash of the process may not.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _open_reader(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only = ON")
