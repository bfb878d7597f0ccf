"""Tests of `llmproxy.auth.database_source`, over SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from llmproxy.auth.database_source import DatabaseSource
from llmproxy.auth.digests import DefaultIds
from llmproxy.config.key_fields import KEY_FIELDS
from llmproxy.config.model_stores import Database
from llmproxy.config.setting import Duration, Secret
from llmproxy.entitlements import OwnLimits
from llmproxy.errors import MalformedRecord, StoreUnavailable
from llmproxy.interfaces import IDatabase, IKeySource
from llmproxy.key_records import KeyRecord
from llmproxy.stores.databases import SqlDatabase, make_database
from tests.auth import sources_contract
from tests.auth.fakes import DIGESTS, MemoryDatabase, outcome
from tests.services import DATABASE, PASSWORD, USER, MariaServer, PostgresServer
from tests.stores.reactor_case import reactor

COLUMNS = """id varchar(40), name varchar(200), user_id varchar(200), status smallint,
allowed_models text, allowed_ips text, denied_ips varchar(200), starts_at {moment},
ends double precision, total_quota bigint, used_quota decimal(20, 0),
quota_reset_period varchar(10), requests_per_second integer, requests_per_minute integer,
tokens_per_minute bigint, max_concurrent integer, burst_size integer, metadata {json}"""

FIELDS = tuple("ends as expires_at" if name == "expires_at" else name for name in KEY_FIELDS)
STATUSES = ("active", "disabled", "quota_exceeded", "expired")


def made(database: IDatabase, **options: Any) -> DatabaseSource:
    """Make a source."""
    settings: dict[str, Any] = {
        "table": "api_keys",
        "key_column": "key",
        "key_hash": "none",
        "fields": FIELDS,
        **options,
    }
    return DatabaseSource("sql", database, ids=DefaultIds("sql", DIGESTS), **settings)


def row(record: KeyRecord) -> list[Any]:
    """Give the values of `KEY_FIELDS`."""
    starts = record.starts_at_s
    own = record.own_limits or OwnLimits()
    return [
        record.id,
        record.name or None,
        record.user_id,
        STATUSES.index(record.status),
        json.dumps(record.allowed_models),
        ",".join(record.allowed_ips),
        ",".join(record.denied_ips) or None,
        starts and datetime.fromtimestamp(starts, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        record.expires_at_s,
        record.quota and record.quota.total,
        record.quota and record.quota.used_before,
        record.quota and record.quota.period,
        *attrs.astuple(own),
        json.dumps(record.metadata),
    ]


class SqliteContractTests(sources_contract.SourceContract):
    """The suite over a table of SQLite."""

    def setUp(self) -> None:
        """Make the table."""
        self.database = MemoryDatabase()
        columns = COLUMNS.format(moment="text", json="text")
        self.database.connection.execute(f'CREATE TABLE api_keys ("key" text, {columns})')

    async def put(self, key: str, record: KeyRecord) -> None:
        """Insert it."""
        values = [key, *row(record)]
        marks = ", ".join("?" * len(values))
        self.database.connection.execute(f"INSERT INTO api_keys VALUES ({marks})", values)

    def make_source(self) -> IKeySource:
        """Make it over the table."""
        return made(self.database)


class OnServer:
    """What the suite needs over a server."""

    database: SqlDatabase
    addCleanup: Callable[..., Any]

    def connect(self, driver: Any, port: int) -> None:
        """Connect."""
        self.database = make_database(
            Database(
                name="primary",
                driver=driver,
                host="127.0.0.1",
                port=port,
                user=USER,
                password=Secret(PASSWORD),
                database=DATABASE,
                pool_size=2,
                timeout=Duration(20.0),
            ),
            reactor,
        )
        self.database.startService()
        self.addCleanup(self.database.stopService)

    async def put(self, key: str, record: KeyRecord) -> None:
        """Insert it."""
        values = [key, *row(record)]
        marks = ", ".join(["%s"] * len(values))
        await self.database.query(f"INSERT INTO api_keys VALUES ({marks})", values)

    def make_source(self) -> IKeySource:
        """Make it over the table."""
        return made(self.database)


class PostgresContractTests(OnServer, sources_contract.SourceContract):
    """The suite over PostgreSQL, with a time and JSON as it has them."""

    server: PostgresServer

    @pytest.fixture(autouse=True)
    def use_server(self, postgres_server: PostgresServer) -> None:
        """Use the PostgreSQL that all tests share."""
        columns = COLUMNS.format(moment="timestamptz", json="jsonb")
        postgres_server.run(
            "SET client_min_messages = error",
            "DROP TABLE IF EXISTS api_keys",
            "SET timezone = 'UTC'",
            f'CREATE TABLE api_keys ("key" text, {columns})',
        )
        self.server = postgres_server

    def setUp(self) -> None:
        """Connect."""
        self.connect("postgres", self.server.port)

    async def put(self, key: str, record: KeyRecord) -> None:
        """Insert it; its times are UTC."""
        values = [key, *row(record)]
        starts = 1 + KEY_FIELDS.index("starts_at")
        values[starts] = values[starts] and f"{values[starts]}+00"
        marks = ", ".join(["%s"] * len(values))
        await self.database.query(f"INSERT INTO api_keys VALUES ({marks})", values)


class MariaContractTests(OnServer, sources_contract.SourceContract):
    """The suite over MariaDB, whose text is equal in any case and with spaces after it."""

    server: MariaServer

    @pytest.fixture(autouse=True)
    def use_server(self, maria_server: MariaServer) -> None:
        """Use the MariaDB that all tests share."""
        columns = COLUMNS.format(moment="datetime", json="json")
        maria_server.run(
            "DROP TABLE IF EXISTS api_keys",
            f"CREATE TABLE api_keys (`key` varchar(4200), {columns}) "
            "CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        )
        self.server = maria_server

    def setUp(self) -> None:
        """Connect."""
        self.connect("mysql", self.server.port)


class SpareTable:
    """A table that takes for equal what MySQL does, with only some columns."""

    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.database.connection.execute(
            'CREATE TABLE "keys" (secret text COLLATE nocase, owner text, active int)'
        )

    def put(self, *values: Any) -> None:
        """Insert a row."""
        self.database.connection.execute('INSERT INTO "keys" VALUES (?, ?, ?)', values)

    def find(self, credential: str, **options: Any) -> Any:
        """Look a key up."""
        options = {"key_column": "secret", "fields": ("owner as user_id",), **options}
        return outcome(made(self.database, table="keys", **options).find(credential))


def test_statement() -> None:
    """Identifiers are quoted, the key is bound; a schema may stand before the table."""
    table = SpareTable()
    table.put("sk-one", "ann", 1)
    assert table.find("sk-one").user_id == "ann"
    assert table.database.statements == [
        'SELECT "secret", "owner" FROM "keys" WHERE "secret" = ?',
    ]
    source = made(table.database, table="main.keys", key_column="secret", fields=())
    assert outcome(source.find("sk-one")).id.startswith("key-")
    assert table.database.statements[1] == 'SELECT "secret" FROM "main"."keys" WHERE "secret" = ?'


def test_what_the_database_takes_for_equal() -> None:
    """Another case is another key, and two rows that are equal to it do not confuse."""
    table = SpareTable()
    table.put("SK-ONE", "ann", 1)
    results: list[Any] = []
    source = made(table.database, table="keys", key_column="secret", fields=())
    source.find("sk-one").addCallback(results.append)
    assert results == [None]
    table.put("sk-one", "bob", 1)
    assert table.find("sk-one").user_id == "bob"
    assert table.find("SK-ONE").user_id == "ann"


def test_same_key_twice() -> None:
    """It cannot be said which row counts."""
    table = SpareTable()
    table.put("sk-one", "ann", 1)
    table.put("sk-one", "bob", 0)
    assert table.find("sk-one") is MalformedRecord


def test_hashed_keys() -> None:
    """The column holds digests, in hex digits of any case; the digest itself is no key."""
    table = SpareTable()
    digest = hashlib.sha256(b"sk-one").hexdigest()
    table.put(digest.upper(), "ann", 1)
    assert table.find("sk-one", key_hash="sha256").user_id == "ann"
    results: list[Any] = []
    source = made(table.database, table="keys", key_column="secret", key_hash="sha256", fields=())
    source.find(digest).addCallback(results.append)
    assert results == [None]


def test_column_of_bytes() -> None:
    """Binary columns hold keys, too; numbers are none."""
    table = SpareTable()
    table.database.connection.execute('CREATE TABLE "binary" ("key" blob)')
    table.database.connection.execute('INSERT INTO "binary" VALUES (?), (?)', (b"sk-one", 12345678))

    class AllRows(MemoryDatabase):
        """Takes everything for equal."""

        def query(self, statement: str, parameters: Any) -> Any:
            """Give all rows."""
            return super().query(statement.partition(" WHERE")[0], ())

    every = AllRows()
    every.connection = table.database.connection
    source = made(every, table="binary", fields=())
    assert outcome(source.find("sk-one")).id
    results: list[Any] = []
    source.find("12345678").addCallback(results.append)
    assert results == [None]


def test_database_that_is_down() -> None:
    """It cannot be said what is known."""
    assert outcome(made(MemoryDatabase()).find("sk-one")) is StoreUnavailable


@pytest.mark.parametrize(
    "options",
    [
        {"table": "keys; DROP TABLE keys"},
        {"table": "a.b.c"},
        {"key_column": 'key" OR 1=1 --'},
        {"fields": ('name" FROM x; --',)},
        {"fields": ("secret as password",)},
    ],
)
def test_names_that_may_not_stand_in_a_statement(options: dict[str, Any]) -> None:
    """Whatever the configuration's checks let through is refused here, too."""
    with pytest.raises(ValueError, match=r"is|has|names"):
        made(MemoryDatabase(), **options)
