"""Tests of `llmproxy.stores.sql_sqlite`, with real files."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llmproxy.errors import StoreUnavailable
from tests.stores.sql_contract import Contract, DatabaseCase


class SqliteTests(Contract, DatabaseCase):
    """A SQLite file."""

    def settings(self) -> dict[str, Any]:
        """Make an empty file."""
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "keys 100%?#.db"
        sqlite3.connect(self.path).close()
        return {"driver": "sqlite", "path": str(self.path), "pool_size": 4}

    def execute(self, *statements: str) -> None:
        """Run SQL past what is tested."""
        connection = sqlite3.connect(self.path)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    def endless(self) -> str:
        """Count to a large number."""
        return (
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 1000000000) "
            "SELECT max(x) FROM n"
        )

    async def test_files_that_cannot_be_asked(self) -> None:
        """One that is not there is not made; one that is no database is not believed."""
        database = self.made(driver="sqlite", path="/nowhere/none.db")
        await self.refused(database, 1)
        database = self.table()
        self.path.unlink()
        await self.refused(database, 1)
        assert not self.path.exists()
        self.path.write_bytes(b"this is no database at all" * 100)
        failed = await self.assertFailure(
            database.query("SELECT * FROM things", ()), StoreUnavailable
        )
        assert "not a database" in str(failed)

    async def test_a_file_put_in_its_place(self) -> None:
        """It is the new one that is asked."""
        database = self.table()
        await self.put(database, "old")
        other = self.path.with_name("other")
        self.path, path = other, self.path
        self.execute("CREATE TABLE things (txt TEXT)", "INSERT INTO things VALUES ('new')")
        other.replace(path)
        assert list(await database.query("SELECT txt FROM things", ())) == [("new",)]
