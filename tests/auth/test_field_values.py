"""Tests of `llmproxy.auth.field_values`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.auth import field_values as values
from llmproxy.errors import MalformedRecord

YEAR_2030_S = 1893456000.0


@pytest.mark.parametrize("read", [values.whole, values.moment, values.mapping])
@pytest.mark.parametrize("absent", [None, "", " ", b"", b"  "])
def test_absent(read: Callable[[Any], Any], absent: Any) -> None:
    """Null, and blank text, are nothing."""
    assert read(absent) is None
    assert values.text(absent) == ""
    assert values.names(absent) == ()


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0, 0),
        ("10", 10),
        (b" 10 ", 10),
        (Decimal("1e3"), 1000),
        (5.0, 5),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_whole(value: Any, found: int) -> None:
    """Whole numbers come as all sorts of numbers and as digits."""
    assert values.whole(value) == found


@pytest.mark.parametrize(
    "value",
    [
        -1,
        "-1",
        1.5,
        "1.5",
        "ten",
        True,
        False,
        [],
        2**63,
        "9" * 30,
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("1e999999"),
        "١٢",
        b"\xff",
        "0x10",
        "1_000",
    ],
)
def test_not_whole(value: Any) -> None:
    """Anything else is no number, and never taken for none."""
    with pytest.raises(MalformedRecord):
        values.whole(value)


@pytest.mark.parametrize(
    "value",
    [
        "2030-01-01",
        "2030-01-01T00:00:00Z",
        b"2030-01-01 00:00:00",
        "2030-01-01T01:00:00+01:00",
        "1893456000",
        "1893456000.0",
        1893456000,
        Decimal("1893456000"),
        datetime(2030, 1, 1),
        datetime(2030, 1, 1, tzinfo=UTC),
        datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))),
        date(2030, 1, 1),
    ],
)
def test_moment(value: Any) -> None:
    """Times come as ISO 8601, as seconds and as dates; without a zone they are UTC."""
    assert values.moment(value) == YEAR_2030_S


@pytest.mark.parametrize(
    "value",
    [
        "tomorrow",
        "2030-13-01",
        True,
        [],
        {},
        1893456000000,
        "1893456000000",
        float("nan"),
        10**400,
        Decimal("sNaN"),
        "20300101",
        "--5",
        "1.2.3",
        b"\xff",
        "never",
        "²",
    ],
)
def test_not_a_moment(value: Any) -> None:
    """Milliseconds would never come, and a day without dashes is long past: neither is guessed."""
    with pytest.raises(MalformedRecord):
        values.moment(value)


def test_long_past() -> None:
    """What other programs write for "never" is taken as it stands: in the past."""
    assert values.moment(0) == 0.0
    assert values.moment("-1") == -1.0
    year_one = values.moment("0001-01-01T00:00:00Z")
    assert year_one is not None
    assert year_one < 0


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a*, b ,", ("a*", "b")),
        ('["a*", "b"]', ("a*", "b")),
        (b'["a,b"]', ("a,b",)),
        (["a", b"b"], ("a", "b")),
        (("a",), ("a",)),
        ("[]", ()),
        ([], ()),
    ],
)
def test_names(value: Any, found: tuple[str, ...]) -> None:
    """Lists come as such, as JSON and as text with commas."""
    assert values.names(value) == found


@pytest.mark.parametrize(
    "value", [",", "[1]", "[", "{}", '{"a": 1}', 5, True, {"a": 1}, [None], [""], [["a"]], b"\xff"]
)
def test_not_names(value: Any) -> None:
    """Anything else is no list, and never taken for an empty one."""
    with pytest.raises(MalformedRecord):
        values.names(value)


@pytest.mark.parametrize(
    ("value", "found"),
    [(" a ", "a"), (b"a", "a"), (42, "42"), (UUID(int=1), str(UUID(int=1))), (Decimal(5), "5")],
)
def test_text(value: Any, found: str) -> None:
    """Numbers and UUIDs have a text."""
    assert values.text(value) == found


@pytest.mark.parametrize("value", [True, 1.5, [], {}, "a\nb", "a\x00", "a" * 257, b"\xff"])
def test_not_text(value: Any) -> None:
    """What cannot stand in a line of a log is no text."""
    with pytest.raises(MalformedRecord):
        values.text(value)


def test_mapping() -> None:
    """Mappings come as such and as JSON."""
    assert values.mapping({"a": 1}) == values.mapping('{"a": 1}') == {"a": 1}
    for wrong in ("[1]", "a", 5, "[" * 100_000):
        with pytest.raises(MalformedRecord):
            values.mapping(wrong)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.decimals() | st.datetimes() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(ANYTHING)
def test_never_taken_for_absent(value: Any) -> None:
    """Whatever comes is read or refused; only what is blank is nothing."""
    blank = value is None or (isinstance(value, str | bytes) and not value.strip())
    for read in (values.whole, values.moment, values.mapping):
        try:
            assert (read(value) is None) is (blank or _blank_bytes(value))
        except MalformedRecord:
            assert not blank
    for listed in (values.names, values.text):
        try:
            listed(value)
        except MalformedRecord:
            assert not blank


def _blank_bytes(value: Any) -> bool:
    """Say whether these are bytes of a text that is blank in Unicode only."""
    return isinstance(value, bytes) and not value.decode("utf-8", "replace").strip()
