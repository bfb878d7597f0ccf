"""Tests of `llmproxy.stores.key_rows`."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.entitlements import OwnLimits, Quota
from llmproxy.key_records import KeyRecord, StoredKey
from llmproxy.stores.key_rows import COLUMNS, from_row, to_row
from llmproxy.stores.sqlite_text import storable

TEXT = st.text(max_size=20)
ANY_TEXT = st.text(st.characters(), max_size=20)  # with lone surrogates
TIMES = st.none() | st.floats(0, 1e11)
COUNTS = st.integers(0, 10**30)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
RECORDS = st.builds(
    KeyRecord,
    id=ANY_TEXT,
    name=ANY_TEXT,
    user_id=ANY_TEXT,
    status=st.sampled_from(["active", "disabled", "quota_exceeded", "expired"]),
    allowed_models=st.lists(TEXT, max_size=3).map(tuple),
    allowed_ips=st.lists(TEXT, max_size=3).map(tuple),
    denied_ips=st.lists(TEXT, max_size=3).map(tuple),
    starts_at_s=TIMES,
    expires_at_s=TIMES,
    quota=st.none()
    | st.builds(Quota, COUNTS, st.sampled_from(["daily", "weekly", "never"]), COUNTS),
    own_limits=st.none()
    | st.builds(OwnLimits, *(st.none() | COUNTS for _ in attrs.fields(OwnLimits))),
    metadata=st.dictionaries(TEXT, JSON, max_size=3),
)


def stored(record: KeyRecord) -> StoredKey:
    """Make a stored key."""
    return StoredKey(
        record=record, prefix="sk-", digest=b"\x00d", created_at_s=1.5, updated_at_s=2.5
    )


@given(RECORDS)
def test_round_trip(record: KeyRecord) -> None:
    """Through SQLite a key stays what it is, whatever its values."""
    connection = sqlite3.connect(":memory:")
    try:
        row = to_row(stored(record))
        marks = ", ".join("?" for _ in row)
        (back,) = connection.execute(f"SELECT {marks}", row).fetchall()
    finally:
        connection.close()
    expected = attrs.evolve(
        record,
        id=storable(record.id),
        name=storable(record.name),
        user_id=storable(record.user_id),
    )
    assert from_row(back) == stored(expected)


def test_terms_hold_only_what_is_given() -> None:
    """So that what is not given keeps its default, also in later releases."""
    row = dict(zip(COLUMNS.split(", "), to_row(stored(KeyRecord(id="key_a"))), strict=True))
    assert row["terms"] == "{}"
    full = KeyRecord(id="key_a", quota=Quota(5, "daily", 2), expires_at_s=0.0)
    row = dict(zip(COLUMNS.split(", "), to_row(stored(full)), strict=True))
    assert json.loads(row["terms"]) == {
        "expires_at_s": 0.0,
        "quota": {"total": 5, "period": "daily", "used_before": 2},
    }
