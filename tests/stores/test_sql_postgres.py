"""Tests of `llmproxy.stores.sql_postgres`, with a real server."""

from __future__ import annotations

import pytest

from llmproxy.config.model_stores import Database
from llmproxy.config.setting import Duration, Secret
from llmproxy.stores.sql_postgres import PostgresDriver
from tests.services import DATABASE, PASSWORD, USER, PostgresServer
from tests.stores.sql_contract import DatabaseCase, ServerContract


class PostgresTests(ServerContract, DatabaseCase):
    """A real PostgreSQL."""

    driver = "postgres"
    server: PostgresServer

    @pytest.fixture(autouse=True)
    def use_server(self, postgres_server: PostgresServer) -> None:
        """Give the test the server that all share."""
        self.server = postgres_server

    def endless(self) -> str:
        """Sleep."""
        return "SELECT pg_sleep(5)"

    async def test_words_where_the_column_has_numbers(self) -> None:
        """They are found in no row."""
        database = self.table()
        await self.put(database, "a")
        query = "SELECT txt FROM things WHERE number = %s"
        assert list(await database.query(query, ("sk-x",))) == []
        assert list(await database.query(query, ("0",))) == [("a",)]

    async def test_a_connection_string(self) -> None:
        """Both of its forms are understood."""
        user, secret = USER, PASSWORD.replace("'", "\\'")
        quoted = "pass%27word%20%25s%2F%40%3A"
        for dsn in (
            f"host=127.0.0.1 port={self.server.port} user={user} password='{secret}' "
            f"dbname={DATABASE} options='-c search_path=public'",
            f"postgresql://{user}:{quoted}@127.0.0.1:{self.server.port}/{DATABASE}",
        ):
            database = self.made(driver="postgres", dsn=Secret(dsn))
            assert list(await database.query("SELECT current_database()", ())) == [(DATABASE,)]

    async def test_the_server_gives_up_as_well(self) -> None:
        """A query that nobody waits for any more does not go on there."""
        database = self.made(**{**self.settings(), "timeout": Duration(0.4)})
        assert list(await database.query("SHOW statement_timeout", ())) == [("400ms",)]

    async def test_options_of_ones_own(self) -> None:
        """What the connection string says of timeouts and names is left as it is."""
        settings = self.settings()
        dsn = f"postgresql://{USER}:pass%27word%20%25s%2F%40%3A@127.0.0.1:{settings['port']}"
        dsn += f"/{DATABASE}?application_name=mine&options=-c%20statement_timeout%3D77"
        database = self.made(driver="postgres", dsn=Secret(dsn))
        assert list(await database.query("SHOW application_name", ())) == [("mine",)]
        assert list(await database.query("SHOW statement_timeout", ())) == [("77ms",)]


@pytest.mark.parametrize("dsn", ["canary", "postgresql://u:canary@[::1", "host=x password='canary"])
def test_what_is_no_connection_string(dsn: str) -> None:
    """It is said before anything is asked, and not shown."""
    with pytest.raises(ValueError, match="is not a connection string") as raised:
        PostgresDriver(Database(name="primary", driver="postgres", dsn=Secret(dsn)))
    assert "canary" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
