"""The tables of the gateway's own SQLite file, and how files of older versions are brought on.

A file's version is its ``user_version``. Migration *n* brings a file from version *n* to the next,
in one transaction; what was released is changed no more, the next change is the next migration.
It knows nothing of who asks the tables for what.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Final

from llmproxy.stores.private_files import make_directory_of, make_empty, warn_if_exposed

APPLICATION_ID: Final = 0x4C4C4D50
"""Marks the files as ours: ``LLMP`` in ASCII (SQLite's file format, section 1.3.14)."""

PATIENCE_S: Final = 10.0
"""How long a start waits for other processes that hold the file."""

Migration = Sequence[str]
"""Statements, one by one: SQLite's module would end the transaction before a script of several."""

MIGRATIONS: Final[Sequence[Migration]] = (
    (
        # The order of `number` is that of creation: no two are the same, as times may be, and none
        # is given twice.
        """
        CREATE TABLE keys (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            digest BLOB NOT NULL UNIQUE,
            prefix TEXT NOT NULL,
            name TEXT NOT NULL,
            user_id TEXT NOT NULL,
            status TEXT NOT NULL,
            terms TEXT NOT NULL,
            created_at_s REAL NOT NULL,
            updated_at_s REAL NOT NULL
        )
        """,
        "CREATE INDEX keys_by_user ON keys (user_id, number)",
        # Every change of a key moves this counter, by triggers, so that a change made with
        # another program is noticed as well. Other processes compare it; counting of tokens, which
        # goes on all the time, does not touch it.
        "CREATE TABLE key_changes (count INTEGER NOT NULL)",
        "INSERT INTO key_changes VALUES (0)",
        *(
            f"""
            CREATE TRIGGER keys_{verb.lower()} AFTER {verb} ON keys
            BEGIN UPDATE key_changes SET count = count + 1; END
            """
            for verb in ("INSERT", "UPDATE", "DELETE")
        ),
        # By what the secret that the digests were made under is known again; no row: no keys yet.
        "CREATE TABLE key_secret_mark (mark BLOB NOT NULL)",
        """
        CREATE TABLE quota_use (
            key_id TEXT PRIMARY KEY,
            period_start_s INTEGER NOT NULL,
            used INTEGER NOT NULL,
            touched_on TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE usage_totals (
            day TEXT NOT NULL,
            key_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            model TEXT NOT NULL,
            requests INTEGER NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            total_tokens INTEGER NOT NULL,
            errors INTEGER NOT NULL,
            PRIMARY KEY (day, key_id, user_id, model)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX usage_by_key ON usage_totals (key_id, day)",
    ),
    (
        # What can be asked for stands in columns, all of it in the JSON of the record.
        """
        CREATE TABLE usage_records (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            time_ms INTEGER NOT NULL,
            request_id TEXT NOT NULL,
            key_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            model TEXT NOT NULL,
            backend TEXT NOT NULL,
            session_id TEXT NOT NULL,
            outcome TEXT NOT NULL,
            record BLOB NOT NULL
        )
        """,
        "CREATE INDEX usage_records_by_time ON usage_records (time_ms, id)",
        "CREATE INDEX usage_records_by_request ON usage_records (request_id)",
        *(
            f"CREATE INDEX usage_records_by_{column} ON usage_records ({column}, time_ms, id)"
            for column in ("key_id", "user_id", "model", "backend")
        ),
        """
        CREATE INDEX usage_records_by_session ON usage_records (session_id, time_ms, id)
        WHERE session_id <> ''
        """,
        # Most are well, and are found by their time.
        """
        CREATE INDEX usage_records_by_failure ON usage_records (outcome, time_ms, id)
        WHERE outcome <> 'ok'
        """,
        """
        CREATE TABLE usage_sessions (
            number INTEGER PRIMARY KEY,
            session_id TEXT NOT NULL,
            key_id TEXT NOT NULL,
            parent_session_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            models TEXT NOT NULL,
            requests INTEGER NOT NULL,
            errors INTEGER NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            total_tokens INTEGER NOT NULL,
            cached_tokens INTEGER NOT NULL,
            reasoning_tokens INTEGER NOT NULL,
            tool_calls TEXT NOT NULL,
            first_seen_ms INTEGER NOT NULL,
            last_seen_ms INTEGER NOT NULL,
            UNIQUE (session_id, key_id)
        )
        """,
        "CREATE INDEX usage_sessions_by_time ON usage_sessions (last_seen_ms, number)",
        *(
            f"CREATE INDEX usage_sessions_by_{name} ON usage_sessions "
            f"({name}_id, last_seen_ms, number)"
            for name in ("key", "user", "parent_session")
        ),
    ),
)


def prepare(
    path: str,
    migrations: Sequence[Migration] = MIGRATIONS,
    *,
    patience_s: float = PATIENCE_S,
) -> None:
    """Make a file, or bring it on, so that it has today's tables; blocks.

    Several processes may do this at once: one does the work, the others wait for it. The file is
    made for its owner only, and SQLite gives the files beside it the same mode.

    Args:
        path: Its absolute path; its directory is made when only that is missing.
        migrations: All of them, from version 0.
        patience_s: How long to wait for other processes.

    Raises:
        ValueError: It is not SQLite, not ours, or of a later version.
        OSError: It cannot be opened or written.
    """
    make_directory_of(path)
    if not make_empty(path):
        warn_if_exposed(path)
    try:
        connection = sqlite3.connect(path, timeout=patience_s, isolation_level=None)
        try:
            # In one transaction, or half of what is read may be of before another process's work.
            connection.execute("BEGIN")
            try:
                version = _check_owner(connection, path, len(migrations))
            finally:
                connection.execute("ROLLBACK")
            _use_wal(connection, patience_s)
            if version < len(migrations):
                _migrate(connection, path, migrations)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise as_file_error(error, path) from error


def as_file_error(error: sqlite3.Error, path: str) -> Exception:
    """Say in one line why a file cannot be used: for the start, where nothing is tried again."""
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
        return ValueError(f"{path} is not an SQLite file")
    return OSError(f"{path} cannot be used: {error}")


def _check_owner(connection: sqlite3.Connection, path: str, newest: int) -> int:
    """Give a file's version; refuse files of other programs, and of later versions of this one."""
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if owner != APPLICATION_ID and (owner or version or tables):
        raise ValueError(f"{path} is an SQLite file of another program; want one of its own")
    if version > newest:
        raise ValueError(
            f"{path} is of version {version}, made by a later release; this one knows versions up "
            f"to {newest}"
        )
    return int(version)


def _use_wal(connection: sqlite3.Connection, patience_s: float) -> None:
    """Switch to write-ahead logging, in which readers and the writer do not wait for each other."""
    deadline_s = time.monotonic() + patience_s
    while True:
        # SQLite does not wait by itself here, and says so by an error or by the old mode.
        mode = "locked"
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
        if mode == "wal":
            return
        if time.monotonic() > deadline_s:
            raise sqlite3.OperationalError("it cannot be switched to write-ahead logging")
        time.sleep(0.02)


def _migrate(connection: sqlite3.Connection, path: str, migrations: Sequence[Migration]) -> None:
    newest = len(migrations)
    while True:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            # Looked at under the lock: another process may have been first.
            version = _check_owner(connection, path, newest)
            if version == newest:
                return
            for statement in migrations[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
