"""Tests of `llmproxy.stores.key_store`, over real files."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from zope.interface.verify import verifyObject

from llmproxy.entitlements import OwnLimits, Quota
from llmproxy.errors import KeyExists, StoreUnavailable
from llmproxy.interfaces import IKeyStore
from llmproxy.key_records import KeyDraft, KeyFilter, KeyRecord, StoredKey, SyncCounts
from llmproxy.stores import key_table
from llmproxy.stores.key_store import POLL_INTERVAL_S, SqliteKeyStore
from llmproxy.stores.key_text import new_key
from tests.stores.logged import Logged
from tests.stores.reactor_case import reactor
from tests.stores.sqlite_case import SqliteTestCase, run_python
from tests.stores.sqlite_scripts import CRASH_IN_SYNC, DISABLE_KEY

SECRET = b"the server's secret"
ODD_TEXTS = [
    "'; DROP TABLE keys; --",
    '" OR ""="',
    "% _ \\ * ? [a]",
    "a\x00b",
    "a\x00c",
    "\ud800",
    "\udcff\ud800",
    "ключ \N{SNOWMAN}",
    "\r\nX-Header: 1",
    "x" * 1_000_000,
    " ",
    "",
]


class KeyStoreTestCase(SqliteTestCase):
    """Makes stores."""

    def setUp(self) -> None:
        """Let time stand still."""
        self.now_s = 1000.0
        self.told: list[frozenset[str] | None] = []

    def store(self, told: list[Any] | None = None, **fields: Any) -> SqliteKeyStore:
        """Make a store on a connection pool of its own, as another process would."""
        return SqliteKeyStore(
            fields.pop("file", None) or self.open(),
            **{
                "secret": SECRET,
                "now": lambda: self.now_s,
                "random_bytes": os.urandom,
                "clock": Clock(),
                "on_change": (self.told if told is None else told).append,
                **fields,
            },
        )


def draft(key: str, **fields: Any) -> KeyDraft:
    """Make a draft."""
    return KeyDraft(record=KeyRecord(**{"id": "", **fields}), key=key)


async def ids(store: SqliteKeyStore, **wanted: Any) -> list[str]:
    """Give the ids of a page."""
    keys, _ = await store.list(KeyFilter(**wanted))
    return [key.record.id for key in keys]


class ContractTests(KeyStoreTestCase):
    """What `IKeyStore` says."""

    async def test_interface(self) -> None:
        """It is what the admin API expects."""
        verifyObject(IKeyStore, self.store())

    async def test_created_key(self) -> None:
        """It has an id of ours, and is found by that and by itself."""
        store = self.store()
        text = new_key(os.urandom)
        key = await store.create(draft(text, name="one"))
        self.assertRegex(key.record.id, r"\Akey_[a-z2-7]{16}\Z")
        assert key == StoredKey(
            record=KeyRecord(id=key.record.id, name="one"),
            prefix=text[:12],
            digest=key.digest,
            created_at_s=1000.0,
            updated_at_s=1000.0,
        )
        assert len(key.digest) == 32
        assert await store.get(key.record.id) == key
        assert await store.identify(text) == key
        for other in (text[:-1], text + "x", text.swapcase(), key.record.id, key.prefix, ""):
            assert await store.identify(other) is None
        assert await store.get(text) is None

    async def test_all_of_a_record_is_kept(self) -> None:
        """Also over a restart."""
        record = KeyRecord(
            id="mine",
            name="N",
            user_id="u",
            status="disabled",
            allowed_models=("qwen*", "x"),
            allowed_ips=("10.0.0.0/8",),
            denied_ips=("fd00::/8",),
            starts_at_s=1.5,
            expires_at_s=0.0,
            quota=Quota(10**20, "monthly", 7),
            own_limits=OwnLimits(requests_per_minute=0, burst_size=3),
            metadata={"team": ["a", {"b": None}], "n": 1.5},
        )
        file = self.open()
        store = self.store(file=file)
        assert (await store.create(KeyDraft(record=record, key="sk-abc"))).record == record
        await file.stopService()
        key = await self.store().get("mine")
        assert key is not None
        assert key.record == record

    async def test_known_key_or_id(self) -> None:
        """Neither is stored twice, and nothing is told."""
        store = self.store()
        await store.create(draft("sk-one-one", id="a"))
        self.told.clear()
        for again in (draft("sk-one-one"), draft("sk-two-two", id="a")):
            with self.assertRaises(KeyExists) as raised:
                await store.create(again)
            self.assertNotIn("sk-", str(raised.exception))
        assert await ids(store) == ["a"]
        assert self.told == []

    async def test_digest_instead_of_key(self) -> None:
        """A key that only another store has seen is known here, under the same secret."""
        store = self.store()
        there = await store.create(draft("sk-one-one", id="a"))
        await store.delete("a")
        moved = KeyDraft(record=KeyRecord(id="b"), digest=there.digest, prefix="sk-")
        key = await store.create(moved)
        assert (key.prefix, key.record.id) == ("sk-", "b")
        assert await store.identify("sk-one-one") == key

    async def test_draft_without_key(self) -> None:
        """Is the caller's mistake."""
        store = self.store()
        for given in (b"", b"short"):
            without = KeyDraft(record=KeyRecord(id="a"), digest=given)
            with self.assertRaises(ValueError):
                await store.create(without)
            with self.assertRaises(ValueError):
                await store.sync([without], full=True)

    async def test_update(self) -> None:
        """The change is of what is stored now; the id and the birthday stay."""
        store = self.store()
        key = await store.create(draft("sk-one-one", id="a", name="1"))
        self.now_s = 2000.0

        def longer(record: KeyRecord) -> KeyRecord:
            return attrs.evolve(record, id="other", name=record.name + "!")

        changed = await gatherResults([store.update("a", longer) for _ in range(20)])
        expected = attrs.evolve(
            key, record=KeyRecord(id="a", name="1" + "!" * 20), updated_at_s=2000.0
        )
        assert changed[-1] == expected
        assert await store.get("a") == expected
        assert await store.update("other", longer) is None

    async def test_change_that_fails(self) -> None:
        """Its error comes back as it is, and nothing has changed."""
        store = self.store()
        key = await store.create(draft("sk-one-one", id="a"))
        self.told.clear()

        def refuse(record: KeyRecord) -> KeyRecord:
            raise LookupError(record.id)

        with self.assertRaises(LookupError):
            await store.update("a", refuse)
        assert await store.get("a") == key
        assert self.told == []

    async def test_delete(self) -> None:
        """Once."""
        store = self.store()
        await store.create(draft("sk-one-one", id="a"))
        assert await store.delete("a") is True
        assert await store.delete("a") is False
        assert await store.get("a") is None
        assert await store.identify("sk-one-one") is None

    async def test_pages(self) -> None:
        """Of 2 000 keys each is on one page, the newest first."""
        store = self.store()
        drafts = [draft(f"sk-{number:06}", id=f"k{number}") for number in range(2000)]
        assert await store.sync(drafts, full=False) == SyncCounts(created=2000)
        seen: list[str] = []
        for offset in range(0, 2100, 70):
            keys, total = await store.list(KeyFilter(offset=offset, limit=70))
            assert total == 2000
            seen.extend(key.record.id for key in keys)
        assert seen == [f"k{number}" for number in reversed(range(2000))]

    async def test_sync_enables_nothing_unsaid(self) -> None:
        """A disabled key stays so, until a draft says another status."""
        store = self.store()
        await store.create(draft("sk-one-one", id="a", status="disabled"))
        unsaid = attrs.evolve(draft("sk-one-one"), says_status=False)
        for given, status in ((unsaid, "disabled"), (draft("sk-one-one"), "active")):
            await store.sync([given], full=True)
            stored = await store.get("a")
            assert stored is not None
            assert stored.record.status == status

    async def test_sync(self) -> None:
        """Drafts with and without ids; the same again changes nothing and tells nothing."""
        store = self.store()
        await store.create(draft("sk-one-one", id="a"))
        await store.create(draft("sk-two-two", id="b"))
        self.told.clear()
        drafts = [draft("sk-one-one", name="A"), draft("sk-three-3", id="c"), draft("sk-four-44")]
        assert await store.sync(drafts, full=True) == SyncCounts(created=2, updated=1, deleted=1)
        new, *rest = await ids(store)
        assert rest == ["c", "a"]
        assert self.told == [frozenset(("a", "b", "c", new))]
        assert await store.sync(drafts, full=True) == SyncCounts()
        assert await store.sync(drafts[:1], full=False) == SyncCounts()
        assert len(self.told) == 1

    async def test_many_keys_are_hashed_in_another_thread(self) -> None:
        """Streams do not wait for it."""
        threads = set()

        def random_bytes(size: int) -> bytes:
            threads.add(threading.current_thread())
            return os.urandom(size)

        await self.store(random_bytes=random_bytes).sync([draft("sk-one-one")], full=False)
        assert threads
        assert threading.current_thread() not in threads

    async def test_sync_of_one_key_twice(self) -> None:
        """All or nothing."""
        store = self.store()
        await store.create(draft("sk-one-one", id="a"))
        self.told.clear()
        with self.assertRaises(KeyExists):
            await store.sync([draft("sk-two-two"), draft("sk-two-two")], full=True)
        assert await ids(store) == ["a"]
        assert self.told == []

    async def test_odd_texts(self) -> None:
        """Keys, ids, names and searches of any kind mean nothing but themselves."""
        store = self.store()
        keys = []
        for number, text in enumerate(ODD_TEXTS):
            record = KeyRecord(id=f"k{number}", name=text, user_id=text, metadata={"m": text})
            keys.append(await store.create(KeyDraft(record=record, key="k" + text)))
        for text, key in zip(ODD_TEXTS, keys, strict=True):
            assert await store.identify("k" + text) == key
            assert key.record.metadata == {"m": text}
            assert await store.get(text) is None
            assert await store.delete(text) is False
            if text:
                wanted = KeyFilter(user_id=text, search=text)
                assert await store.list(wanted) == ([key], 1)
        assert await ids(store, limit=100) == [key.record.id for key in reversed(keys)]

    async def test_odd_ids(self) -> None:
        """An id may be anything, too."""
        store = self.store()
        for number, text in enumerate(ODD_TEXTS[:-1]):
            key = await store.create(draft(f"sk-{number}", id=text))
            assert await store.get(text) == key
            assert await store.delete(text) is True


class SecrecyTests(KeyStoreTestCase):
    """What is at rest."""

    async def test_no_key_is_in_the_file(self) -> None:
        """Nor in those beside it, nor in errors and representations: whatever was done with it."""
        made, foreign = new_key(os.urandom), "canary-of-another-gateway"
        store = self.store()
        one = await store.create(draft(made))
        with self.assertRaises(KeyExists) as raised:
            await store.create(draft(made))
        await store.identify("canary-that-is-unknown")
        await store.sync([draft(foreign, id="f")], full=False)
        await store.update("f", lambda record: attrs.evolve(record, name="F"))
        seen = self.all_bytes() + repr((store, one, draft(made), raised.exception)).encode()
        assert one.record.id.encode() in seen  # it is looked for where it would be
        for canary in (made, made[8:], foreign, foreign[8:], "unknown"):
            assert canary.encode() not in seen
        assert SECRET not in seen

    async def test_another_secret_is_refused(self) -> None:
        """Rather than knowing no key; without keys it is taken."""
        store = self.store()
        await store.create(draft("sk-one-one", id="a"))
        with self.assertRaisesRegex(ValueError, "hashed under another secret"):
            self.store(secret=b"another")
        await store.delete("a")
        await self.store(secret=b"another").create(draft("sk-one-one"))

    async def test_crash_in_a_transaction(self) -> None:
        """A process that is killed before the end of it has done nothing; after it, everything."""
        store = self.store()
        await store.create(draft("sk-one-one", id="a"))
        for when, total in (("before", 1), ("after", 2000)):
            killed = await deferToThread(run_python, CRASH_IN_SYNC, str(self.path), when)
            assert killed.returncode == -signal.SIGKILL, killed.stderr
            _, found = await store.list(KeyFilter())
            assert found == total


class ChangeTests(KeyStoreTestCase):
    """Who is told of what, and when."""

    async def test_own_changes_are_told(self) -> None:
        """Each once, by the ids, in the reactor's thread and before the caller is told."""
        threads: set[int] = set()

        def on_change(changed: frozenset[str] | None) -> None:
            threads.add(threading.get_ident())
            self.told.append(changed)

        clock = Clock()
        store = self.store(on_change=on_change, clock=clock)
        store.startService()
        self.addCleanup(store.stopService)
        await store.create(draft("sk-one-one", id="a"))
        assert self.told == [frozenset("a")]
        await store.update("a", lambda record: record)
        await store.update("b", lambda record: record)
        await store.delete("a")
        await store.delete("a")
        assert self.told == [frozenset("a")] * 3
        await self.look(clock, store)
        assert self.told == [frozenset("a")] * 3
        assert threads == {threading.get_ident()}

    async def look(self, clock: Clock, store: SqliteKeyStore) -> None:
        """Have a store look for changes, and wait until it has."""
        clock.advance(POLL_INTERVAL_S)
        await store._file.read_in_order(lambda connection: None)

    async def test_changes_of_another_process_are_told(self) -> None:
        """With the next look, once; counting is no change of keys."""
        told: list[Any] = []
        clock = Clock()
        file = self.open()
        here, there = self.store(told, clock=clock, file=file), self.store()
        here.startService()
        self.addCleanup(here.stopService)
        await there.create(draft("sk-one-one", id="a"))
        assert told == []
        await self.look(clock, here)
        assert told == [None]
        await self.look(clock, here)
        await file.write(lambda connection: connection.execute("DELETE FROM quota_use"))
        await self.look(clock, here)
        assert told == [None]
        await there.delete("a")
        await self.look(clock, here)
        assert told == [None, None]
        key = await here.identify("sk-one-one")
        assert key is None

    async def test_changes_by_hand_are_told(self) -> None:
        """Of any program that can write the file."""
        clock = Clock()
        store = self.store(clock=clock)
        await store.create(draft("sk-one-one", id="a"))
        store.startService()
        self.addCleanup(store.stopService)
        await self.look(clock, store)
        self.told.clear()
        connection = sqlite3.connect(self.path)
        with connection:
            connection.execute("UPDATE keys SET status = 'disabled'")
        connection.close()
        await self.look(clock, store)
        assert self.told == [None]

    async def test_own_write_notices_the_others(self) -> None:
        """A change made between two looks is not covered by one of ours."""
        told: list[Any] = []
        here, there = self.store(told), self.store()
        await there.create(draft("sk-one-one", id="a"))
        await here.create(draft("sk-two-two", id="b"))
        await here.create(draft("sk-three-3", id="c"))
        assert told == [None, frozenset("c")]

    async def test_another_process(self) -> None:
        """A real one, over the real clock: a revoked key is off within a second."""
        store = self.store(clock=reactor)
        await store.create(draft("sk-one-one", id="a"))
        store.startService()
        self.addCleanup(store.stopService)
        told_at_s: list[float] = []

        def note() -> bool:
            if None in self.told:
                told_at_s.append(reactor.seconds())
            return bool(told_at_s)

        running = getProcessOutputAndValue(
            sys.executable,
            ["-c", DISABLE_KEY, str(self.path), SECRET.decode(), "a"],
            env=dict(os.environ),
        )
        ended_at_s: list[float] = []

        def end(result: tuple[bytes, bytes, int]) -> tuple[bytes, bytes, int]:
            ended_at_s.append(reactor.seconds())
            return result

        running.addCallback(end)
        await self.until(note, "told of the other process", timeout_s=30)
        output, errors, code = await running
        assert (code, errors) == (0, b"")
        assert b"frozenset({'a'})" in output
        assert told_at_s[0] - ended_at_s[0] < 3
        key = await store.identify("sk-one-one")
        assert key is not None
        assert key.record.status == "disabled"

    async def test_cancelled_change_is_told(self) -> None:
        """Whoever asked for it may have gone; the key has changed."""
        store = self.store()
        await store.create(draft("sk-one-one", id="a"))
        waiting = store.delete("a")
        failures: list[Any] = []
        waiting.addErrback(failures.append)
        waiting.cancel()
        failures[0].trap(CancelledError)
        await self.until(lambda: len(self.told) == 2)
        assert await store.get("a") is None

    async def test_callback_that_fails(self) -> None:
        """It is logged, and the change stands."""

        def on_change(changed: frozenset[str] | None) -> None:
            raise LookupError("of the callback")

        store = self.store(on_change=on_change)
        await store.create(draft("sk-one-one", id="a"))
        assert await ids(store) == ["a"]
        assert len(self.flushLoggedErrors(LookupError)) == 1

    async def test_look_up_is_not_older_than_what_was_told(self) -> None:
        """A key read before a change that was told meanwhile is read again."""
        file = self.open()
        held, go_on = threading.Event(), threading.Event()

        def slow_read(work: Any) -> Any:
            """Hold the first result back, after it was read."""

            def then_wait(connection: sqlite3.Connection) -> Any:
                result = work(connection)
                if not held.is_set():
                    held.set()
                    assert go_on.wait(20)
                return result

            return read(then_wait)

        store = self.store(file=file)
        await store.create(draft("sk-one-one", id="a"))
        read, file.read = file.read, slow_read  # type: ignore[method-assign]
        looking = store.identify("sk-one-one")
        await self.until(held.is_set)
        await store.update("a", lambda record: attrs.evolve(record, status="disabled"))
        go_on.set()
        key = await looking
        assert key is not None
        assert key.record.status == "disabled"

    async def test_cancelled_look_up(self) -> None:
        """Its result is nobody's."""
        store = self.store()
        looking: Deferred[Any] = store.identify("sk-one-one")
        failures: list[Any] = []
        looking.addErrback(failures.append)
        looking.cancel()
        failures[0].trap(CancelledError)

    async def test_looking_goes_on_after_failures(self) -> None:
        """An outage is logged once, and so is its end; what changed meanwhile is told then."""
        logged = Logged("SqliteKeyStore")
        self.addCleanup(logged.stop)
        clock = Clock()
        file = self.open()
        store = self.store(file=file, clock=clock)
        store.startService()
        self.addCleanup(store.stopService)
        await self.look(clock, store)

        def rename(there: str, here: str) -> Any:
            return file.write(
                lambda connection: connection.execute(f"ALTER TABLE {there} RENAME TO {here}")
            )

        await rename("key_changes", "gone")
        for _ in range(3):
            await self.look(clock, store)
        assert len(logged.lines) == 1
        self.assertRegex(logged.lines[0], "cannot be seen now: .*no such table")
        with self.assertRaises(StoreUnavailable):
            await store.delete("a")
        await rename("gone", "key_changes")
        other = self.store([])
        await other.create(draft("sk-one-one", id="a"))
        await self.look(clock, store)
        assert len(logged.lines) == 2
        assert self.told == [None]

    async def test_stopping(self) -> None:
        """Nothing is left in the clock, whether it was started or not."""
        clock = Clock()
        store = self.store(clock=clock)
        await store.stopService()
        store.startService()
        assert len(clock.getDelayedCalls()) <= 1
        await store.stopService()
        assert clock.getDelayedCalls() == []

    async def test_closed_file(self) -> None:
        """All of it is unavailable, and the looking stays quiet about it."""
        file = self.open()
        store = self.store(file=file)
        await file.stopService()
        for ask in (
            store.get("a"),
            store.identify("sk-one-one"),
            store.create(draft("sk-one-one")),
            store.update("a", lambda record: record),
            store.delete("a"),
            store.list(KeyFilter()),
            store.sync([], full=True),
        ):
            with self.assertRaises(StoreUnavailable):
                await ask

    async def test_repr(self) -> None:
        """It shows its state and no secret."""
        store = self.store()
        await store.create(draft("sk-one-one"))
        assert repr(store) == f"<SqliteKeyStore {self.path} changes=1 blind=False>"

    async def test_table_is_what_the_store_uses(self) -> None:
        """The two agree about the counter."""
        store = self.store()
        await store.sync([draft(f"sk-{number:04}") for number in range(7)], full=False)
        assert await store._file.read(key_table.changes) == 7
