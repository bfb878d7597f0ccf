"""Tests of `llmproxy.usage.record_table`: rows. Its statements are tested with real databases."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.usage.record_table import (
    COLUMNS,
    LARGEST_COUNT,
    LONGEST_NAME,
    LONGEST_TEXT,
    OURS,
    Dialect,
    RecordTable,
    in_ascii,
)
from llmproxy.wire.usage_record import UsageRecordJson
from tests.usage.samples import as_json


def row(record: UsageRecordJson, dialect: Dialect = "postgres") -> dict[str, Any]:
    """Give a record's row, by column."""
    table = RecordTable("usage_records", dialect, "?", "`")
    return dict(zip(COLUMNS, table.row(record), strict=True))


def test_a_row_is_the_record() -> None:
    """Each field under its name; what is no plain value is JSON."""
    record = as_json(3)
    fields = msgspec.to_builtins(record)
    made = row(record)
    assert json.loads(made.pop("tool_calls")) == fields.pop("tool_calls") == {"read": 2}
    assert json.loads(made.pop("tried")) == fields.pop("tried")
    assert made.pop("time") == "2026-09-21 14:13:23.000+00:00"
    assert made.pop("request_body") is None
    del fields["time"]
    assert made == fields
    assert set(OURS) <= set(COLUMNS)


@pytest.mark.parametrize(
    ("dialect", "written"),
    [
        ("postgres", "2026-09-21 14:13:20.500+00:00"),
        ("mysql", "2026-09-21 14:13:20.500"),
        ("sqlite", "2026-09-21T14:13:20.500Z"),
    ],
)
def test_times(dialect: Dialect, written: str) -> None:
    """In UTC, to the millisecond, as each can sort them; a zone of another writer is converted."""
    for text in ("2026-09-21T14:13:20.500Z", "2026-09-21T16:13:20.5+02:00"):
        assert row(msgspec.structs.replace(as_json(), time=text), dialect)["time"] == written
    for text in ("", "yesterday", "0001-01-01T00:00:00+23:00"):
        made = row(msgspec.structs.replace(as_json(), time=text), dialect)
        assert made["time"].startswith("1970-01-01")


def test_values_that_do_not_fit_are_cut() -> None:
    """To what every one of the databases holds."""
    made = row(
        as_json(
            model="m" * 1000,
            user_agent="a\0b",
            request_body=b"x" * (LONGEST_TEXT + 1),
            bytes_in=10**30,
            bytes_out=-1,
            tool_calls={f"{n}" * 500: 1 for n in range(500)},
            first_byte_ms=None,
        )
    )
    assert made["model"] == "m" * LONGEST_NAME
    assert made["user_agent"] == "a\N{REPLACEMENT CHARACTER}b"
    assert len(made["request_body"]) == LONGEST_TEXT
    assert (made["bytes_in"], made["bytes_out"]) == (LARGEST_COUNT, 0)
    assert sum(json.loads(made["tool_calls"]).values()) == 500
    assert len(made["tool_calls"]) < 20_000
    assert made["first_byte_ms"] is None


@given(st.text(max_size=300))
def test_ascii(text: str) -> None:
    """A database that knows nothing else can hold it, and no column is too short for it."""
    plain = RecordTable("usage_records", "mysql", "%s", "`").row(as_json(model=text))
    made = dict(zip(COLUMNS, in_ascii(plain), strict=True))
    assert all(value.isascii() for value in made.values() if isinstance(value, str))
    assert len(made["model"]) <= LONGEST_NAME
    assert in_ascii(tuple(made.values())) == tuple(made.values())
    assert made["total_tokens"] == 110
