"""Tests of `llmproxy.stores.sqlite_schema`."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmproxy.stores.sqlite_schema import APPLICATION_ID, MIGRATIONS, prepare

SCRIPT = """
import sys
from llmproxy.stores.sqlite_schema import prepare
prepare(sys.argv[1])
"""


def filled_at_version_1(connection: sqlite3.Connection) -> None:
    """Put into a file of version 1 what its releases put there."""
    connection.execute(
        "INSERT INTO keys (id, digest, prefix, name, user_id, status, terms, created_at_s, "
        "updated_at_s) VALUES ('key_a', x'00', 'sk-', 'n', 'u', 'active', '{}', 1, 2)"
    )
    connection.execute("INSERT INTO quota_use VALUES ('key_a', 0, 7, '2026-01-02')")
    connection.execute(
        "INSERT INTO usage_totals VALUES ('2026-01-02', 'key_a', 'u', 'm', 1, 2, 3, 5, 0)"
    )


def filled_at_version_2(connection: sqlite3.Connection) -> None:
    """Put into a file of version 2 what its releases put there."""
    filled_at_version_1(connection)
    connection.execute(
        "INSERT INTO usage_records (id, time_ms, request_id, key_id, user_id, model, backend, "
        "session_id, outcome, record) VALUES ('i', 1, 'r', 'key_a', 'u', 'm', 'b', 's', 'ok', '{}')"
    )
    connection.execute(
        "INSERT INTO usage_sessions VALUES (1, 's', 'key_a', '', 'u', '[]', 1, 0, 2, 3, 5, 0, 0, "
        "'{}', 1, 2)"
    )


FILLED: dict[int, Callable[[sqlite3.Connection], None]] = {
    1: filled_at_version_1,
    2: filled_at_version_2,
}
"""By version: what a file of it held. A new migration brings a new function here."""


def schema_of(path: Path) -> Any:
    """Give all that makes two files the same, but for their rows."""
    connection = sqlite3.connect(path)
    try:
        return (
            connection.execute("PRAGMA user_version").fetchone(),
            connection.execute("PRAGMA application_id").fetchone(),
            connection.execute("PRAGMA journal_mode").fetchone(),
            connection.execute(
                "SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2"
            ).fetchall(),
        )
    finally:
        connection.close()


def test_new_file(tmp_path: Path) -> None:
    """It is ours, of today's version, and with a write-ahead log; a second time changes nothing."""
    path = tmp_path / "new" / "file.db"
    prepare(str(path))
    version, application_id, mode, tables = schema_of(path)
    assert (version, application_id, mode) == ((len(MIGRATIONS),), (APPLICATION_ID,), ("wal",))
    assert "keys" in [name for _, name, _ in tables]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    before = path.read_bytes()
    prepare(str(path))
    assert path.read_bytes() == before


def test_every_version_is_known_here() -> None:
    """A migration without a sample of the version that it makes is not tested."""
    assert set(FILLED) == set(range(1, len(MIGRATIONS) + 1))


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS) + 1))
def test_older_versions_are_brought_on(tmp_path: Path, version: int) -> None:
    """They become what a new file is, and lose nothing."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    prepare(str(old), MIGRATIONS[:version])
    connection = sqlite3.connect(old)
    with connection:
        FILLED[version](connection)
    connection.close()
    prepare(str(old))
    prepare(str(new))
    assert schema_of(old) == schema_of(new)
    connection = sqlite3.connect(old)
    assert connection.execute("SELECT id, name, user_id, status FROM keys").fetchall() == [
        ("key_a", "n", "u", "active")
    ]
    assert connection.execute("SELECT key_id, used FROM quota_use").fetchall() == [("key_a", 7)]
    assert connection.execute("SELECT total_tokens FROM usage_totals").fetchall() == [(5,)]
    connection.close()


def test_next_migration(tmp_path: Path) -> None:
    """One more brings a file on, whichever version it has."""
    more = (*MIGRATIONS, ("ALTER TABLE keys ADD COLUMN colour TEXT NOT NULL DEFAULT ''",))
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    prepare(str(old))
    prepare(str(old), more)
    prepare(str(new), more)
    assert schema_of(old) == schema_of(new)
    assert schema_of(old)[0] == (len(MIGRATIONS) + 1,)


def test_failed_migration_leaves_the_file(tmp_path: Path) -> None:
    """All of it is undone; the next start goes on from there."""
    path = tmp_path / "file.db"
    prepare(str(path))
    before = schema_of(path)
    broken = (*MIGRATIONS, ("CREATE TABLE more (a)", "CREATE TABLE keys (a)"))
    with pytest.raises(OSError, match="cannot be used: table keys already exists"):
        prepare(str(path), broken)
    assert schema_of(path) == before


def test_later_version_is_refused(tmp_path: Path) -> None:
    """An older release must not write into a newer one's tables."""
    path = tmp_path / "file.db"
    prepare(str(path), (*MIGRATIONS, ("CREATE TABLE more (a)",)))
    with pytest.raises(ValueError, match=r"of version 3, made by a later release; .* up to 2"):
        prepare(str(path))


@pytest.mark.parametrize("content", [b"keys: []\n" * 200, b"\x00" * 8192])
def test_not_sqlite(tmp_path: Path, content: bytes) -> None:
    """It is left as it is."""
    path = tmp_path / "file.db"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not an SQLite file"):
        prepare(str(path))
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE theirs (a)", "PRAGMA user_version = 1", "PRAGMA application_id = 5"]
)
def test_file_of_another_program(tmp_path: Path, statement: str) -> None:
    """It is not taken over."""
    path = tmp_path / "file.db"
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    before = schema_of(path)
    with pytest.raises(ValueError, match="of another program"):
        prepare(str(path))
    assert schema_of(path) == before


def test_empty_file_is_taken(tmp_path: Path) -> None:
    """It may have been made with the right mode and owner beforehand."""
    path = tmp_path / "file.db"
    path.touch(0o600)
    prepare(str(path))
    assert schema_of(path)[0] == (len(MIGRATIONS),)


def test_directory_in_its_place(tmp_path: Path) -> None:
    """The error names it."""
    with pytest.raises(OSError, match=str(tmp_path)):
        prepare(str(tmp_path))


def test_no_directory_for_it(tmp_path: Path) -> None:
    """Only the last part of the path is made."""
    with pytest.raises(OSError, match="missing"):
        prepare(str(tmp_path / "missing" / "new" / "file.db"))


def test_file_held_by_another_process(tmp_path: Path) -> None:
    """After some patience it is an error."""
    path = tmp_path / "file.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OSError, match="locked"):
        prepare(str(path), patience_s=0.1)
    holder.execute("ROLLBACK")
    holder.close()
    prepare(str(path))


def test_processes_that_start_at_once(tmp_path: Path) -> None:
    """One of them makes the tables, and none fails."""
    path = tmp_path / "new" / "file.db"
    started = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], stderr=subprocess.PIPE)
        for _ in range(6)
    ]
    errors = {process.communicate(timeout=60)[1] for process in started}
    assert errors == {b""}
    fresh = tmp_path / "fresh.db"
    prepare(str(fresh))
    assert schema_of(path) == schema_of(fresh)
