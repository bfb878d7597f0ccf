"""Tests of `llmproxy.config.key_fields`."""

from __future__ import annotations

import re

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.config.key_fields import KEY_FIELDS, is_identifier, parse_field, parse_table
from llmproxy.config.model_auth import StaticKey
from llmproxy.config.model_stores import Limits


def test_every_field_of_a_static_key_can_be_had_from_a_table() -> None:
    """Its limits one by one; only the key itself is none."""
    static = {one.name for one in attrs.fields(StaticKey)} - {"key", "key_file", "rate_limit"}
    limits = {one.name for one in attrs.fields(Limits)}
    assert set(KEY_FIELDS) == static | limits | {"id"}
    assert len(set(KEY_FIELDS)) == len(KEY_FIELDS)


@pytest.mark.parametrize("text", ["a", "_", "Key", "api_keys2", "a" * 63])
def test_identifiers(text: str) -> None:
    """Letters, digits and underscores."""
    assert is_identifier(text)


@pytest.mark.parametrize(
    "text", ["", "2a", "a b", "a-b", "a.b", 'a"', "a`", "a;", "ä", "a\n", "a\0", "a" * 64]
)
def test_what_is_no_identifier(text: str) -> None:
    """Nothing that would have to be escaped, nor what PostgreSQL would cut off."""
    assert not is_identifier(text)


@pytest.mark.parametrize(
    ("text", "parts"), [("api_keys", ("api_keys",)), ("iam.Keys", ("iam", "Keys"))]
)
def test_tables(text: str, parts: tuple[str, ...]) -> None:
    """A schema may stand before it."""
    assert parse_table(text) == parts


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a.b.c", "a b", "a;b", "a.b;--"])
def test_what_is_no_table(text: str) -> None:
    """Every part is an identifier."""
    with pytest.raises(ValueError, match="is not the name of a table; want NAME or SCHEMA"):
        parse_table(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status", ("status", "status")),
        (" user_id ", ("user_id", "user_id")),
        ("models as allowed_models", ("models", "allowed_models")),
        ("Models AS allowed_models", ("Models", "allowed_models")),
        ("quota  As\ttotal_quota", ("quota", "total_quota")),
        ("as as name", ("as", "name")),
    ],
)
def test_fields(text: str, expected: tuple[str, str]) -> None:
    """A column of the field's name, or any column as a field."""
    assert parse_field(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a column; want"),
        ("a b", "is not a column; want"),
        ("a as", "is not a column; want"),
        ("a as b as c", "is not a column; want"),
        ("count(*) as name", "has no name of a column"),
        ('"a" as name', "has no name of a column"),
        ("iam.name as name", "has no name of a column"),
        ("models", 'is no field of a key by that name; want "COLUMN as FIELD", FIELD being one of'),
        ("Status", "is no field of a key by that name"),
        ("a as key", "names no field of a key; want one of: id, name, "),
        ("a as STATUS", "names no field of a key"),
    ],
)
def test_what_is_no_field(text: str, message: str) -> None:
    """Said with what is wanted."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        parse_field(text)


@given(st.text(max_size=30) | st.text("as \t\n;'\"`.-*(),_key", max_size=30))
def test_nothing_dangerous_comes_through(text: str) -> None:
    """Whatever is written, what comes out is an identifier and a field, or nothing."""
    try:
        column, field = parse_field(text)
    except ValueError:
        return
    assert is_identifier(column)
    assert field in KEY_FIELDS
