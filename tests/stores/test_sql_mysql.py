"""Tests of `llmproxy.stores.sql_mysql`, with a real server."""

from __future__ import annotations

import pytest

from llmproxy.config.model_stores import Database
from llmproxy.config.setting import Secret
from llmproxy.stores.sql_mysql import MysqlDriver
from tests.services import DATABASE, USER, MariaServer
from tests.stores.sql_contract import DatabaseCase, ServerContract


class MariaTests(ServerContract, DatabaseCase):
    """A real MariaDB."""

    driver = "mysql"
    server: MariaServer

    @pytest.fixture(autouse=True)
    def use_server(self, maria_server: MariaServer) -> None:
        """Give the test the server that all share."""
        self.server = maria_server

    async def test_a_url(self) -> None:
        """User and password may be escaped in it."""
        quoted = "pass%27word%20%25s%2F%40%3A"
        for scheme in ("mysql", "mariadb"):
            dsn = f"{scheme}://{USER}:{quoted}@127.0.0.1:{self.server.port}/{DATABASE}"
            database = self.made(driver="mysql", dsn=Secret(dsn))
            assert list(await database.query("SELECT DATABASE()", ())) == [(DATABASE,)]

    async def test_characters_that_a_column_cannot_hold(self) -> None:
        """They are found in no row."""
        database = self.table()
        self.execute(
            "DROP TABLE IF EXISTS old", "CREATE TABLE old (txt VARCHAR(99) CHARACTER SET latin1)"
        )
        for text in ("\N{SNOWMAN}", "\N{GRINNING FACE}"):
            assert list(await database.query("SELECT 1 FROM old WHERE txt = %s", (text,))) == []
        assert not self.told()

    async def test_the_directory_of_its_socket(self) -> None:
        """A host that is a path is a socket, or where it is."""
        socket = self.server.folder / "socket"
        database = self.made(**{**self.settings(), "host": str(socket)})
        assert list(await database.query("SELECT 1", ())) == [(1,)]
        link = self.server.folder / "mysqld.sock"
        link.symlink_to(socket)
        self.addCleanup(link.unlink)
        database = self.made(**{**self.settings(), "host": str(self.server.folder)})
        assert list(await database.query("SELECT 1", ())) == [(1,)]


@pytest.mark.parametrize(
    "dsn",
    [
        "canary",
        "postgresql://u:canary@h/d",
        "mysql://u:canary@[::1",
        "mysql://u:canary@h:x/d",
        "mysql://u:canary@h/d?init_command=canary",
        "mysql://u@h/d#canary",
    ],
)
def test_what_is_no_url_for_mysql(dsn: str) -> None:
    """It is said before anything is asked, and not shown."""
    with pytest.raises(ValueError, match=r"is not a URL for MySQL|has options") as raised:
        MysqlDriver(Database(name="primary", driver="mysql", dsn=Secret(dsn)))
    assert "canary" not in str(raised.value)
    assert raised.value.__cause__ is None
