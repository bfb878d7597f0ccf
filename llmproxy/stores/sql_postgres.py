"""PostgreSQL, by psycopg.

It knows nothing of threads and pools. Importing psycopg loads libpq: whoever may run without
PostgreSQL imports this module late.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from llmproxy.config.model_stores import Database
from llmproxy.errors import StoreUnavailable, ValueRefused
from llmproxy.stores.sql_connection import ConnectionBroken, Dialect, Lifeline, Rows

DEFAULT_PORT: Final = 5432

_UNSTORABLE: Final = (psycopg.DataError, UnicodeEncodeError)
"""Errors that mean that a parameter is none of the column's values, nor can be."""


class PostgresDriver:
    """Connects to a PostgreSQL.

    Args:
        settings: One of ``storage.databases``.

    Raises:
        ValueError: ``dsn`` is not a connection string; nothing of it is shown.
    """

    dialect: Dialect = "postgres"
    marker = "%s"
    quote = '"'

    def __init__(self, settings: Database) -> None:
        self._conninfo = _conninfo(settings)

    def connect(self) -> PostgresConnection:
        """Connect; see `SqlDriver.connect`."""
        try:
            # Not prepared: a pooler before the server may send each query to another connection.
            connection = psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            raise StoreUnavailable(_reason(error, "connecting fails")) from None
        return PostgresConnection(connection)


def _conninfo(settings: Database) -> str:
    try:
        given = conninfo_to_dict(settings.dsn)
    except psycopg.Error:
        raise ValueError("is not a connection string of PostgreSQL") from None
    if not settings.dsn:
        named: dict[str, str | int] = {
            "host": settings.host,
            "port": settings.port or DEFAULT_PORT,
            "user": settings.user,
            "password": settings.password,
            "dbname": settings.database,
        }
        given = {name: value for name, value in named.items() if value}
    timeout_ms = math.ceil(settings.timeout * 1000)
    defaults: dict[str, Any] = {
        "application_name": "llmproxy",
        # So the server gives up a query, too, whose answer nobody waits for any more.
        "options": f"-c statement_timeout={timeout_ms}",
        "tcp_user_timeout": timeout_ms,
        "connect_timeout": math.ceil(settings.timeout),
        "client_encoding": "utf-8",
    }
    return make_conninfo("", **{**defaults, **given})


class PostgresConnection:
    """One connection; see `SqlConnection`.

    Args:
        connection: It commits each statement by itself.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._lifeline = Lifeline(connection.fileno())

    @property
    def is_usable(self) -> bool:
        """Whether it is not known to be broken."""
        return not self._connection.closed

    def ask(self, statement: str, parameters: Sequence[Any]) -> Rows:
        """Ask; see `SqlConnection.ask`."""
        try:
            cursor = self._connection.execute(statement.encode("utf-8"), tuple(parameters))
            return cursor.fetchall() if cursor.description else ()
        except _UNSTORABLE:
            return ()
        except (psycopg.Error, UnicodeDecodeError) as error:
            raise self._translated(error) from None

    def write(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Write; see `SqlConnection.write`."""
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                cursor.executemany(statement.encode("utf-8"), rows)
        except _UNSTORABLE as error:
            raise ValueRefused(_reason(error, "a value is refused")) from None
        except psycopg.Error as error:
            raise self._translated(error) from None

    def _translated(self, error: Exception) -> StoreUnavailable:
        kind = ConnectionBroken if self._connection.closed else StoreUnavailable
        return kind(_reason(error, "the query fails"))

    def cut(self) -> None:
        """End what it is at, from another thread."""
        self._lifeline.cut()

    def close(self) -> None:
        """Close it."""
        self._lifeline.drop()
        self._connection.close()


def _reason(error: Exception, what: str) -> str:
    """Say what went wrong in names and codes: messages may quote a key or a password."""
    name = type(error).__name__
    message = str(error)
    if "Connection refused" in message:
        return "the connection is refused"
    for words in ("password authentication failed", "starting up", "shutting down", "too many cl"):
        if words in message:
            return _KNOWN[words]
    code = error.sqlstate if isinstance(error, psycopg.Error) else None
    return f"{what}: {name} {code}" if code else f"{what}: {name}"


_KNOWN: Final = {
    "password authentication failed": "it refuses the user or the password",
    "starting up": "it is starting up",
    "shutting down": "it is shutting down",
    "too many cl": "it has too many clients",
}
