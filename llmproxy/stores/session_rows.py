"""Totals of sessions as rows of the gateway's own SQLite file; each call is within a transaction.

It knows nothing of records that are stored, nor of who adds them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs
import msgspec

from llmproxy.values import SessionTotal
from llmproxy.wire.tool_calls import add_calls
from llmproxy.wire.usage_record import UsageRecordJson

MOST_MODELS: Final = 20
"""Of a session; further ones are not named."""

MOST_TOKENS: Final = 10**12
"""Of one record; a larger count is a backend's nonsense and counts as this."""

MOST_IN_ALL: Final = 2**53
"""Of a session; larger numbers are not exact in every reader of JSON."""

_SUMS: Final = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
)
_COLUMNS: Final = (
    "session_id",
    "key_id",
    "parent_session_id",
    "user_id",
    "models",
    "requests",
    "errors",
    *_SUMS,
    "tool_calls",
    "first_seen_ms",
    "last_seen_ms",
)
SELECT: Final = f"SELECT number, {', '.join(_COLUMNS)} FROM usage_sessions"
"""Asks for rows that `total_of` reads."""

_PUT: Final = (
    f"INSERT INTO usage_sessions ({', '.join(_COLUMNS)}) "
    f"VALUES ({', '.join('?' for _ in _COLUMNS)}) ON CONFLICT (session_id, key_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:])
)


@attrs.define
class _Growing:
    """A total that grows; see `SessionTotal`."""

    session_id: str
    key_id: str
    parent_session_id: str = ""
    user_id: str = ""
    models: list[str] = attrs.field(factory=list)
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    tool_calls: dict[str, int] = attrs.field(factory=dict)
    first_seen_ms: int = 0
    last_seen_ms: int = 0


def add_to_sessions(
    connection: sqlite3.Connection, records: Iterable[tuple[UsageRecordJson, int]]
) -> None:
    """Add records to the totals of their sessions.

    Those without a session have none, and a session without a key is a stranger's.

    Args:
        connection: In a write transaction.
        records: Each with the time when it began, in milliseconds since the epoch.
    """
    totals: dict[tuple[str, str], _Growing] = {}
    for record, time_ms in records:
        if record.session_id and record.key_id:
            place = (record.session_id, record.key_id)
            total = totals.get(place)
            if total is None:
                total = totals[place] = _stored(connection, *place)
            _add(total, record, time_ms)
    connection.executemany(_PUT, map(_row, totals.values()))


def total_of(row: Sequence[Any]) -> SessionTotal:
    """Read a row of `SELECT`."""
    fields = dict(zip(_COLUMNS, row[1:], strict=True))
    first_ms, last_ms = fields.pop("first_seen_ms"), fields.pop("last_seen_ms")
    return SessionTotal(
        **fields
        | {
            "models": tuple(sorted(msgspec.json.decode(fields["models"]))),
            "tool_calls": msgspec.json.decode(fields["tool_calls"]),
            "first_seen_s": first_ms / 1000,
            "last_seen_s": last_ms / 1000,
        }
    )


def _stored(connection: sqlite3.Connection, session_id: str, key_id: str) -> _Growing:
    row: Any = connection.execute(
        f"{SELECT} WHERE session_id = ? AND key_id = ?", (session_id, key_id)
    ).fetchone()
    if row is None:
        return _Growing(session_id, key_id)
    fields = dict(zip(_COLUMNS, row[1:], strict=True))
    for name in ("models", "tool_calls"):
        fields[name] = msgspec.json.decode(fields[name])
    return _Growing(**fields)


def _add(total: _Growing, record: UsageRecordJson, time_ms: int) -> None:
    ended_ms = time_ms + round(min(max(record.duration_ms, 0), MOST_TOKENS))
    total.first_seen_ms = min(total.first_seen_ms, time_ms) if total.requests else time_ms
    total.last_seen_ms = max(total.last_seen_ms, ended_ms)
    total.parent_session_id = record.parent_session_id or total.parent_session_id
    total.user_id = record.user_id or total.user_id
    # A model that was not found is whatever the client wrote.
    known = record.model if record.upstream_model else ""
    if known and known not in total.models and len(total.models) < MOST_MODELS:
        total.models.append(known)
    total.requests += 1
    total.errors += record.outcome != "ok"
    for name in _SUMS:
        more = min(max(getattr(record, name), 0), MOST_TOKENS)
        setattr(total, name, min(getattr(total, name) + more, MOST_IN_ALL))
    add_calls(total.tool_calls, record.tool_calls)


def _row(total: _Growing) -> tuple[Any, ...]:
    return tuple(
        msgspec.json.encode(value).decode() if isinstance(value, list | dict) else value
        for value in attrs.astuple(total, recurse=False)
    )
