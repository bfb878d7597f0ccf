"""Quota use and usage totals, in the gateway's own SQLite file, for all processes that share it.

Each call is one transaction, so counts of several processes add up exactly. Once a day old rows are
deleted: totals of days more than 400 days ago, and the use of quotas of keys that nobody asked
about in 400 days. The use of a quota that is never whole again stays: deleting it would make it so.
It knows nothing of limits or of periods but that later ones replace earlier ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import gmtime, strftime
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from llmproxy.interfaces import ICounterStore
from llmproxy.stores.memory_counters import GROUP_NAMES
from llmproxy.stores.sqlite import SqliteFile
from llmproxy.stores.sqlite_text import storable
from llmproxy.values import UsageFilter, UsageTotal

KEPT_DAYS: Final = 400
"""How long rows are kept: a year, and the month in which it is looked back at."""

MOST_TOKENS: Final = 10**15
"""A larger count is a backend's nonsense and counts as this: sums stay integers of 64 bits."""

MOST_USED: Final = 2**62

_SUMS: Final = tuple(field.name for field in attrs.fields(UsageTotal))
_ADD_USAGE: Final = (
    f"INSERT INTO usage_totals (day, key_id, user_id, model, {', '.join(_SUMS)}) "
    f"VALUES (?, ?, ?, ?, {', '.join('?' for _ in _SUMS)}) "
    "ON CONFLICT (day, key_id, user_id, model) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)
)
_GET_QUOTA: Final = "SELECT period_start_s, used, touched_on FROM quota_use WHERE key_id = ?"
_SET_QUOTA: Final = (
    "INSERT INTO quota_use (key_id, period_start_s, used, touched_on) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (key_id) DO UPDATE SET period_start_s = excluded.period_start_s, "
    "used = excluded.used, touched_on = excluded.touched_on"
)


@implementer(ICounterStore)
class SqliteCounters:
    """Counters in a SQLite file.

    Cancelling a change ends only the waiting; cancelling `usage` leaves its result unread.

    Args:
        file: The file.
        now: Seconds since the epoch; called in any thread.
    """

    def __init__(self, file: SqliteFile, now: Callable[[], float]) -> None:
        self._file = file
        self._now = now
        self._swept_on = ""  # the writing thread's

    def __repr__(self) -> str:
        return f"<SqliteCounters {self._file.path}>"

    def begin_quota_use(
        self, starts: Mapping[str, tuple[int, int]]
    ) -> Deferred[Mapping[str, tuple[int, int]]]:
        """Begin to count where there is no counter yet; see `ICounterStore`.

        Where there are all of them, this writes nothing and so waits for no other write, such as a
        long synchronisation of keys. Cancelling it may leave some not begun.
        """
        return Deferred.fromCoroutine(self._begin(dict(starts)))

    async def _begin(self, starts: Mapping[str, tuple[int, int]]) -> Mapping[str, tuple[int, int]]:
        standing = await self._file.read(partial(self._standing, key_ids=tuple(starts)))
        missing = {key_id: start for key_id, start in starts.items() if key_id not in standing}
        return {**standing, **await self._count(missing, _begun)} if missing else standing

    def _standing(
        self, connection: sqlite3.Connection, key_ids: Sequence[str]
    ) -> dict[str, tuple[int, int]]:
        """Give the counters that there are, and that were touched today."""
        today = self._day(0)
        standing = {}
        for key_id in key_ids:
            row = connection.execute(_GET_QUOTA, (storable(key_id),)).fetchone()
            if row is not None and row[2] == today:
                standing[key_id] = (row[0], row[1])
        return standing

    def add_quota_use(
        self, uses: Mapping[str, tuple[int, int]]
    ) -> Deferred[Mapping[str, tuple[int, int]]]:
        """Add what was used of quotas; see `ICounterStore`."""
        return self._count(uses, _added)

    def set_quota_use(self, key_id: str, period_start_s: int, tokens: int) -> Deferred[None]:
        """Set what was used of a quota; see `ICounterStore`."""
        return self._count({key_id: (period_start_s, tokens)}, _set).addCallback(lambda _: None)

    def add_usage(self, totals: Mapping[tuple[str, str, str, str], UsageTotal]) -> Deferred[None]:
        """Add to the daily totals; see `ICounterStore`."""
        rows = [
            (*map(storable, place), *(_bounded(count) for count in attrs.astuple(total)))
            for place, total in totals.items()
        ]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(_ADD_USAGE, rows)
            self._sweep(connection)

        return self._file.write(work)

    def usage(
        self, wanted: UsageFilter
    ) -> Deferred[Sequence[tuple[Mapping[str, str], UsageTotal]]]:
        """Give totals; see `ICounterStore`."""
        names = list(dict.fromkeys(GROUP_NAMES[group] for group in wanted.group_by))
        conditions, values = ["1"], []
        for condition, value in (
            ("day >= ?", wanted.since),
            ("day <= ?", wanted.until),
            ("key_id = ?", wanted.key_id),
            ("user_id = ?", wanted.user_id),
            ("model = ?", wanted.model),
        ):
            if value:
                conditions.append(condition)
                values.append(storable(value))
        columns = names + [f"coalesce(sum({name}), 0)" for name in _SUMS]
        statement = (
            f"SELECT {', '.join(columns)} FROM usage_totals WHERE {' AND '.join(conditions)}"
        )
        if names:
            statement += f" GROUP BY {', '.join(names)} ORDER BY {', '.join(names)}"

        def work(
            connection: sqlite3.Connection,
        ) -> Sequence[tuple[Mapping[str, str], UsageTotal]]:
            return [
                (dict(zip(names, row, strict=False)), UsageTotal(*row[len(names) :]))
                for row in connection.execute(statement, values)
            ]

        return self._file.read(work)

    def _count(
        self, given: Mapping[str, tuple[int, int]], rule: _Rule
    ) -> Deferred[Mapping[str, tuple[int, int]]]:
        """Apply a rule to each counter, in one transaction, and give what stands then."""
        given = dict(given)

        def work(connection: sqlite3.Connection) -> Mapping[str, tuple[int, int]]:
            today = self._day(0)
            standing: dict[str, tuple[int, int]] = {}
            for key_id, (period_start_s, tokens) in given.items():
                name = storable(key_id)
                row: Any = connection.execute(_GET_QUOTA, (name,)).fetchone()
                before = None if row is None else (row[0], row[1])
                after = rule(before, (period_start_s, tokens))
                after = standing[key_id] = (after[0], min(max(after[1], 0), MOST_USED))
                if after != before or row[2] != today:
                    connection.execute(_SET_QUOTA, (name, *after, today))
            self._sweep(connection)
            return standing

        return self._file.write(work)

    def _sweep(self, connection: sqlite3.Connection) -> None:
        """Delete what is too old, with the first change of each day."""
        today = self._day(0)
        if today == self._swept_on:
            return
        oldest = self._day(KEPT_DAYS)
        connection.execute("DELETE FROM usage_totals WHERE day < ?", (oldest,))
        connection.execute(
            "DELETE FROM quota_use WHERE period_start_s > 0 AND touched_on < ?", (oldest,)
        )
        self._swept_on = today

    def _day(self, days_ago: int) -> str:
        return strftime("%Y-%m-%d", gmtime(self._now() - days_ago * 86400))


_Counter = tuple[int, int]
_Rule = Callable[[_Counter | None, _Counter], _Counter]
"""What stands, of what stood (None: nothing) and what was given; each a period and its tokens."""


def _begun(before: _Counter | None, given: _Counter) -> _Counter:
    return given if before is None else before


def _added(before: _Counter | None, given: _Counter) -> _Counter:
    if before is None or given[0] > before[0]:
        return given
    if given[0] < before[0]:
        return before
    return before[0], before[1] + given[1]


def _set(before: _Counter | None, given: _Counter) -> _Counter:
    del before
    return given


def _bounded(count: int) -> int:
    return min(max(count, 0), MOST_TOKENS)
