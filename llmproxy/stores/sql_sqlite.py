"""SQLite files of others: asked for keys, given usage. The gateway's own file is elsewhere.

It knows nothing of threads and pools, nor of what is in the file.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from llmproxy.config.model_stores import Database
from llmproxy.errors import StoreUnavailable, ValueRefused
from llmproxy.stores.sql_connection import ConnectionBroken, Dialect, Rows

_UNSTORABLE: Final = (sqlite3.DataError, UnicodeEncodeError, OverflowError)
"""Errors that mean that a parameter is none of its values, nor can be."""


class SqliteDriver:
    """Opens a SQLite file, which must be there.

    Args:
        settings: One of ``storage.databases``.
    """

    dialect: Dialect = "sqlite"
    marker = "?"
    # Not a double quote: what SQLite finds between two of these and is no column is a text to it.
    quote = "`"

    def __init__(self, settings: Database) -> None:
        self._path = Path(settings.path).absolute()
        self._timeout_s = settings.timeout

    def connect(self) -> SqliteConnection:
        """Open it; see `SqlDriver.connect`."""
        try:
            connection = sqlite3.connect(
                f"file:{quote(str(self._path))}?mode=rw",  # never makes the file
                uri=True,
                timeout=self._timeout_s,
                isolation_level=None,
                check_same_thread=False,  # only for `interrupt`, which is made for that
            )
            return SqliteConnection(connection, self._path)
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(_reason(error)) from None


class SqliteConnection:
    """One opened file; see `SqlConnection`.

    Args:
        connection: It commits each statement by itself.
        path: The file.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._file = _identity(path)

    @property
    def is_usable(self) -> bool:
        """Whether the file is still the one that was opened, and not another put in its place."""
        try:
            return _identity(self._path) == self._file
        except OSError:
            return False

    def ask(self, statement: str, parameters: Sequence[object]) -> Rows:
        """Ask; see `SqlConnection.ask`."""
        try:
            return self._connection.execute(statement, tuple(parameters)).fetchall()
        except _UNSTORABLE:
            return ()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _translated(error) from None

    def write(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Write; see `SqlConnection.write`."""
        try:
            # At once, or two processes that both read first could not both go on to write.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(statement, rows)
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        except _UNSTORABLE as error:
            raise ValueRefused(type(error).__name__) from None
        except sqlite3.Error as error:
            raise _translated(error) from None

    def cut(self) -> None:
        """End what it is at, from another thread."""
        with contextlib.suppress(sqlite3.Error):  # it may be closed
            self._connection.interrupt()

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _translated(error: Exception) -> StoreUnavailable:
    kind = ConnectionBroken if _is_damaged(error) else StoreUnavailable
    return kind(_reason(error))


def _is_damaged(error: Exception) -> bool:
    """Say whether the file should be opened anew: it cannot be read as it was."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of it says what exactly
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)


def _reason(error: Exception) -> str:
    """Say what went wrong; SQLite's messages quote names, and no parameters."""
    return str(error) if isinstance(error, sqlite3.Error) else type(error).__name__
