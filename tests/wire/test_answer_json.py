"""Tests of reading what backends say as JSON, whatever it is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.wire.answer_json import (
    error_text,
    fields_of,
    index_of,
    objects,
    read_object,
    text_bytes,
    text_of,
)


class Pair(msgspec.Struct):
    """Two fields."""

    a: Any = None
    b: Any = None


DECODER = msgspec.json.Decoder(Pair)


@pytest.mark.parametrize(
    ("payload", "pair"),
    [
        (b'{"a":1,"b":[2],"c":3}', Pair(1, [2])),
        (b"{}", Pair()),
        (b' {"b": null} ', Pair()),
        (b'{"a":"\\ud83d","b":2}', Pair("\ud83d", 2)),
        (b'{"a":"\xff","b":2}', Pair("\ufffd", 2)),
        (b"[1]", None),
        (b'"a"', None),
        (b"null", None),
        (b'{"a":1', None),
        (b"", None),
        (b'["\xff"]', None),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
        (b'{"a":"\xff","b":' + b"[" * 100_000, None),
    ],
)
def test_objects_are_read(payload: bytes, pair: Pair | None) -> None:
    """Fields are read, of bytes that are no good JSON as well; what is no object is None."""
    assert read_object(DECODER, payload) == pair


@given(payload=st.binary() | st.text().map(str.encode))
def test_nothing_raises(payload: bytes) -> None:
    """Any bytes give an object or None."""
    read = read_object(DECODER, payload)
    assert read is None or isinstance(read, Pair)


def test_parts_of_the_wrong_kind_are_left_out() -> None:
    """What is not what it should be is nothing."""
    assert objects([{"a": 1}, 7, None, {}]) == [{"a": 1}, {}]
    assert objects({"a": 1}) == objects(None) == []
    assert fields_of({"a": 1}) == {"a": 1}
    assert fields_of([1]) == fields_of(None) == {}
    assert text_of("a") == "a"
    assert text_of(7) == text_of(None) == ""
    assert index_of({"index": 3}, "index", 7) == 3
    assert index_of({"index": "3"}, "index", 7) == index_of({}, "index", 7) == 7


@pytest.mark.parametrize(
    ("error", "flat", "text"),
    [
        (None, (), ""),
        ("", (), ""),
        ("Unauthorized", (), "Unauthorized"),
        ({"message": "died", "type": "t"}, (), "died"),
        ({"message": "", "type": "t", "code": 5}, (), "t"),
        ({"code": 500}, (), "500"),
        ({}, (), "error"),
        ({"message": ["x"]}, (), "error"),
        (["x"], (), "error"),
        (None, ("flat", "t"), "flat"),
        (None, (None, "t"), "t"),
        (None, (None, None), "error"),
        ({"message": "x" * 1000}, (), "x" * 500),
    ],
)
def test_errors(error: object, flat: tuple[object, ...], text: str) -> None:
    """The first of message, type and code that says something, in short."""
    assert error_text(error, *flat) == text


def test_text_bytes() -> None:
    """Texts under the keys count, at any depth; others do not."""
    tree = {"a": "12", "b": "345", "c": [{"a": "é", "d": {"a": "\ud83d"}}, "6", None, 7]}
    assert text_bytes(tree, {"a"}) == 2 + 2 + 3
    assert text_bytes(tree, {"a", "b"}) == 10
    assert text_bytes("12", {"a"}) == text_bytes(None, {"a"}) == 0
