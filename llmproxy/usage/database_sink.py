"""The reporter of type ``database``: usage records in a table of an SQL database.

The table is made when it is missing, and gets the columns that it lacks when an older version made
it. Records are told apart by their ids, so what is delivered twice is stored once. It knows nothing
of drivers, of the spool, and of when batches come.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from llmproxy.deliveries import Batch
from llmproxy.errors import DeliveryFailed, EventsRefused, StoreUnavailable, ValueRefused
from llmproxy.interfaces import IDatabase, IUsageSink
from llmproxy.usage.batches import records_of
from llmproxy.usage.record_table import COLUMNS, OURS, RecordTable, in_ascii
from llmproxy.wire.usage_record import decode_record

LARGEST_WRITE_BYTES: Final = 4 * 1024 * 1024
"""In one transaction, by the records' JSON: with requests' bodies, a batch may be far larger."""

Row = tuple[Any, ...]


@implementer(IUsageSink)
class DatabaseSink:
    """Stores records in a table.

    A batch is one transaction, or a few when it is large. The table is looked at before the first
    delivery, and before the one that follows a failure.

    Args:
        name: The reporter's.
        database: Where the table is.
        table: Its name, with or without a schema.

    Raises:
        ValueError: ``table`` is not the name of a table.
    """

    kinds = frozenset(("usage",))
    _log = Logger()

    def __init__(self, name: str, database: IDatabase, table: str) -> None:
        self._name = name
        self._database = database
        self._table = RecordTable(table, database.dialect, database.marker, database.quote)
        self._insert = self._table.insert()
        self._is_ready = False

    def __repr__(self) -> str:
        return f"<DatabaseSink {self._name} table={self._table.table} ready={self._is_ready}>"

    def deliver(self, batch: Batch) -> Deferred[None]:
        """Store a batch; see `IUsageSink`."""
        return Deferred.fromCoroutine(self._deliver(batch))

    async def _deliver(self, batch: Batch) -> None:
        rows = [self._table.row(record) for record in records_of(batch, f"reporter {self._name}")]
        try:
            if not self._is_ready:
                await self._prepare()
                self._is_ready = True
            refused: dict[str, str] = {}
            for part in _parts(rows):
                await self._store(part, refused)
        except StoreUnavailable as error:
            self._is_ready = False
            raise DeliveryFailed(str(error)) from error
        if events := tuple(_events_of(batch, refused)):
            why = next(iter(refused.values()))
            raise EventsRefused(f"the table {self._table.table} does not take them: {why}", events)

    async def _store(self, rows: Sequence[Row], refused: dict[str, str]) -> None:
        """Store rows, each alone where they are not taken together; note why some are not."""
        try:
            await self._database.write(self._insert, rows)
        except ValueRefused:
            # One value must not keep all others out. What is stored already is not stored again.
            for row in rows:
                if why := await self._store_alone(row):
                    refused[row[0]] = why

    async def _store_alone(self, row: Row) -> str:
        """Store a row; say why that cannot be, if it cannot."""
        why = ""
        for attempt in (row, in_ascii(row)):
            try:
                await self._database.write(self._insert, (attempt,))
            except ValueRefused as error:
                why = str(error)
            else:
                return ""
        self._log.error(
            "reporter {name}: the table {table} does not take record {id}: {error}",
            name=self._name,
            table=self._table.table,
            id=row[0],
            error=why,
        )
        return why

    async def _prepare(self) -> None:
        """Make the table, or bring it on."""
        found = await self._look()
        if not found:
            await self._database.query(self._table.create(), ())
            self._tell("made the table {table}")
            await self._index()
            return
        if missing := [column for column in OURS if column not in found]:
            raise DeliveryFailed(
                f"the table {self._table.table} is not one of usage records: it has no column "
                f"{', '.join(missing)}; want the name of another table, which is made"
            )
        if not found["id"]:
            raise DeliveryFailed(
                f"the column id of the table {self._table.table} is not unique; want a primary key "
                "or a unique index on it, so that no record is stored twice"
            )
        lacking = [column for column in COLUMNS if column not in found]
        for column in lacking:
            await self._database.query(self._table.add_column(column), ())
        if lacking:
            self._tell("added to the table {table}: {columns}", columns=", ".join(lacking))

    async def _look(self) -> dict[str, bool]:
        """Give the names of the table's columns, and whether each is in a unique key."""
        rows = await self._database.query(*self._table.look())
        return {str(name): bool(unique) for name, unique in rows}

    async def _index(self) -> None:
        for statement in self._table.create_indexes():
            try:
                await self._database.query(statement, ())
            except StoreUnavailable as error:
                # Records can be stored without.
                self._log.warn(
                    "reporter {name}: an index is missing: {error}; make it with: {statement}",
                    name=self._name,
                    error=str(error),
                    statement=statement,
                )

    def _tell(self, what: str, **more: str) -> None:
        self._log.info("reporter {name}: " + what, name=self._name, table=self._table.table, **more)


def _events_of(batch: Batch, ids: Collection[str]) -> Iterator[bytes]:
    """Give the events of the records of these ids."""
    for event in batch.events:
        with suppress(ValueError):  # it is no record, and was told of
            if decode_record(event).id in ids:
                yield event


def _parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Divide rows into transactions."""
    part: list[Row] = []
    size_bytes = 0
    for row in rows:
        row_bytes = sum(len(value) for value in row if isinstance(value, str))
        if part and size_bytes + row_bytes > LARGEST_WRITE_BYTES:
            yield part
            part, size_bytes = [], 0
        part.append(row)
        size_bytes += row_bytes
    if part:
        yield part
