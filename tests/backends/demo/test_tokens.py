"""Tests of the demo model's token rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.backends.demo import tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Hello, world", ["Hello,", " world"]),
        ("deterministic", ["determin", "istic"]),
        (" a\n\n b \n", [" a", "\n\n b", " \n"]),
        ("  ", ["  "]),
    ],
)
def test_a_token_is_a_short_piece_of_a_word_with_the_space_before_it(
    text: str, expected: list[str]
) -> None:
    """The rule, by example."""
    assert tokens.pieces(text) == expected


@given(st.text())
def test_pieces_joined_are_the_text(text: str) -> None:
    """Nothing is lost or changed."""
    assert "".join(tokens.pieces(text)) == text
    assert tokens.count(text) == len(tokens.pieces(text))


@given(st.text(), st.integers(-1, 20))
def test_first_is_a_prefix_of_exactly_so_many_tokens(text: str, limit: int) -> None:
    """A cut text counts what it was cut to."""
    cut = tokens.first(text, limit)
    assert text.startswith(cut)
    assert tokens.count(cut) == min(max(limit, 0), tokens.count(text))
