"""Tests of `llmproxy.usage.database_sink`, over real databases."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from llmproxy.config.setting import Duration
from llmproxy.deliveries import Batch
from llmproxy.errors import DeliveryFailed, EventsRefused
from llmproxy.interfaces import IUsageSink
from llmproxy.stores.databases import SqlDatabase
from llmproxy.usage.database_sink import LARGEST_WRITE_BYTES, DatabaseSink
from llmproxy.usage.record_table import COLUMNS
from tests.services import DATABASE, MariaServer, PostgresServer
from tests.stores.sql_contract import DatabaseCase, ServerContract
from tests.usage.samples import batch, record

TABLE = "usage_records"


class SinkContract:
    """What the sink does with every database."""

    settings: Any
    made: Any
    execute: Any
    assertFailure: Any
    until: Any
    aside: Any
    logged: list[str]
    schema = ""

    def sink(self, table: str = TABLE, **settings: Any) -> DatabaseSink:
        """Make a sink, with a database and connections of its own."""
        if not hasattr(self, "_settings"):
            self._settings = self.settings()
        self.database: SqlDatabase = self.made(**{**self._settings, **settings})
        return DatabaseSink("sql", self.database, table)

    def fresh(self, table: str = TABLE) -> DatabaseSink:
        """Make a sink whose table is not there."""
        sink = self.sink(table)
        self.execute(f"DROP TABLE IF EXISTS {table}")
        return sink

    async def stored(self, columns: str = "id", table: str = TABLE) -> list[tuple[Any, ...]]:
        """Give what is in the table, ordered by id."""
        rows = await self.database.query(f"SELECT {columns} FROM {table} ORDER BY id", ())
        return [tuple(row) for row in rows]

    async def failure(self, delivered: Deferred[None]) -> str:
        """Give what a delivery fails with."""
        return str(await self.assertFailure(delivered, DeliveryFailed))

    def lines(self, text: str) -> list[str]:
        """Give what was logged with this in it."""
        return [line for line in self.logged if text in line]

    async def test_every_column(self) -> None:
        """The table is made with the first batch, and a record stands in it, whole."""
        sink = self.fresh()
        assert verifyObject(IUsageSink, sink)
        body = b'{"model": "\xc3\xa9", "n": "100% %s \\\\ \' \\u0000"}'
        await sink.deliver(batch([record(1, request_body=body)]))
        quote = self.database.quote
        columns = ", ".join(f"{quote}{column}{quote}" for column in COLUMNS)
        ((*values,),) = await self.stored(columns)
        row = dict(zip(COLUMNS, values, strict=True))
        assert json.loads(row.pop("tool_calls")) == {"read": 2}
        assert json.loads(row.pop("tried")) == [{"backend": "gpu-2", "error": "connect_failed"}]
        assert "2026-09-21" in str(row.pop("time"))
        assert row == {
            "id": "rec-000001",
            "request_id": "req-1",
            "key_id": "key_1",
            "key_name": "ada's key",
            "user_id": "ada",
            "model": "qwen-72b",
            "upstream_model": "qwen",
            "backend": "gpu-1",
            "endpoint": "/v1/chat/completions",
            "stream": 1,
            "prompt_tokens": 100,
            "completion_tokens": 10,
            "total_tokens": 110,
            "cached_tokens": 60,
            "reasoning_tokens": 4,
            "usage_source": "exact",
            "outcome": "ok",
            "status": 200,
            "error_code": "",
            "finish_reason": "tool_calls",
            "session_id": "ses_1",
            "parent_session_id": "",
            "first_byte_ms": 12.5,
            "duration_ms": 800.0,
            "queue_ms": 0.25,
            "attempts": 2,
            "bytes_in": 1000,
            "bytes_out": 2000,
            "client_ip": "10.0.0.7",
            "user_agent": "opencode/1",
            "request_body": body.decode(),
        }
        assert self.lines("made the table usage_records")
        for index in ("usage_records_time", "usage_records_key", "usage_records_session"):
            assert await self.has_index(index), index

    async def has_index(self, name: str) -> bool:
        """Say whether there is an index of that name."""
        raise NotImplementedError

    async def test_the_same_again(self) -> None:
        """Batches that come again, and others with the same records, store nothing twice."""
        sink = self.fresh()
        first = [record(number) for number in range(10)]
        second = [record(number) for number in range(5, 15)]
        for one in (first, first, second, [*second, *second]):
            await sink.deliver(batch(one))
        assert len(await self.stored()) == 15
        # An id is what it is, case and all.
        await sink.deliver(batch([record(id="REC-000001")]))
        assert len(await self.stored()) == 16

    async def test_a_large_batch(self) -> None:
        """Far more rows and bytes than one statement could take."""
        sink = self.fresh()
        await sink.deliver(batch([record(number) for number in range(3000)]))
        assert len(await self.stored()) == 3000
        body = b"x" * 900_000
        rows = LARGEST_WRITE_BYTES // len(body) * 2
        await sink.deliver(
            batch([record(5000 + number, request_body=body) for number in range(rows)])
        )
        lengths = await self.stored("LENGTH(request_body)", f"{TABLE} WHERE id > 'rec-004'")
        assert lengths == [(900_000,)] * rows
        assert len(await self.stored()) == 3000 + rows

    async def test_odd_values(self) -> None:
        """What no column can hold is stored as far as it goes, and keeps nothing else out."""
        sink = self.fresh()
        odd = {
            "model": "m\0" + "\N{GRINNING FACE}" * 5000,
            "user_agent": "\udcff\ud800",
            "finish_reason": "'); DROP TABLE usage_records; --",
            "bytes_in": 10**40,
            "status": -5,
            "duration_ms": 1e300,
            "tool_calls": {"f\0": 10**40 % 2**70, "\udcff": 1},
            "request_body": b"\x00\xff" * 600_000,
        }
        await sink.deliver(batch([record(1), record(2, **odd), record(3)]))
        rows = await self.stored("id, model, bytes_in, status")
        assert rows[1] == (
            "rec-000002",
            "m\N{REPLACEMENT CHARACTER}" + "\N{GRINNING FACE}" * 254,
            2**63 - 1,
            0,
        )
        assert [row[0] for row in rows] == ["rec-000001", "rec-000002", "rec-000003"]
        broken = Batch("b", "usage", (b"no json", *batch([record(4)]).events))
        await sink.deliver(broken)
        assert len(await self.stored()) == 4

    async def test_an_older_table(self) -> None:
        """It gets the columns that it lacks, and keeps its rows."""
        sink = self.fresh()
        self.execute(
            f"CREATE TABLE {TABLE} (id VARCHAR(99) PRIMARY KEY, {self.time_column}, "
            "request_id VARCHAR(99), outcome VARCHAR(99), theirs VARCHAR(9))",
            f"INSERT INTO {TABLE} VALUES ('old', '2026-01-01 00:00:00', 'r', 'ok', 'kept')",
        )
        await sink.deliver(batch([record(1)]))
        assert await self.stored("id, theirs, total_tokens, session_id") == [
            ("old", "kept", 0, ""),
            ("rec-000001", None, 110, "ses_1"),
        ]
        (line,) = self.lines("added to the table")
        assert "session_id" in line
        assert "outcome" not in line
        # The next daemon finds nothing to do.
        await self.sink().deliver(batch([record(2)]))
        assert len(self.lines("added to the table")) == 1

    time_column = "time TIMESTAMP"

    async def test_a_table_of_something_else(self) -> None:
        """It is left as it is, and what is wrong with it is told; put right, all goes on."""
        sink = self.fresh()
        self.execute(f"CREATE TABLE {TABLE} (id INTEGER PRIMARY KEY, outcome INTEGER)")
        words = await self.failure(sink.deliver(batch([record(1)])))
        assert "not one of usage records: it has no column time, request_id" in words
        assert await self.stored("*") == []
        self.execute(f"DROP TABLE {TABLE}")
        await sink.deliver(batch([record(1)]))
        assert len(await self.stored()) == 1

    async def test_ids_that_are_not_unique(self) -> None:
        """In such a table records would be counted twice."""
        sink = self.fresh()
        columns = f"id VARCHAR(99), {self.time_column}, request_id VARCHAR(99)"
        self.execute(f"CREATE TABLE {TABLE} ({columns}, outcome VARCHAR(99))")
        words = await self.failure(sink.deliver(batch([record(1)])))
        assert "is not unique" in words
        self.execute(f"CREATE UNIQUE INDEX mine ON {TABLE} (id)")
        for _ in range(2):
            await sink.deliver(batch([record(1)]))
        assert len(await self.stored()) == 1

    async def test_a_table_that_goes(self) -> None:
        """It is made again by the delivery after the one that failed."""
        sink = self.fresh()
        await sink.deliver(batch([record(1)]))
        self.execute(f"DROP TABLE {TABLE}")
        await self.failure(sink.deliver(batch([record(2)])))
        await sink.deliver(batch([record(2)]))
        assert await self.stored() == [("rec-000002",)]

    async def test_two_daemons(self) -> None:
        """Both make the table, and deliver overlapping batches: each record is there once."""
        self.fresh()
        sinks = [self.sink(), self.sink()]

        async def daemon(sink: DatabaseSink, first: int) -> None:
            for start in range(first, first + 400, 50):
                records = [record(number) for number in range(start, start + 100)]
                for _ in range(50):
                    try:
                        await sink.deliver(batch(records))
                        break
                    except DeliveryFailed:
                        continue
                else:
                    raise AssertionError("never delivered")

        await gatherResults(
            [
                Deferred.fromCoroutine(daemon(sinks[0], 0)),
                Deferred.fromCoroutine(daemon(sinks[1], 225)),
            ]
        )
        assert await self.stored() == [(f"rec-{number:06d}",) for number in range(675)]

    async def test_a_schema(self) -> None:
        """It may stand before the table's name."""
        name = f"{self.schema}.other_records"
        sink = self.fresh(name)
        for _ in range(2):
            await sink.deliver(batch([record(1)]))
        assert await self.stored(table=name) == [("rec-000001",)]

    async def test_outages(self) -> None:
        """They fail the delivery, which may be cancelled as well, and the next one goes through."""
        sink = self.fresh()
        await self.database.stopService()
        await self.failure(sink.deliver(batch([record(1)])))
        assert "ready=False" in repr(sink)
        self.database.startService()
        await sink.deliver(batch([record(1)]))
        delivered = sink.deliver(batch([record(2)]))
        delivered.addErrback(lambda _: None)
        delivered.cancel()
        await sink.deliver(batch([record(2)]))
        assert len(await self.stored()) == 2


class ServerSinkContract(SinkContract):
    """What the sink does with every server, besides."""

    server: Any

    async def test_killed_in_the_middle(self) -> None:
        """Whatever was under way, each record is there once when all were delivered."""
        sink = self.fresh()
        await sink.deliver(batch([record(0)]))
        left = [[record(number) for number in range(n, n + 200)] for n in range(0, 2000, 200)]
        failures = 0

        async def daemon() -> None:
            nonlocal failures
            while left:
                try:
                    await sink.deliver(batch(left[0]))
                    left.pop(0)
                except DeliveryFailed:
                    failures += 1
                    await self.sleep(0.05)  # type: ignore[attr-defined]

        running = Deferred.fromCoroutine(daemon())
        for remaining in (8, 4):
            await self.until(lambda most=remaining: len(left) <= most, timeout_s=30)
            await self.aside(lambda: self.server.restart(kill=True))
        await running
        assert failures
        assert await self.stored() == [(f"rec-{number:06d}",) for number in range(2000)]


class SqliteSinkTests(SinkContract, DatabaseCase):
    """A SQLite file."""

    schema = "main"

    def settings(self) -> dict[str, Any]:
        """Make an empty file."""
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "usage.db"
        sqlite3.connect(self.path).close()
        return {"driver": "sqlite", "path": str(self.path), "timeout": Duration(20.0)}

    def execute(self, *statements: str) -> None:
        """Run SQL past what is tested."""
        connection = sqlite3.connect(self.path)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    async def has_index(self, name: str) -> bool:
        """Ask its schema."""
        return bool(
            await self.database.query("SELECT 1 FROM sqlite_schema WHERE name = ?", (name,))
        )


class _OnServer(ServerSinkContract):
    driver = ""

    def settings(self) -> dict[str, Any]:
        """Give the login to the server."""
        return {**ServerContract.settings(self), "timeout": Duration(20.0)}  # type: ignore[arg-type]

    def execute(self, *statements: str) -> None:
        """Run SQL past what is tested."""
        self.server.run(*statements)


class PostgresSinkTests(_OnServer, DatabaseCase):
    """A real PostgreSQL."""

    driver = "postgres"
    schema = "public"

    @pytest.fixture(autouse=True)
    def use_server(self, postgres_server: PostgresServer) -> None:
        """Give the test the server that all share."""
        self.server = postgres_server

    async def has_index(self, name: str) -> bool:
        """Ask its catalogue."""
        return bool(await self.database.query("SELECT 1 FROM pg_class WHERE relname = %s", (name,)))

    async def test_a_database_that_knows_few_characters(self) -> None:
        """The others are escaped; all of the batch is stored."""
        self.sink()
        self.execute(
            "DROP DATABASE IF EXISTS old",
            "CREATE DATABASE old ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
        )
        sink = self.sink(database="old")
        await sink.deliver(batch([record(1, model="é"), record(2, model="\N{SNOWMAN}"), record(3)]))
        assert await self.stored("id, model") == [
            ("rec-000001", "é"),
            ("rec-000002", "\\u2603"),
            ("rec-000003", "qwen-72b"),
        ]

    async def test_a_column_made_narrower(self) -> None:
        """A record that it cannot hold is given back, and the others are stored."""
        sink = self.fresh()
        await sink.deliver(batch([record(0)]))
        self.execute(f"ALTER TABLE {TABLE} ALTER COLUMN model TYPE VARCHAR(10)")
        mixed = batch([record(1), record(2, model="m" * 11), record(3)])
        refused = await self.assertFailure(sink.deliver(mixed), EventsRefused)
        assert refused.events == mixed.events[1:2]
        assert str(refused).startswith("the table usage_records does not take them: a value is")
        assert len(await self.stored()) == 3
        assert self.lines("does not take record rec-000002: a value is refused")


class MariaSinkTests(_OnServer, DatabaseCase):
    """A real MariaDB."""

    driver = "mysql"
    schema = DATABASE

    @pytest.fixture(autouse=True)
    def use_server(self, maria_server: MariaServer) -> None:
        """Give the test the server that all share."""
        self.server = maria_server

    async def has_index(self, name: str) -> bool:
        """Ask its schema."""
        question = "SELECT 1 FROM information_schema.statistics WHERE index_name = %s"
        return bool(await self.database.query(question, (name,)))

    async def test_a_table_that_knows_few_characters(self) -> None:
        """The others are escaped; all of the batch is stored."""
        sink = self.fresh()
        self.execute(
            f"CREATE TABLE {TABLE} (id VARCHAR(99) PRIMARY KEY, {self.time_column}, "
            "request_id VARCHAR(99), outcome VARCHAR(99), model VARCHAR(99)) CHARACTER SET latin1"
        )
        await sink.deliver(batch([record(1, model="\N{SNOWMAN}"), record(2)]))
        assert await self.stored("id, model") == [
            ("rec-000001", "\\u2603"),
            ("rec-000002", "qwen-72b"),
        ]
