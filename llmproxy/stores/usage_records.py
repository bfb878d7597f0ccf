"""Usage records and totals of sessions in the gateway's own SQLite file, for a number of days.

A record that is new and its session's totals are one transaction, so that totals are exact however
often a record comes. What is too old goes in small steps, between which other writes of the file
have their turn. It knows nothing of who adds records, and of the requests that ask for them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from llmproxy.errors import StoreUnavailable
from llmproxy.interfaces import IRecordStore
from llmproxy.stores.session_rows import SELECT, add_to_sessions, total_of
from llmproxy.stores.sqlite import SqliteFile
from llmproxy.stores.sqlite_text import storable
from llmproxy.values import RecordFilter, SessionFilter, SessionTotal
from llmproxy.wire.usage_record import UsageRecordJson, decode_record

SWEEP_INTERVAL_S: Final = 60.0
"""How often what is too old is looked for."""

SWEEP_STEP: Final = 500
"""Rows that are deleted in one transaction, at most."""

LONGEST_TEXT: Final = 1024
"""Characters of what can be asked for; longer ones are stored, and found by their beginning."""

_LATEST_MS: Final = 2**53
_ADD: Final = (
    "INSERT INTO usage_records (id, time_ms, request_id, key_id, user_id, model, backend, "
    "session_id, outcome, record) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
)


@implementer(IRecordStore)
class SqliteRecords(Service):
    """Records in a SQLite file.

    Bodies of requests are not kept: the file also holds keys, and stays small. While it runs, what
    is too old is deleted. Questions are answered one after the other, so that whoever asks all the
    time does not keep the file from looking up keys meanwhile.

    Args:
        file: The file.
        retention_days: How long records are kept, and sessions after they were last seen; 0: for
            ever.
        clock: Of the deletions.
        now: Seconds since the epoch; called in any thread.
    """

    _log = Logger()

    def __init__(
        self,
        file: SqliteFile,
        *,
        retention_days: int,
        clock: IReactorTime,
        now: Callable[[], float],
    ) -> None:
        self._file = file
        self._retention_ms = retention_days * 86_400_000
        self._now = now
        self._one_question = DeferredLock()
        self._is_failing = False
        self._loop = LoopingCall(self.sweep)
        self._loop.clock = clock

    def __repr__(self) -> str:
        days = self._retention_ms // 86_400_000
        return f"<SqliteRecords {self._file.path} days={days}>"

    def startService(self) -> None:
        """Begin to delete what is too old."""
        super().startService()
        if self._retention_ms:
            self._loop.start(SWEEP_INTERVAL_S)

    def stopService(self) -> None:
        """Delete no more."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def add(self, records: Sequence[UsageRecordJson]) -> Deferred[int]:
        """Store records; see `IRecordStore`."""
        rows = [(record, _time_ms(record.time)) for record in records]

        def work(connection: sqlite3.Connection) -> int:
            oldest_ms = self._oldest_ms()
            added = [
                (record, time_ms)
                for record, time_ms in rows
                if time_ms >= oldest_ms
                and connection.execute(_ADD, _row(record, time_ms)).rowcount > 0
            ]
            add_to_sessions(connection, added)
            return len(added)

        return self._file.write(work)

    def records(self, wanted: RecordFilter) -> Deferred[tuple[Sequence[UsageRecordJson], str]]:
        """Give a page of the records; see `IRecordStore`."""
        page = _Page("time_ms", "id", wanted.since_s, wanted.until_s)
        for column in ("request_id", "key_id", "user_id", "model", "backend"):
            page.want(column, getattr(wanted, column)[:LONGEST_TEXT])
        # Said as the partial indexes have it, or SQLite would not know that they can be used.
        page.want("session_id <> '' AND session_id", wanted.session_id[:LONGEST_TEXT])
        failed = "outcome <> 'ok' AND " if wanted.outcome != "ok" else ""
        page.want(f"{failed}outcome", wanted.outcome)
        statement, values = page.statement(
            "SELECT time_ms, id, record FROM usage_records", wanted.cursor, wanted.limit
        )

        def work(
            connection: sqlite3.Connection,
        ) -> tuple[Sequence[UsageRecordJson], str]:
            rows = connection.execute(statement, values).fetchall()
            shown = rows[: wanted.limit]
            cursor = f"{shown[-1][0]}.{shown[-1][1]}" if len(rows) > wanted.limit else ""
            return [decode_record(row[2]) for row in shown], cursor

        return Deferred.fromCoroutine(self._in_turn(work))

    def sessions(self, wanted: SessionFilter) -> Deferred[tuple[Sequence[SessionTotal], str]]:
        """Give a page of the sessions; see `IRecordStore`."""
        page = _Page("last_seen_ms", "number", wanted.since_s, wanted.until_s)
        for column in ("session_id", "parent_session_id", "key_id", "user_id"):
            page.want(column, getattr(wanted, column))
        statement, values = page.statement(SELECT, wanted.cursor, wanted.limit)

        def work(connection: sqlite3.Connection) -> tuple[Sequence[SessionTotal], str]:
            rows = connection.execute(statement, values).fetchall()
            shown = rows[: wanted.limit]
            cursor = f"{shown[-1][-1]}.{shown[-1][0]}" if len(rows) > wanted.limit else ""
            return [total_of(row) for row in shown], cursor

        return Deferred.fromCoroutine(self._in_turn(work))

    async def _in_turn(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        async with self._one_question:
            return await self._file.read(work)

    def sweep(self) -> Deferred[None]:
        """Delete what is too old; the Deferred never fails."""
        return Deferred.fromCoroutine(self._sweep())

    async def _sweep(self) -> None:
        oldest_ms = self._oldest_ms()
        try:
            for table, column in (("usage_records", "time_ms"), ("usage_sessions", "last_seen_ms")):
                step = partial(_delete, table=table, column=column, oldest_ms=oldest_ms)
                while self.running and await self._file.write(step) == SWEEP_STEP:
                    pass
        except StoreUnavailable as error:
            if self.running and not self._is_failing:
                self._is_failing = True
                self._log.warn("old usage records cannot be deleted: {error}", error=error)
        except Exception:  # noqa: BLE001 - the loop goes on
            self._log.failure("old usage records cannot be deleted")
        else:
            self._is_failing = False

    def _oldest_ms(self) -> int:
        """Say from when on records are kept."""
        return round(self._now() * 1000) - self._retention_ms if self._retention_ms else 0


class _Page:
    """The conditions of a page, the newest first.

    Args:
        time: The column of its order, in milliseconds.
        tie: The column that tells those of one time apart.
        since_s: The first moment; None: any.
        until_s: The moment after the last; None: any.
    """

    def __init__(self, time: str, tie: str, since_s: float | None, until_s: float | None) -> None:
        self._order = (time, tie)
        self._conditions: list[str] = []
        self._values: list[Any] = []
        for condition, moment_s in (("{} >= ?", since_s), ("{} < ?", until_s)):
            if moment_s is not None:
                self._conditions.append(condition.format(time))
                self._values.append(min(round(moment_s * 1000), _LATEST_MS))

    def want(self, column: str, text: str) -> None:
        """Want only those with a text in a column, unless it is empty."""
        if text:
            self._conditions.append(f"{column} = ?")
            self._values.append(storable(text))

    def statement(self, select: str, cursor: str, limit: int) -> tuple[str, Sequence[Any]]:
        """Give the statement that asks for one row more than the page has."""
        time, tie = self._order
        conditions, values = list(self._conditions), list(self._values)
        if cursor:
            moment_ms, _, last = cursor.partition(".")
            conditions.append(f"({time}, {tie}) < (?, ?)")
            values += [int(moment_ms), int(last) if tie == "number" else storable(last)]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"{select}{where} ORDER BY {time} DESC, {tie} DESC LIMIT ?", [*values, limit + 1]


def _row(record: UsageRecordJson, time_ms: int) -> tuple[Any, ...]:
    texts = (
        record.request_id,
        record.key_id,
        record.user_id,
        record.model,
        record.backend,
        record.session_id,
        record.outcome,
    )
    kept = msgspec.structs.replace(record, request_body=msgspec.UNSET)
    return (
        record.id,
        time_ms,
        *(text[:LONGEST_TEXT] for text in texts),
        msgspec.json.encode(kept),
    )


def _time_ms(text: str) -> int:
    try:
        return max(round(datetime.fromisoformat(text).timestamp() * 1000), 0)
    except (ValueError, OverflowError):
        return 0  # of a version that wrote none: it is as old as can be


def _delete(connection: sqlite3.Connection, *, table: str, column: str, oldest_ms: int) -> int:
    """Delete some rows, the oldest first; say how many."""
    return connection.execute(
        f"DELETE FROM {table} WHERE number IN (SELECT number FROM {table} WHERE {column} < ? "
        f"ORDER BY {column} LIMIT {SWEEP_STEP})",
        (oldest_ms,),
    ).rowcount
