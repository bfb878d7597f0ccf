"""What is done with the table ``keys`` inside of one transaction; see `llmproxy.stores.key_store`.

Plain functions over a connection, run in threads. They know nothing of secrets, of threads or of
who is told.
"""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Collection, Sequence
from typing import Any, Final

import attrs

from llmproxy.entitlements import Quota
from llmproxy.errors import KeyExists
from llmproxy.key_records import KeyFilter, StoredKey, SyncCounts
from llmproxy.stores.key_rows import COLUMNS, from_row, to_row
from llmproxy.stores.sqlite_text import storable

_SELECT: Final = f"SELECT {COLUMNS} FROM keys"
_MARKS: Final = ", ".join("?" for _ in COLUMNS.split(", "))
_LARGEST: Final = 2**63 - 1
"""What SQLite's integers hold."""


def claim(connection: sqlite3.Connection, mark: bytes) -> tuple[int, bool]:
    """Give the counter of changes, and say whether the keys belong to the secret of this mark.

    Where no keys are yet, they will.
    """
    row = connection.execute("SELECT mark FROM key_secret_mark").fetchone()
    known = row is not None and hmac.compare_digest(row[0], mark)
    if not known and connection.execute("SELECT 1 FROM keys LIMIT 1").fetchone() is None:
        connection.execute("DELETE FROM key_secret_mark")
        connection.execute("INSERT INTO key_secret_mark VALUES (?)", (mark,))
        known = True
    return changes(connection), known


def changes(connection: sqlite3.Connection) -> int:
    """Give the counter that every change of a key moves."""
    (count,) = connection.execute("SELECT count FROM key_changes").fetchone()
    return int(count)


def by_id(connection: sqlite3.Connection, key_id: str) -> StoredKey | None:
    """Give a key by its id."""
    return _one(connection, "id", storable(key_id))


def by_digest(connection: sqlite3.Connection, digest: bytes) -> StoredKey | None:
    """Give a key by its digest."""
    return _one(connection, "digest", digest)


def insert(connection: sqlite3.Connection, key: StoredKey) -> StoredKey:
    """Store a new key, and give it as it is stored.

    Raises:
        KeyExists: Its id or its digest is there.
    """
    row = to_row(key)
    if by_digest(connection, key.digest) is not None:
        raise KeyExists("the key is in the store already")
    if by_id(connection, key.record.id) is not None:
        raise KeyExists("the id is of another key in the store")
    connection.execute(f"INSERT INTO keys ({COLUMNS}) VALUES ({_MARKS})", row)
    return from_row(row)


def replace(connection: sqlite3.Connection, key: StoredKey) -> StoredKey:
    """Store a key in the place of the one with its id, and give it as it is stored."""
    row = to_row(key)
    connection.execute(f"UPDATE keys SET ({COLUMNS}) = ({_MARKS}) WHERE id = ?", (*row, row[0]))
    return from_row(row)


def delete(connection: sqlite3.Connection, key_id: str) -> bool:
    """Delete a key; say whether there was one."""
    return connection.execute("DELETE FROM keys WHERE id = ?", (storable(key_id),)).rowcount > 0


def page(connection: sqlite3.Connection, wanted: KeyFilter) -> tuple[Sequence[StoredKey], int]:
    """Give a page of the keys, the newest first, and how many there are on all pages."""
    conditions: list[str] = ["1"]
    values: list[Any] = []
    if wanted.user_id:
        conditions.append("user_id = ?")
        values.append(storable(wanted.user_id))
    if wanted.status is not None:
        conditions.append("status = ?")
        values.append(wanted.status)
    if wanted.search:
        # Not LIKE: it has characters of its own, and ends at a NUL. lower() is for ASCII only.
        columns = ("id", "name", "user_id", "prefix")
        found = " OR ".join(f"instr(lower({column}), lower(?)) > 0" for column in columns)
        conditions.append(f"({found})")
        values.extend([storable(wanted.search)] * len(columns))
    where = " AND ".join(conditions)
    (total,) = connection.execute(f"SELECT count(*) FROM keys WHERE {where}", values).fetchone()
    rows = connection.execute(
        f"{_SELECT} WHERE {where} ORDER BY number DESC LIMIT ? OFFSET ?",
        (*values, min(wanted.limit, _LARGEST), min(wanted.offset, _LARGEST)),
    )
    return [from_row(row) for row in rows], total


def sync(
    connection: sqlite3.Connection,
    keys: Sequence[tuple[StoredKey, bool]],
    *,
    full: bool,
    keep_status: Collection[bytes] = (),
) -> tuple[SyncCounts, set[str]]:
    """Make the stored keys what these say.

    Args:
        connection: The connection.
        keys: Each with whether its id was given, and not just made up.
        full: Whether all other keys are deleted.
        keep_status: The digests of those that keep the status that is stored.

    Returns:
        How many were changed, and their ids.

    Raises:
        KeyExists: Two of them are the same key, or one is two stored keys.
    """
    # All are looked up before any is changed: so what becomes of them hangs on no order.
    found = [(key, _counterpart(connection, key, given)) for key, given in keys]
    kept = {stored.record.id for _, stored in found if stored is not None}
    digests = {key.digest for key, _ in keys}
    ids = [storable(key.record.id) for key, given in keys if given]
    known = sum(stored is not None for _, stored in found)
    if len(kept) < known or len(digests) < len(keys) or len(set(ids)) < len(ids):
        raise KeyExists("a key is given twice")
    deleted: set[str] = set()
    if full:
        rows = connection.execute("SELECT id FROM keys").fetchall()
        deleted = {key_id for (key_id,) in rows} - kept
        for key_id in deleted:
            delete(connection, key_id)
    created: set[str] = set()
    updated: set[str] = set()
    begun: dict[str, Quota] = {}
    for key, stored in found:
        if stored is None:
            wanted = insert(connection, key)
            created.add(wanted.record.id)
        else:
            status = (stored if key.digest in keep_status else key).record.status
            wanted = attrs.evolve(
                key,
                record=attrs.evolve(key.record, id=stored.record.id, status=status),
                created_at_s=stored.created_at_s,
            )
            if to_row(wanted)[:-1] == to_row(stored)[:-1]:  # all but the time of the change
                continue
            replace(connection, wanted)
            updated.add(stored.record.id)
        quota = wanted.record.quota
        if quota is not None and quota.used_before:
            begun[wanted.record.id] = quota
    counts = SyncCounts(
        created=len(created), updated=len(updated), deleted=len(deleted), begun=begun
    )
    return counts, created | updated | deleted


def _counterpart(connection: sqlite3.Connection, key: StoredKey, given: bool) -> StoredKey | None:
    """Give the stored key that a key to be synchronised is; None: it is new.

    Raises:
        KeyExists: By its id it is one, by its digest another.
    """
    same = by_digest(connection, key.digest)
    namesake = by_id(connection, key.record.id) if given else None
    if same is not None and namesake is not None and same.record.id != namesake.record.id:
        raise KeyExists("an id is of one stored key, and the key itself is another one")
    return same or namesake


def _one(connection: sqlite3.Connection, column: str, value: Any) -> StoredKey | None:
    row = connection.execute(f"{_SELECT} WHERE {column} = ?", (value,)).fetchone()
    return None if row is None else from_row(row)
