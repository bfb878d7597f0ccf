"""Tests of skeletons: what is left of a long JSON text, and that it is the same at any chunking."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.wire.skeleton import LIMIT_BYTES, LONGEST_STRING_BYTES, TAIL_BYTES, Skeleton
from tests.wire.test_sse import SIZES, chop


def skeleton_of(text: bytes, sizes: list[int] | None = None) -> bytes:
    """Feed a text in pieces, and return what is left."""
    skeleton = Skeleton()
    for piece in chop(text, sizes or []):
        skeleton.feed(piece)
    assert not skeleton.cut
    return bytes(skeleton.text)


def without_long_strings(tree: Any) -> Any:
    """Empty the long strings of a tree, the plain way."""
    if isinstance(tree, str):
        return "" if len(json.dumps(tree)) - 2 > LONGEST_STRING_BYTES else tree
    if isinstance(tree, list):
        return [without_long_strings(one) for one in tree]
    if isinstance(tree, dict):
        return {without_long_strings(key): without_long_strings(tree[key]) for key in tree}
    return tree


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b' {"a": "b", "c": [1, 2.5, -3e-7], "d": null} ',
        b'["\\"", "\\\\", "\\u00e9", "\xc3\xa9", ""]',
        b'"' + b"x" * LONGEST_STRING_BYTES + b'"',
        b"[1,2,3,4,5,6,7,8",
    ],
)
def test_short_texts_stay(text: bytes) -> None:
    """What is not long is left as it is."""
    assert skeleton_of(text) == text
    assert skeleton_of(text, [1]) == text


@pytest.mark.parametrize("sizes", [[], [1], [3], [100]])
def test_long_strings_become_empty(sizes: list[int]) -> None:
    """Their quotes stay, escaped ones inside them do not end them."""
    for inside in (b"x", b'\\"', b"\\\\", b"\\u00e9", b'\\\\\\"'):
        text = b'{"a":"' + inside * 300 + b'","b":"c"}'
        assert skeleton_of(text, sizes) == b'{"a":"","b":"c"}'


def test_of_long_rows_a_few_numbers_stay() -> None:
    """The first and the last of each piece stay, so that it is still a row of numbers."""
    row = ", ".join(str(number / 7) for number in range(-5000, 5000))
    text = f'{{"a":[{row}],"b":[[{row}],[1]],"c":5}}'.encode()
    for sizes in ([], [10_000]):
        left = skeleton_of(text, sizes)
        assert len(left) < 3000
        tree = json.loads(left)
        assert (tree["c"], tree["b"][1]) == (5, [1])
        assert tree["a"][-1] == 4999 / 7


_STRINGS = st.text(max_size=5) | st.sampled_from(["x" * 300, '"' * 200, "\\" * 400, "é" * 60])
_TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | _STRINGS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_STRINGS, inner, max_size=5),
    max_leaves=12,
)


@given(tree=_TREES, sizes=SIZES)
def test_any_text_at_any_chunking(tree: Any, sizes: list[int]) -> None:
    """It says what the text says, but for long strings, however it is cut."""
    text = json.dumps(tree).encode()
    left = skeleton_of(text, sizes)
    assert json.loads(left) == without_long_strings(tree)


@given(row=st.lists(st.floats(allow_nan=False, allow_infinity=False)), sizes=SIZES)
def test_any_row_stays_one(row: list[float], sizes: list[int]) -> None:
    """However a row is cut, what is left is a row of some of its numbers, and what follows it."""
    left = json.loads(skeleton_of(json.dumps({"a": row * 20, "b": 7}).encode(), sizes))
    assert left["b"] == 7
    assert set(left["a"]) <= set(row)


@given(text=st.binary(max_size=300), sizes=SIZES)
def test_any_bytes(text: bytes, sizes: list[int]) -> None:
    """Nothing makes it fail, and it never grows."""
    assert len(skeleton_of(text, sizes)) <= len(text)


def test_a_skeleton_that_is_too_long_keeps_its_end() -> None:
    """Its memory is bounded; that it is not whole, it tells."""
    skeleton = Skeleton()
    skeleton.feed(b"[" + b'"a",' * (LIMIT_BYTES // 4 - 1))
    assert not skeleton.cut
    skeleton.feed(b'"b","c"]')
    assert skeleton.cut
    assert len(skeleton.text) == TAIL_BYTES
    skeleton.feed(b"x")
    assert bytes(skeleton.text).endswith(b'"c"]x')
    assert repr(skeleton) == f"<Skeleton {TAIL_BYTES} bytes cut=True>"
