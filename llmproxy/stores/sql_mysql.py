"""MySQL and MariaDB, by PyMySQL.

It knows nothing of threads and pools. Whoever may run without MySQL imports this module late: it
costs memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql
from pymysql.constants import CR, ER

from llmproxy.config.model_stores import Database
from llmproxy.errors import StoreUnavailable, ValueRefused
from llmproxy.stores.sql_connection import ConnectionBroken, Dialect, Rows

DEFAULT_PORT: Final = 3306
SOCKET_NAME: Final = "mysqld.sock"
"""Of the socket in the directory that ``host`` may be."""

_OPTIONS: Final = frozenset(("unix_socket", "ssl_ca", "ssl_cert", "ssl_key"))
_LOST: Final = frozenset(
    (CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, CR.CR_COMMANDS_OUT_OF_SYNC, 0)
)
_NOTHING_IS_EQUAL: Final = frozenset(
    (
        ER.CANT_AGGREGATE_2COLLATIONS,  # a text with characters that the column's charset has not
        3988,  # the same, as MySQL 8 tells it
    )
)
_REASONS: Final = {
    ER.ACCESS_DENIED_ERROR: "it refuses the user or the password",
    ER.DBACCESS_DENIED_ERROR: "it refuses the user this database",
    ER.BAD_DB_ERROR: "it has no database of that name",
    ER.NO_SUCH_TABLE: "it has no table of that name",
    ER.BAD_FIELD_ERROR: "it has no column of that name",
    ER.CON_COUNT_ERROR: "it has too many clients",
    CR.CR_CONN_HOST_ERROR: "it cannot be connected to",
    CR.CR_CONNECTION_ERROR: "it cannot be connected to",
}


class MysqlDriver:
    """Connects to a MySQL or MariaDB.

    Args:
        settings: One of ``storage.databases``.

    Raises:
        ValueError: ``dsn`` is not a URL for MySQL; nothing of it is shown.
    """

    dialect: Dialect = "mysql"
    marker = "%s"
    quote = "`"

    def __init__(self, settings: Database) -> None:
        self._login = {**_login(settings), "charset": "utf8mb4", "autocommit": True}
        # Each wait for the socket is bounded by these, so a query that hangs ends by itself.
        for what in ("connect", "read", "write"):
            self._login[f"{what}_timeout"] = settings.timeout

    def connect(self) -> MysqlConnection:
        """Connect; see `SqlDriver.connect`."""
        try:
            connection: Any = pymysql.connect(**self._login)
            return MysqlConnection(connection)
        except (pymysql.MySQLError, OSError) as error:
            raise StoreUnavailable(_reason(error, "connecting fails")) from None


def _login(settings: Database) -> dict[str, Any]:
    if settings.dsn:
        return _read_url(settings.dsn)
    login: dict[str, Any] = {
        "user": settings.user,
        "password": settings.password,
        "database": settings.database or None,
    }
    if settings.host.startswith("/"):
        path = Path(settings.host)
        login["unix_socket"] = str(path / SOCKET_NAME if path.is_dir() else path)
    else:
        login |= {"host": settings.host, "port": settings.port or DEFAULT_PORT}
    return login


def _read_url(url: str) -> dict[str, Any]:
    """Read a URL such as ``mysql://user:password@host:3306/database?ssl_ca=/etc/ca.pem``."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL for MySQL") from None
    if parts.scheme not in ("mysql", "mariadb") or parts.fragment:
        raise ValueError("is not a URL for MySQL; want mysql://user:password@host:port/database")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not options.keys() <= _OPTIONS:
        raise ValueError(f"has options in its query that are not known; want {sorted(_OPTIONS)}")
    return {
        "host": parts.hostname or "127.0.0.1",
        "port": port or DEFAULT_PORT,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": unquote(parts.path.removeprefix("/")) or None,
        **options,
    }


class MysqlConnection:
    """One connection; see `SqlConnection`.

    Args:
        connection: It commits each statement by itself.
    """

    def __init__(self, connection: pymysql.Connection[Any]) -> None:
        self._connection = connection

    @property
    def is_usable(self) -> bool:
        """Whether it is not known to be broken."""
        return self._connection.open

    def ask(self, statement: str, parameters: Sequence[Any]) -> Rows:
        """Ask; see `SqlConnection.ask`."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement, tuple(parameters))
                return cursor.fetchall() if cursor.description else ()
        except UnicodeEncodeError:
            return ()
        except (pymysql.MySQLError, OSError, UnicodeDecodeError) as error:
            if isinstance(error, pymysql.DataError) or _code(error) in _NOTHING_IS_EQUAL:
                return ()
            raise self._translated(error) from None

    def write(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Write; see `SqlConnection.write`."""
        try:
            self._connection.begin()
            try:
                with self._connection.cursor() as cursor:
                    cursor.executemany(statement, rows)
                self._connection.commit()
            except BaseException:
                with contextlib.suppress(pymysql.MySQLError, OSError):  # it may be broken
                    self._connection.rollback()
                raise
        except UnicodeEncodeError as error:
            raise ValueRefused(type(error).__name__) from None
        except (pymysql.MySQLError, OSError) as error:
            if isinstance(error, pymysql.DataError):
                raise ValueRefused(_reason(error, "a value is refused")) from None
            raise self._translated(error) from None

    def _translated(self, error: Exception) -> StoreUnavailable:
        broken = not self._connection.open or _code(error) in _LOST
        kind = ConnectionBroken if broken else StoreUnavailable
        return kind(_reason(error, "the query fails"))

    def cut(self) -> None:
        """Do nothing: the timeouts of the connection end what it is at."""

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(pymysql.MySQLError, OSError):  # it may be broken, or closed
            self._connection.close()


def _code(error: Exception) -> int:
    code = error.args[0] if error.args else -1
    return code if isinstance(code, int) else -1


def _reason(error: Exception, what: str) -> str:
    """Say what went wrong in names and codes: messages may quote a key."""
    if not isinstance(error, pymysql.MySQLError):
        return f"{what}: {type(error).__name__}"
    code = _code(error)
    return _REASONS.get(code, f"{what}: {type(error).__name__} {code}")
