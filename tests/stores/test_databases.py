"""Tests of `llmproxy.stores.databases`: its threads, over a driver that hangs as it is told.

The drivers' own tests run it over real databases.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import gatherResults

from llmproxy.config.model_stores import Database
from llmproxy.config.setting import Duration
from llmproxy.errors import StoreUnavailable, ValueRefused
from llmproxy.stores.databases import SqlDatabase
from llmproxy.stores.sql_connection import ConnectionBroken, Dialect, SqlConnection
from tests.stores.reactor_case import reactor
from tests.stores.sql_contract import DatabaseCase


def test_what_is_not_asked_for_is_not_imported() -> None:
    """The drivers, and txredisapi, cost memory: whoever has no such storage goes without."""
    program = (
        "import sys, llmproxy.stores.databases, llmproxy.stores.redis\n"
        "from llmproxy.config.model_stores import Database\n"
        "settings = Database(name='x', driver='sqlite', path='x')\n"
        "llmproxy.stores.databases.make_database(settings, None)\n"
        "names = {'txredisapi', 'psycopg', 'pymysql', 'twisted.internet.reactor'}\n"
        "print(sorted(names & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.stdout == b"[]\n", done.stderr


class FakeConnection:
    """A connection that answers when it is let, or breaks."""

    is_usable = True

    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    def ask(self, statement: str, parameters: Sequence[Any]) -> list[tuple[str]]:
        """Wait until it may answer."""
        self._driver.asked.append(statement)
        assert self._driver.may_answer.wait(20)
        if self._driver.errors:
            raise self._driver.errors.pop(0)
        return [(statement,)]

    def write(self, statement: str, rows: Sequence[Any]) -> None:
        """Wait until it may write."""
        self.ask(f"{statement} x {len(rows)}", ())

    def cut(self) -> None:
        """Cannot be cut."""

    def close(self) -> None:
        """Note it."""
        self._driver.closed += 1


class FakeDriver:
    """Connects to nothing."""

    dialect: Dialect = "sqlite"
    marker = "?"
    quote = '"'

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.asked: list[str] = []
        self.errors: list[Exception] = []
        self.made = self.closed = 0

    def connect(self) -> SqlConnection:
        """Give a new connection."""
        self.made += 1
        return FakeConnection(self)


class PoolTests(DatabaseCase):
    """The threads, over a driver that hangs as it is told."""

    def pool(self, **settings: Any) -> SqlDatabase:
        """Start a pool over a new driver."""
        self.driver = FakeDriver()
        self.addCleanup(self.driver.may_answer.set)
        settings = {"name": "primary", "timeout": Duration(0.1), "pool_size": 2, **settings}
        return self.started(SqlDatabase(Database(**settings), self.driver, reactor))

    async def test_stuck_threads_take_no_more(self) -> None:
        """When all are stuck, further questions fail at once; when they are free, are asked."""
        database = self.pool()
        await gatherResults([self.refused(database, 3) for _ in range(5)])
        assert self.driver.asked == ["SELECT 1", "SELECT 1"]
        assert "2 of 2 connections busy, 2 stuck, 0 questions waiting" in repr(database)
        for _ in range(100):
            assert "last questions" in await self.refused(database, 1)
        assert not database.is_up
        self.driver.may_answer.set()
        await self.until(lambda: "0 of 2 connections busy, 0 stuck" in repr(database))
        assert list(await database.query("SELECT 2", ())) == [("SELECT 2",)]
        assert database.is_up

    async def test_the_queue_is_bounded(self) -> None:
        """So many may wait, and no more."""
        database = self.pool(timeout=Duration(5))
        asked = [database.query("SELECT 1", ()) for _ in range(202)]
        assert "too many" in await self.refused(database, 1)
        self.driver.may_answer.set()
        await gatherResults(asked)
        assert len(self.driver.asked) == 202

    async def test_broken_connections(self) -> None:
        """What only reads is asked once more, on a new connection; what writes is not."""
        database = self.pool(timeout=Duration(5))
        self.driver.may_answer.set()
        await database.query("SELECT 1", ())
        self.driver.errors = [ConnectionBroken("gone")]
        assert list(await database.query(" select 2", ())) == [(" select 2",)]
        assert (self.driver.made, self.driver.closed) == (2, 1)
        self.driver.errors = [ConnectionBroken("gone")]
        await self.assertFailure(database.query("INSERT", ()), StoreUnavailable)
        self.driver.errors = [ConnectionBroken("gone")] * 2
        await self.assertFailure(database.query("SELECT 3", ()), StoreUnavailable)
        assert self.driver.asked[-1] == "SELECT 3"
        assert self.driver.errors != []

    async def test_writes(self) -> None:
        """They are never run twice, and a value that is refused is no outage."""
        database = self.pool(timeout=Duration(5))
        self.driver.may_answer.set()
        await database.write("INSERT", [(1,), (2,)])
        assert self.driver.asked == ["INSERT x 2"]
        for error, wanted in (
            (ConnectionBroken("gone"), StoreUnavailable),
            (ValueRefused("too long"), ValueRefused),
        ):
            self.driver.errors = [error]
            before = len(self.driver.asked)
            await self.assertFailure(database.write("SELECT", [(1,)]), wanted)
            assert self.driver.asked[before:] == ["SELECT x 1"]
        assert [line for line in self.told() if "too long" in line] == []
        assert list(await database.query("SELECT 2", ())) == [("SELECT 2",)]

    async def test_errors_that_nobody_foresaw(self) -> None:
        """They are logged, fail the question, and leave the thread working."""
        database = self.pool(timeout=Duration(5))
        self.driver.may_answer.set()
        self.driver.errors = [RuntimeError("a fault")]
        await self.refused(database, 1)
        assert len(self.flushLoggedErrors(RuntimeError)) == 1
        assert list(await database.query("SELECT 2", ())) == [("SELECT 2",)]

    async def test_stopping_waits_for_what_was_begun(self) -> None:
        """What was begun is answered, what waits is refused, all connections are closed."""
        database = self.pool(timeout=Duration(5), pool_size=1)
        begun, waiting = database.query("SELECT 1", ()), database.query("SELECT 2", ())
        failed = self.assertFailure(waiting, StoreUnavailable)
        await self.until(lambda: bool(self.driver.asked))
        stopped = database.stopService()
        await failed
        assert not stopped.called
        self.driver.may_answer.set()
        assert list(await begun) == [("SELECT 1",)]
        await stopped
        await self.until(lambda: self.driver.closed == 1)

    async def test_stopping_leaves_stuck_threads_behind(self) -> None:
        """After some seconds; started again, others do their work."""
        database = self.pool(timeout=Duration(20))
        failed = self.assertFailure(database.query("SELECT 1", ()), StoreUnavailable)
        await self.until(lambda: bool(self.driver.asked))
        began_s = reactor.seconds()
        await database.stopService()
        assert 2.5 < reactor.seconds() - began_s < 10
        await failed
        database.startService()
        self.driver.may_answer.set()
        await self.until(lambda: self.driver.closed == 1)
        assert list(await database.query("SELECT 2", ())) == [("SELECT 2",)]
