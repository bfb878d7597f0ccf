"""Tests of `llmproxy.stores.key_table`: what becomes of the rows, without threads."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import attrs
import pytest

from llmproxy.entitlements import Quota
from llmproxy.errors import KeyExists
from llmproxy.key_records import KeyFilter, KeyRecord, StoredKey, SyncCounts
from llmproxy.stores import key_table
from llmproxy.stores.sqlite_schema import MIGRATIONS


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """Give the tables, empty."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for migration in MIGRATIONS:
        for statement in migration:
            connection.execute(statement)
    yield connection
    connection.close()


def key(key_id: str, text: str = "", at_s: float = 1.0, **fields: Any) -> StoredKey:
    """Make a key whose digest hangs on a text, or on its id."""
    return StoredKey(
        record=KeyRecord(id=key_id, **fields),
        prefix="sk-",
        digest=sha256((text or key_id).encode()).digest(),
        created_at_s=at_s,
        updated_at_s=at_s,
    )


def listed(connection: sqlite3.Connection, wanted: KeyFilter | None = None) -> list[str]:
    """Give the ids of a page."""
    keys, _ = key_table.page(connection, wanted or KeyFilter())
    return [key.record.id for key in keys]


def test_insert_and_find(connection: sqlite3.Connection) -> None:
    """A key is found by its id and by its digest, and by nothing else."""
    one = key("a", name="A")
    assert key_table.insert(connection, one) == one
    assert key_table.by_id(connection, "a") == one
    assert key_table.by_digest(connection, one.digest) == one
    assert key_table.by_id(connection, "A") is None
    assert key_table.by_digest(connection, one.digest[:-1]) is None


@pytest.mark.parametrize("other", [key("a", "other text"), key("b", "a")])
def test_insert_of_a_known_one(connection: sqlite3.Connection, other: StoredKey) -> None:
    """Neither id nor key may be there; the message shows neither."""
    one = key_table.insert(connection, key("a"))
    with pytest.raises(KeyExists):
        key_table.insert(connection, other)
    assert key_table.page(connection, KeyFilter()) == ([one], 1)


def test_replace_and_delete(connection: sqlite3.Connection) -> None:
    """Its place in the list stays."""
    for key_id in ("a", "b", "c"):
        key_table.insert(connection, key(key_id))
    changed = key("b", "new text", 2.0, user_id="u")
    assert key_table.replace(connection, changed) == changed
    assert key_table.by_id(connection, "b") == changed
    assert listed(connection) == ["c", "b", "a"]
    assert key_table.delete(connection, "b")
    assert not key_table.delete(connection, "b")
    assert listed(connection) == ["c", "a"]


def test_every_change_is_counted(connection: sqlite3.Connection) -> None:
    """Also one made by hand; looking and failing is none."""
    counts = [key_table.changes(connection)]

    def moved() -> bool:
        counts.append(key_table.changes(connection))
        return counts[-1] != counts[-2]

    key_table.insert(connection, key("a"))
    assert moved()
    key_table.replace(connection, key("a", name="A"))
    assert moved()
    connection.execute("UPDATE keys SET status = 'disabled'")
    assert moved()
    key_table.page(connection, KeyFilter())
    key_table.delete(connection, "b")
    with pytest.raises(KeyExists):
        key_table.insert(connection, key("a"))
    assert not moved()
    key_table.delete(connection, "a")
    assert moved()


def test_claim(connection: sqlite3.Connection) -> None:
    """The first secret stays while there are keys; before and after them any will do."""
    assert key_table.claim(connection, b"one") == (0, True)
    assert key_table.claim(connection, b"two") == (0, True)
    key_table.insert(connection, key("a"))
    assert key_table.claim(connection, b"two") == (1, True)
    assert key_table.claim(connection, b"one") == (1, False)
    key_table.delete(connection, "a")
    assert key_table.claim(connection, b"one") == (2, True)


def test_filters(connection: sqlite3.Connection) -> None:
    """All that are given must hold; the count is of all pages."""
    key_table.insert(connection, key("a", user_id="u1"))
    key_table.insert(connection, key("b", user_id="u2"))
    key_table.insert(connection, key("c", user_id="u1", status="disabled"))
    key_table.insert(connection, key("d", user_id="u1"))
    assert listed(connection, KeyFilter(user_id="u1")) == ["d", "c", "a"]
    assert listed(connection, KeyFilter(status="disabled")) == ["c"]
    assert listed(connection, KeyFilter(user_id="u1", status="active")) == ["d", "a"]
    assert listed(connection, KeyFilter(user_id="U1")) == []
    keys, total = key_table.page(connection, KeyFilter(user_id="u1", offset=1, limit=1))
    assert ([key.record.id for key in keys], total) == (["c"], 3)
    assert key_table.page(connection, KeyFilter(offset=4)) == ([], 4)
    assert key_table.page(connection, KeyFilter(offset=10**30, limit=10**30)) == ([], 4)


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("100%", ["percent"]),
        ("%", ["percent"]),
        ("_", ["under"]),
        ("\\", ["slash"]),
        ("'", ["quote"]),
        ("\x00b", ["nul"]),
        ("B", ["nul"]),
        ("SK-", ["umlaut", "nul", "quote", "slash", "under", "percent"]),
        ("PERC", ["percent"]),
        ("Ümläut", ["umlaut"]),
        ("ümläut", []),  # only ASCII is folded
        ("' OR 1 --", []),
        ("\ud800", []),
        ("x" * 1_000_000, []),
    ],
)
def test_search_is_literal(connection: sqlite3.Connection, search: str, found: list[str]) -> None:
    """Nothing in it means anything but itself; case does not count."""
    key_table.insert(connection, key("percent", name="100% mine"))
    key_table.insert(connection, key("under", user_id="a_z"))
    key_table.insert(connection, key("slash", name="c:\\d"))
    key_table.insert(connection, key("quote", name="it's"))
    key_table.insert(connection, key("nul", name="a\x00b"))
    key_table.insert(connection, key("umlaut", name="Ümläut"))
    assert listed(connection, KeyFilter(search=search)) == found


def sync(
    connection: sqlite3.Connection, *keys: StoredKey, full: bool = False, given: bool = True
) -> tuple[SyncCounts, set[str]]:
    """Synchronise, in a transaction as its callers have one."""
    connection.execute("BEGIN")
    try:
        result = key_table.sync(connection, [(key, given) for key in keys], full=full)
    except KeyExists:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return result


def test_sync_incrementally(connection: sqlite3.Connection) -> None:
    """New ones come, changed ones change, the same and the others stay."""
    for key_id in ("a", "b", "c"):
        key_table.insert(connection, key(key_id))
    counts, changed = sync(
        connection, key("a", at_s=5.0), key("b", at_s=5.0, name="B"), key("d", at_s=5.0)
    )
    assert counts == SyncCounts(created=1, updated=1, deleted=0)
    assert changed == {"b", "d"}
    assert listed(connection) == ["d", "c", "b", "a"]
    assert key_table.by_id(connection, "a") == key("a")
    assert key_table.by_id(connection, "b") == attrs.evolve(
        key("b", name="B"), created_at_s=1.0, updated_at_s=5.0
    )


def test_sync_fully(connection: sqlite3.Connection) -> None:
    """What is not given goes; with nothing given everything goes."""
    for key_id in ("a", "b", "c"):
        key_table.insert(connection, key(key_id))
    counts, changed = sync(connection, key("b"), key("d"), full=True)
    assert (counts, changed) == (SyncCounts(created=1, deleted=2), {"a", "c", "d"})
    assert listed(connection) == ["d", "b"]
    assert sync(connection, full=True) == (SyncCounts(deleted=2), {"b", "d"})


def test_sync_keeps_a_status(connection: sqlite3.Connection) -> None:
    """A key that was disabled is not enabled by a list that says nothing of it."""
    for key_id in ("a", "b"):
        key_table.insert(connection, key(key_id, status="disabled"))
    given = [(key(key_id, name="A"), True) for key_id in ("a", "b", "c")]
    keep = {key(key_id).digest for key_id in ("a", "c")}
    key_table.sync(connection, given, full=True, keep_status=keep)
    stored = [key_table.by_id(connection, key_id) for key_id in ("a", "b", "c")]
    assert [one and one.record.status for one in stored] == ["disabled", "active", "active"]


def test_sync_tells_what_was_used_before(connection: sqlite3.Connection) -> None:
    """Of keys that are new or change; not of those that begin at nothing."""
    used, unused = Quota(9, "monthly", used_before=5), Quota(9)
    key_table.insert(connection, key("a"))
    key_table.insert(connection, key("b", quota=used))
    given = key("a", quota=used), key("b", quota=used), key("c", quota=used), key("d", quota=unused)
    assert sync(connection, *given)[0].begun == {"a": used, "c": used}


def test_sync_by_the_key_itself(connection: sqlite3.Connection) -> None:
    """The stored id stays, whether the draft has none or another one."""
    key_table.insert(connection, key("a", "text"))
    counts, changed = sync(connection, key("made up", "text", name="A"), given=False, full=True)
    assert (counts, changed) == (SyncCounts(updated=1), {"a"})
    counts, changed = sync(connection, key("other", "text", name="B"), full=True)
    assert (counts, changed) == (SyncCounts(updated=1), {"a"})
    assert listed(connection) == ["a"]


def test_sync_gives_an_id_a_new_key(connection: sqlite3.Connection) -> None:
    """By its id it is the same one, though the key itself was exchanged."""
    key_table.insert(connection, key("a", "old text"))
    assert sync(connection, key("a", "new text"))[0] == SyncCounts(updated=1)
    assert key_table.by_digest(connection, key("a", "old text").digest) is None
    assert key_table.by_digest(connection, key("a", "new text").digest) is not None


@pytest.mark.parametrize(
    "keys",
    [
        (key("x", "1"), key("y", "1")),  # the same new key
        (key("x", "1"), key("x", "2")),  # the same new id
        (key("x", "1"), key("a", "1")),  # the same new key, one of them for a stored id
        (key("a", "1"), key("b", "1")),
        (key("x", "a"), key("x", "2")),  # the same id, one of them of a stored key
        (key("a", "1"), key("x", "a")),  # one by id, one by key
        (key("x", "a"), key("a", "1")),
        (key("a", "b"),),  # two stored ones
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_sync_of_one_key_twice(
    connection: sqlite3.Connection, keys: tuple[StoredKey, ...], full: bool
) -> None:
    """It is refused whatever the order, and nothing has changed."""
    key_table.insert(connection, key("a"))
    key_table.insert(connection, key("b"))
    with pytest.raises(KeyExists):
        sync(connection, key("first"), *keys, full=full)
    assert listed(connection) == ["b", "a"]
