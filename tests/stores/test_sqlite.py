"""Tests of `llmproxy.stores.sqlite`, over real files."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from sqlite3 import Connection
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults

from llmproxy.errors import StoreUnavailable
from llmproxy.stores.sqlite import SqliteFile
from tests.stores.sqlite_case import SqliteTestCase

TABLE = (("CREATE TABLE things (name TEXT UNIQUE)",),)


def add(name: str) -> Any:
    """Make the work that adds a thing."""

    def work(connection: Connection) -> str:
        connection.execute("INSERT INTO things VALUES (?)", (name,))
        return name

    return work


def names(connection: Connection) -> list[str]:
    """Give all things."""
    return [name for (name,) in connection.execute("SELECT name FROM things ORDER BY rowid")]


def state(deferred: Deferred[Any]) -> list[Any]:
    """Give what a Deferred ended with, once it has."""
    ends: list[Any] = []
    deferred.addBoth(ends.append)
    return ends


class SqliteFileTests(SqliteTestCase):
    """Transactions, order, errors and the end."""

    def open(self, **options: Any) -> SqliteFile:
        """Open the file with a small table."""
        return super().open(migrations=TABLE, **options)

    async def test_work_gives_its_result(self) -> None:
        """What is written is read by a thread of another kind; neither is the reactor's."""
        file = self.open()
        threads: set[int] = set()

        def where(connection: Connection) -> None:
            threads.add(threading.get_ident())

        assert await file.write(add("a")) == "a"
        assert await file.read(names) == ["a"]
        assert await file.read_in_order(names) == ["a"]
        await file.write(where)
        await file.read(where)
        assert len(threads) == 2
        assert threading.get_ident() not in threads

    async def test_failed_work_is_undone(self) -> None:
        """Its own error comes back as it is."""
        file = self.open()

        def work(connection: Connection) -> None:
            add("a")(connection)
            raise LookupError("no")

        with self.assertRaises(LookupError):
            await file.write(work)
        assert await file.read(names) == []
        await file.write(add("b"))
        assert await file.read(names) == ["b"]

    async def test_sqlite_errors_are_ours(self) -> None:
        """They name the file; the connection can be used afterwards."""
        file = self.open()
        await file.write(add("a"))
        for work in (add("a"), lambda connection: connection.execute("SELECT nonsense")):
            with self.assertRaisesRegex(StoreUnavailable, "llmproxy.db: "):
                await file.write(work)
        assert await file.read_in_order(names) == ["a"]

    async def test_readers_cannot_write(self) -> None:
        """Whoever writes must say so."""
        file = self.open()
        with self.assertRaisesRegex(StoreUnavailable, "readonly"):
            await file.read(add("a"))
        assert await file.read_in_order(names) == []

    async def test_writes_are_done_and_told_in_order(self) -> None:
        """Of those asked for at once as well, and reads in order see what was before them."""
        file = self.open()
        told: list[str] = []
        wanted = [str(number) for number in range(50)]
        seen: list[int] = []
        for name in wanted:
            file.write(add(name), told.append)
            file.read_in_order(names).addCallback(lambda found: seen.append(len(found)))
        await file.read_in_order(names)
        assert told == wanted
        assert seen == list(range(1, 51))

    async def test_reader_sees_one_snapshot(self) -> None:
        """A write in between does not show, and does not wait."""
        file = self.open()
        reading, written = threading.Event(), threading.Event()

        def work(connection: Connection) -> tuple[list[str], bool, list[str]]:
            before = names(connection)
            reading.set()
            return before, written.wait(20), names(connection)

        result = file.read(work)
        await self.until(reading.is_set)
        await file.write(add("a"))
        written.set()
        assert await result == ([], True, [])

    async def test_cancelled_write_is_committed_and_told(self) -> None:
        """Only the waiting ends."""
        file = self.open()
        told: list[str] = []
        waiting = file.write(add("a"), told.append)
        ends = state(waiting)
        waiting.cancel()
        ends[0].trap(CancelledError)
        await self.until(lambda: told == ["a"])
        assert await file.read(names) == ["a"]

    async def test_cancelled_read(self) -> None:
        """Its result is nobody's."""
        file = self.open()
        reading = file.read(names)
        ends = state(reading)
        reading.cancel()
        ends[0].trap(CancelledError)
        assert await file.read(names) == []

    async def test_stopping_waits_for_what_is_under_way(self) -> None:
        """What was asked for is in the file; what is asked for afterwards fails."""
        file = self.open()
        writes = [file.write(add(str(number))) for number in range(20)]
        self.assertIn("under_way=20", repr(file))
        ended = [state(write) for write in writes]
        stopped = file.stopService()
        with self.assertRaisesRegex(StoreUnavailable, "closed"):
            await file.read(names)
        await stopped
        assert ended == [[str(number)] for number in range(20)]
        assert await self.open().read(names) == [str(number) for number in range(20)]

    async def test_stopping_leaves_one_file(self) -> None:
        """The write-ahead log is emptied into it."""
        file = self.open()
        await file.write(add("a"))
        await gatherResults([file.read(names) for _ in range(10)])
        await file.stopService()
        assert [path.name for path in self.path.parent.iterdir()] == ["llmproxy.db"]
        self.assertIn("stopped", repr(file))

    async def test_stopping_without_work(self) -> None:
        """There is nothing to wait for."""
        await self.open().stopService()

    async def test_nobody_else_may_read(self) -> None:
        """Neither the file nor those beside it, whatever the umask."""
        before = os.umask(0)
        try:
            file = self.open()
            await file.write(add("a"))
            await file.read(names)
        finally:
            os.umask(before)
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode) for path in self.path.parent.iterdir()
        }
        assert modes == dict.fromkeys(("llmproxy.db", "llmproxy.db-wal", "llmproxy.db-shm"), 0o600)

    async def test_full_disk(self) -> None:
        """It is an outage that ends when there is room again; nothing is half written."""
        file = self.open()
        await file.write(add("a"))

        def limit(pages: int) -> Any:
            return lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}")

        def fill(connection: Connection) -> None:
            for number in range(100):
                add(f"{number}" + "x" * 4096)(connection)

        await file.write(limit(10))
        with self.assertRaisesRegex(StoreUnavailable, "full"):
            await file.write(fill)
        assert await file.read(names) == ["a"]
        await file.write(limit(10_000))
        await file.write(fill)
        assert len(await file.read(names)) == 101

    async def test_read_only_file(self) -> None:
        """Writing is an outage, reading goes on."""
        file = self.open()
        await file.write(add("a"))
        # What SQLite says of files on a read-only mount, also to root, who may write any file.
        await file.read_in_order(lambda connection: connection.execute("PRAGMA query_only = ON"))
        with self.assertRaisesRegex(StoreUnavailable, "readonly"):
            await file.write(add("b"))
        assert await file.read(names) == ["a"]

    async def test_another_process_holds_the_file(self) -> None:
        """A write waits for it only so long; reading goes on."""
        file = self.open(busy_timeout_s=0.1)
        await file.write(add("a"))
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with self.assertRaisesRegex(StoreUnavailable, "locked"):
            await file.write(add("b"))
        assert await file.read(names) == ["a"]
        other.execute("ROLLBACK")
        other.close()
        assert await file.write(add("b")) == "b"

    async def test_file_that_broke(self) -> None:
        """What SQLite finds broken is an outage, too."""
        file = self.open()
        await file.stopService()
        again = self.open()
        self.path.write_bytes(b"nonsense" * 2048)
        with self.assertRaises(StoreUnavailable):
            await again.read(names)
        self.path.unlink()

    async def test_file_that_is_gone(self) -> None:
        """Nothing is written where nobody finds it, no new file is made, and it may come back."""
        file = self.open()
        await file.write(add("a"))  # no reader is connected yet
        self.path.rename(self.path.with_name("elsewhere.db"))
        told: list[str] = []
        for ask in (
            lambda: file.write(add("b"), told.append),
            lambda: file.read_in_order(names),
            lambda: gatherResults([file.read(names) for _ in range(5)], consumeErrors=True),
        ):
            with self.assertRaises((StoreUnavailable, FirstError)):
                await ask()
        assert not self.path.exists()
        self.path.touch()
        with self.assertRaisesRegex(StoreUnavailable, "deleted or replaced"):
            await file.write(add("b"))
        self.path.with_name("elsewhere.db").rename(self.path)
        assert await file.write(add("c"), told.append) == "c"
        assert told == ["c"]

    async def test_at_once(self) -> None:
        """It is one transaction, before anything runs."""
        file = self.open()
        assert file.at_once(add("a")) == "a"
        with self.assertRaisesRegex(OSError, "UNIQUE"):
            file.at_once(lambda connection: (add("b")(connection), add("a")(connection)))
        assert file.at_once(names) == ["a"]

    async def test_repr(self) -> None:
        """It says where, and how much it has to do."""
        assert repr(self.open()) == f"<SqliteFile {self.path} under_way=0>"
