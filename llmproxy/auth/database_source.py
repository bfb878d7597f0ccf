"""Keys in a table of an SQL database.

Only validated identifiers stand in the statement, quoted, and only bound parameters vary. It knows
nothing of drivers and connections.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any, Literal

from twisted.internet.defer import Deferred
from zope.interface import implementer

from llmproxy.auth.digests import DefaultIds
from llmproxy.auth.records import record_from_fields
from llmproxy.config.key_fields import is_identifier, parse_field, parse_table
from llmproxy.errors import MalformedRecord
from llmproxy.interfaces import IDatabase, IKeySource
from llmproxy.key_records import KeyRecord


@implementer(IKeySource)
class DatabaseSource:
    """Looks keys up in a table.

    What the database takes for equal is compared again: MySQL ignores case and trailing spaces.

    Args:
        name: As the configuration calls it.
        database: Where the table is.
        table: Its name, with or without a schema.
        key_column: The column with the key.
        key_hash: Whether there is the key itself, or its SHA-256 in hex digits.
        fields: Further columns, each ``COLUMN`` or ``COLUMN as FIELD``; with none, each key that is
            in the table is good.
        ids: Makes ids for rows without one.

    Raises:
        ValueError: One of the names may not stand in a statement.
    """

    def __init__(
        self,
        name: str,
        database: IDatabase,
        *,
        table: str,
        key_column: str,
        key_hash: Literal["none", "sha256"],
        fields: Sequence[str],
        ids: DefaultIds,
    ) -> None:
        self.name = name
        self._database = database
        self._ids = ids
        self._hashed = key_hash == "sha256"
        if not is_identifier(key_column):
            raise ValueError(f"key_column {key_column!r} is not the name of a column")
        columns = [parse_field(field) for field in fields]
        self._fields = [field for _, field in columns]

        def quoted(identifier: str) -> str:
            return f"{database.quote}{identifier}{database.quote}"

        selected = ", ".join(map(quoted, (key_column, *(column for column, _ in columns))))
        source = ".".join(map(quoted, parse_table(table)))
        self._statement = (
            f"SELECT {selected} FROM {source} WHERE {quoted(key_column)} = {database.marker}"
        )

    def __repr__(self) -> str:
        return f"<DatabaseSource {self.name}>"

    def find(self, credential: str) -> Deferred[KeyRecord | None]:
        """Look a key up; see `IKeySource`."""
        return Deferred.fromCoroutine(self._find(credential))

    async def _find(self, credential: str) -> KeyRecord | None:
        if "\x00" in credential:
            return None  # PostgreSQL's text cannot hold it, and takes the question for an error
        key = credential
        if self._hashed:
            key = hashlib.sha256(credential.encode("utf-8", "surrogatepass")).hexdigest()
        wanted = key.encode("utf-8", "surrogatepass")
        rows = [
            row
            for row in await self._database.query(self._statement, (key,))
            if hmac.compare_digest(self._key_of(row), wanted)
        ]
        if not rows:
            return None
        if len(rows) > 1:
            raise MalformedRecord("the table has a key more than once")
        default_id = self._ids.maker(credential)
        if not self._fields:
            return KeyRecord(id=default_id())
        return record_from_fields(
            dict(zip(self._fields, rows[0][1:], strict=True)), default_id, credential
        )

    def _key_of(self, row: Sequence[Any]) -> bytes:
        """Give the key that a row is for; of a column that holds no text, none."""
        value = row[0]
        if isinstance(value, bytes | bytearray | memoryview):
            found = bytes(value)
        elif isinstance(value, str):
            found = value.encode("utf-8", "surrogatepass")
        else:
            return b""
        return found.lower() if self._hashed else found
