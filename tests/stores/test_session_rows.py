"""Tests of `llmproxy.stores.session_rows`."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmproxy.stores.session_rows import (
    MOST_IN_ALL,
    MOST_MODELS,
    MOST_TOKENS,
    SELECT,
    add_to_sessions,
    total_of,
)
from llmproxy.stores.sqlite_schema import prepare
from llmproxy.values import SessionTotal, Usage
from llmproxy.wire.usage_record import UsageRecordJson
from tests.usage.samples import START_S, as_json


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Give a new file, opened."""
    prepare(str(tmp_path / "file.db"))
    opened = sqlite3.connect(tmp_path / "file.db")
    yield opened
    opened.close()


def add(connection: sqlite3.Connection, *records: UsageRecordJson) -> None:
    """Add records, the number of each being when it began."""
    add_to_sessions(
        connection,
        [(one, round(START_S * 1000) + 1000 * int(one.id.rpartition("-")[2])) for one in records],
    )


def totals(connection: sqlite3.Connection) -> list[SessionTotal]:
    """Give all totals, the session first seen first."""
    return [total_of(row) for row in connection.execute(f"{SELECT} ORDER BY number")]


def test_a_session(connection: sqlite3.Connection) -> None:
    """All of it, over several transactions."""
    add(
        connection,
        as_json(10, parent_session_id="ses_0"),
        as_json(11, model="coder", outcome="truncated", tool_calls={"read": 1, "bash": 1}),
    )
    add(connection, as_json(5, model="typo", upstream_model="", duration_ms=60_000))
    assert totals(connection) == [
        SessionTotal(
            session_id="ses_1",
            parent_session_id="ses_0",
            key_id="key_1",
            user_id="ada",
            models=("coder", "qwen-72b"),
            requests=3,
            errors=1,
            prompt_tokens=300,
            completion_tokens=30,
            total_tokens=330,
            cached_tokens=180,
            reasoning_tokens=12,
            tool_calls={"read": 5, "bash": 1},
            first_seen_s=START_S + 5,
            last_seen_s=START_S + 65,
        )
    ]


def test_sessions_are_told_apart_by_their_keys(connection: sqlite3.Connection) -> None:
    """Clients choose the ids: one cannot add to another's. Strangers have no sessions."""
    add(
        connection,
        as_json(1),
        as_json(2, key_id="key_2"),
        as_json(3, key_id=""),
        as_json(4, session_id=""),
    )
    assert [(one.session_id, one.key_id, one.requests) for one in totals(connection)] == [
        ("ses_1", "key_1", 1),
        ("ses_1", "key_2", 1),
    ]


def test_nonsense_is_bounded(connection: sqlite3.Connection) -> None:
    """Whatever backends say and clients call their models."""
    add(
        connection,
        *(as_json(n, model=f"m{n}", tool_calls={f"f{n}": 10**30}) for n in range(MOST_MODELS + 5)),
    )
    (total,) = totals(connection)
    assert len(total.models) == MOST_MODELS
    huge = Usage(10**40, -5, 10**40)
    for _ in range(3):
        add(connection, *(as_json(n, usage=huge, duration_ms=1e300) for n in range(4000)))
    (total,) = totals(connection)
    assert total.completion_tokens == 10 * (MOST_MODELS + 5)
    assert total.total_tokens == MOST_IN_ALL
    assert total.last_seen_s < START_S + MOST_TOKENS


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 100),
            st.sampled_from(["", "s1", "s2"]),
            st.sampled_from(["", "k1", "k2"]),
            st.integers(0, 10**9),
            st.dictionaries(st.sampled_from("abc"), st.integers(1, 5)),
        ),
        max_size=30,
    ),
    st.integers(1, 7),
)
def test_any_division_gives_the_same(
    connection: sqlite3.Connection, drawn: list[Any], size: int
) -> None:
    """Of the records into transactions; and it is what adding them up one by one gives."""
    records = [
        as_json(n, session_id=session, key_id=key, usage=Usage(tokens, 0, tokens), tool_calls=calls)
        for n, session, key, tokens, calls in drawn
    ]
    seen = []
    for step in (size, len(records) or 1):
        connection.execute("DELETE FROM usage_sessions")
        for start in range(0, len(records), step):
            add(connection, *records[start : start + step])
        seen.append(sorted(totals(connection), key=lambda one: (one.session_id, one.key_id)))
    assert seen[0] == seen[1]
    for one in seen[0]:
        own = [d for d in drawn if (d[1], d[2]) == (one.session_id, one.key_id)]
        assert one.requests == len(own)
        assert one.total_tokens == sum(d[3] for d in own)
        assert one.tool_calls == sum((Counter(d[4]) for d in own), Counter())
        assert attrs.astuple(one)[-2] == START_S + min(d[0] for d in own)
    assert len(seen[0]) == len({(d[1], d[2]) for d in drawn if d[1] and d[2]})
