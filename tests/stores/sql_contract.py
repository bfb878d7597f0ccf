"""What every SQL driver does in the hands of `llmproxy.stores.databases`: a suite to mix in.

It is run over real files and servers; what is a driver's own is in the tests of that driver.
"""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import provider
from zope.interface.verify import verifyObject

from llmproxy.config.model_stores import Database
from llmproxy.config.setting import Duration, Secret
from llmproxy.errors import StoreUnavailable, ValueRefused
from llmproxy.interfaces import IDatabase
from llmproxy.stores.databases import SqlDatabase, make_database
from tests.services import DATABASE, PASSWORD, USER
from tests.stores.reactor_case import ReactorTestCase, reactor
from tests.stores.silent_server import SilentServer

ODD_TEXTS = [
    "plain",
    "' OR '1'='1",
    '"; DROP TABLE api_keys; --',
    "100% %s %(x)s {0}",
    "back\\slash\\' \\",
    "line\r\nbreak\ttab",
    "schlüssel \N{SNOWMAN} \N{GRINNING FACE}",
    "?",
    "x" * 1_000_000,
]


class DatabaseCase(ReactorTestCase):
    """Makes databases that are stopped in the end."""

    def setUp(self) -> None:
        """Listen to what is logged."""
        self.logged: list[str] = []

        @provider(ILogObserver)
        def note(event: LogEvent) -> None:
            self.logged.append(formatEvent(event))

        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)

    def told(self) -> list[str]:
        """Give what was logged of databases."""
        return [line for line in self.logged if line.startswith("database ")]

    def started(self, database: SqlDatabase) -> SqlDatabase:
        """Start a database, and stop it in the end."""
        database.startService()
        self.addCleanup(lambda: database.stopService() if database.running else None)
        return database

    def made(self, **settings: Any) -> SqlDatabase:
        """Make and start a database."""
        settings.setdefault("timeout", Duration(5.0))
        return self.started(make_database(Database(name="primary", **settings), reactor))

    def refused(self, database: SqlDatabase, within_s: float) -> Deferred[str]:
        """Ask, and give the message of the failure, which must come in time."""
        return Deferred.fromCoroutine(self._refused(database, within_s))

    async def _refused(self, database: SqlDatabase, within_s: float) -> str:
        began_s = reactor.seconds()
        asked: Any = database.query("SELECT 1", ())
        failed = await self.assertFailure(asked, StoreUnavailable)
        assert reactor.seconds() - began_s < within_s
        assert PASSWORD not in str(failed)
        assert not failed.__cause__
        return str(failed)


class Contract:
    """What every driver does; mixed into a test case that says how to make one."""

    made: Any
    refused: Any
    assertFailure: Any
    until: Any
    sleep: Any
    logged: list[str]

    def settings(self) -> dict[str, Any]:
        """Give the settings of a database, made ready."""
        raise NotImplementedError

    def execute(self, *statements: str) -> None:
        """Run SQL past what is tested."""
        raise NotImplementedError

    def table(self, *texts: str) -> SqlDatabase:
        """Make a database with a table of these texts, and of their numbers."""
        database: SqlDatabase = self.made(**self.settings())
        kind = "LONGTEXT" if database.quote == "`" else "TEXT"
        self.execute(
            "DROP TABLE IF EXISTS things", f"CREATE TABLE things (txt {kind}, number INTEGER)"
        )
        return database

    async def put(self, database: SqlDatabase, *texts: str) -> None:
        """Store texts, each with its number."""
        marker = database.marker
        for number, text in enumerate(texts):
            statement = f"INSERT INTO things VALUES ({marker}, {marker})"
            assert list(await database.query(statement, (text, number))) == []

    async def test_the_contract(self) -> None:
        """It is what the interface says, and rows are sequences of values."""
        database = self.table()
        assert verifyObject(IDatabase, database)
        await self.put(database, "a", "b")
        rows = await database.query("SELECT txt, number FROM things ORDER BY number", ())
        assert [tuple(row) for row in rows] == [("a", 0), ("b", 1)]
        assert list(await database.query("SELECT number FROM things WHERE 1 = 0", ())) == []
        assert PASSWORD not in repr(database)

    async def test_any_text_is_a_parameter(self) -> None:
        """It is found as it was stored, and is never part of the statement."""
        database = self.table()
        await self.put(database, *ODD_TEXTS)
        for number, text in enumerate(ODD_TEXTS):
            rows = await database.query(
                f"SELECT number, txt FROM things WHERE txt = {database.marker}", (text,)
            )
            assert [tuple(row) for row in rows] == [(number, text)]

    async def test_what_cannot_be_stored_is_not_found(self) -> None:
        """A NUL, or half a character, is equal to nothing; and nothing is out of order."""
        database = self.table()
        await self.put(database, "a")
        for text in ("a\0", "\0", "a\0b", "\udcff"):
            rows = await database.query(
                f"SELECT number FROM things WHERE txt = {database.marker}", (text,)
            )
            assert list(rows) == []
        assert not [line for line in self.logged if line.startswith("database ")]

    async def test_writes(self) -> None:
        """All rows of them, whatever texts are in them, and no rows at all."""
        database = self.table()
        marker = database.marker
        statement = f"INSERT INTO things VALUES ({marker}, {marker})"
        rows = [(text, number) for number, text in enumerate(ODD_TEXTS)]
        many = [("x", number) for number in range(100, 3100)]
        await database.write(statement, rows)
        await database.write(statement, many)
        await database.write(statement, [])
        found = await database.query("SELECT txt, number FROM things ORDER BY number", ())
        assert [tuple(row) for row in found] == rows + many

    async def test_writes_that_fail(self) -> None:
        """Nothing of them is stored, no parameter is shown, and the connection is in order."""
        database = self.table()
        marker = database.marker
        self.execute("CREATE UNIQUE INDEX things_number ON things (number)")
        statement = f"INSERT INTO things VALUES ({marker}, {marker})"
        await database.write(statement, [("a", 1)])
        rows = [("canary", 2), ("canary", 1), ("canary", 3)]
        failed = await self.assertFailure(database.write(statement, rows), StoreUnavailable)
        assert "canary" not in str(failed)
        await self.assertFailure(database.write("INSERT INTO nowhere", [()]), StoreUnavailable)
        found = await database.query("SELECT txt, number FROM things", ())
        assert [tuple(row) for row in found] == [("a", 1)]
        assert "canary" not in "".join(self.logged)

    async def test_values_that_cannot_be_stored(self) -> None:
        """They are told apart from an outage, and nothing is stored beside them."""
        database = self.table()
        marker = database.marker
        statement = f"INSERT INTO things VALUES ({marker}, {marker})"
        for unstorable in (("\udcff", 2), ("canary", 10**30)):
            rows = [("a", 1), unstorable]
            failed = await self.assertFailure(database.write(statement, rows), ValueRefused)
            assert "canary" not in str(failed)
        assert list(await database.query("SELECT txt FROM things", ())) == []
        assert not [line for line in self.logged if line.startswith("database ")]
        await database.write(statement, [("a", 1)])

    async def test_identifiers_are_quoted(self) -> None:
        """A reserved word can be a name; a name that is not there is an error, not a text."""
        database = self.table()
        quote = database.quote
        self.execute("DROP TABLE IF EXISTS odd", f"CREATE TABLE odd ({quote}key{quote} INTEGER)")
        await database.query(f"SELECT {quote}key{quote} FROM {quote}odd{quote}", ())
        await self.assertFailure(
            database.query(f"SELECT {quote}nope{quote} FROM {quote}odd{quote}", ()),
            StoreUnavailable,
        )

    async def test_wrong_statements(self) -> None:
        """They fail, quote no parameter, and leave the connection in order."""
        database = self.table()
        for statement in ("SELECT txt FROM nowhere", "SELEC", "SELECT nope FROM things"):
            statement += f" WHERE txt = {database.marker}"
            failed = await self.assertFailure(
                database.query(statement, ("canary",)), StoreUnavailable
            )
            assert "canary" not in str(failed)
        assert [tuple(row) for row in await database.query("SELECT 1", ())] == [(1,)]
        assert "canary" not in "".join(self.logged)

    async def test_many_at_once(self) -> None:
        """All are answered, each with its own answer, by no more threads than configured."""
        database = self.table()
        await self.put(database, "a")
        before = threading.active_count()
        marker = database.marker
        asked = [
            database.query(f"SELECT number + {marker} FROM things", (number,))
            for number in range(100)
        ]
        assert threading.active_count() - before <= 4
        answers = await gatherResults(asked)
        assert [int(rows[0][0]) for rows in answers] == list(range(100))

    async def test_cancelling(self) -> None:
        """The answer is dropped; others are not touched."""
        database = self.table()
        asked = [database.query("SELECT 1", ()) for _ in range(20)]
        for each in (asked[0], asked[19]):
            failed = self.assertFailure(each, CancelledError)
            each.cancel()
            await failed
        for each in asked[1:19]:
            assert [tuple(row) for row in await each] == [(1,)]

    async def test_a_query_that_takes_too_long(self) -> None:
        """It fails in time, is ended, and its connection or another one is used again."""
        database = self.made(**{**self.settings(), "timeout": Duration(0.4), "pool_size": 1})
        await database.query("SELECT 1", ())
        for _ in range(2):
            began_s = reactor.seconds()
            await self.assertFailure(database.query(self.endless(), ()), StoreUnavailable)
            assert 0.3 < reactor.seconds() - began_s < 3
            await self.until(lambda: "0 of 1" in repr(database))
        assert [tuple(row) for row in await database.query("SELECT 1", ())] == [(1,)]
        assert len([line for line in self.logged if "cannot be asked" in line]) == 1

    def endless(self) -> str:
        """Give a query that takes seconds."""
        return "SELECT SLEEP(5)"

    async def test_starting_again(self) -> None:
        """Nothing is asked before and after; what was stopped can be started."""
        database = self.table()
        await database.query("SELECT 1", ())
        await database.stopService()
        await self.refused(database, 1)
        database.startService()
        assert [tuple(row) for row in await database.query("SELECT 1", ())] == [(1,)]


class ServerContract(Contract):
    """What every server does, besides."""

    server: Any
    aside: Any
    told: Any
    driver = ""
    addCleanup: Any

    def settings(self) -> dict[str, Any]:
        """Give the login to the server."""
        return {
            "driver": self.driver,
            "port": self.server.port,
            "user": USER,
            "password": Secret(PASSWORD),
            "database": DATABASE,
            "pool_size": 4,
        }

    def execute(self, *statements: str) -> None:
        """Run SQL past what is tested."""
        self.server.run(*statements)

    async def test_stopped_and_started(self) -> None:
        """While it is away questions fail fast; all are answered when it is back."""
        database = self.table()
        await gatherResults([database.query("SELECT 1", ()) for _ in range(20)])
        await self.aside(self.server.restart)
        asked = await gatherResults([database.query("SELECT 1", ()) for _ in range(20)])
        assert [tuple(row) for rows in asked for row in rows] == [(1,)] * 20
        await self.aside(lambda: self.server.stop(kill=True))
        try:
            for _ in range(10):
                await self.refused(database, 1)
        finally:
            await self.aside(self.server.start)
        assert [tuple(row) for row in await database.query("SELECT 1", ())] == [(1,)]
        assert len(self.told()) == 2
        assert self.told()[1] == "database primary: is back"

    async def test_a_server_that_hangs(self) -> None:
        """Questions fail in time; when all connections are stuck, at once; and it recovers."""
        settings = {**self.settings(), "timeout": Duration(1.0), "pool_size": 2}
        database = self.made(**settings)
        await gatherResults([database.query("SELECT 1", ()) for _ in range(10)])
        self.server.pause()
        try:
            for _ in range(3):
                await gatherResults([self.refused(database, 1.9) for _ in range(6)])
            assert threading.active_count() < 20
        finally:
            self.server.resume()
        end_s = reactor.seconds() + 5
        while True:
            try:
                rows = await database.query("SELECT 1", ())
                break
            except StoreUnavailable:
                assert reactor.seconds() < end_s
                await self.sleep(0.05)
        assert [tuple(row) for row in rows] == [(1,)]

    async def test_what_accepts_and_says_nothing(self) -> None:
        """It fails in time, and stopping does not wait for it for long."""
        with SilentServer() as server:
            settings = {**self.settings(), "port": server.port, "timeout": Duration(1.0)}
            database = self.made(**{**settings, "pool_size": 2})
            await gatherResults([self.refused(database, 1.9) for _ in range(6)])
            began_s = reactor.seconds()
            await database.stopService()
            assert reactor.seconds() - began_s < 6

    async def test_wrong_passwords(self) -> None:
        """They are refused, and not shown."""
        database = self.made(**{**self.settings(), "password": Secret("canary")})
        assert "refuses the user or the password" in await self.refused(database, 2)
        assert "canary" not in "".join(self.logged) + repr(database)
