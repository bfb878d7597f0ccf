"""Estimates of tokens: what is reserved for a request, and what it has used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.values import NO_USAGE, Usage
from llmproxy.wire.estimate import (
    USUAL_ANSWER_TOKENS,
    completed,
    estimate_prompt,
    estimate_texts,
    longest_answer,
)


@pytest.mark.parametrize(
    ("body_bytes", "context", "tokens"),
    [(0, None, 1), (3, None, 1), (4, None, 2), (400_000, None, 100_001), (400_000, 32_768, 32_768)],
)
def test_a_prompt_is_estimated_by_its_size(
    body_bytes: int, context: int | None, tokens: int
) -> None:
    """A token for four bytes, and never more than the model can take."""
    assert estimate_prompt(body_bytes, context) == tokens


@pytest.mark.parametrize(
    ("max_tokens", "output", "tokens"),
    [
        (None, None, USUAL_ANSWER_TOKENS),
        (None, 8192, 8192),
        (100, None, 100),
        (100, 8192, 100),
        (32_000, 8192, 8192),
        (0, None, 0),
    ],
)
def test_an_answer_is_as_long_as_asked_for(
    max_tokens: int | None, output: int | None, tokens: int
) -> None:
    """The client's wish stands, up to what the model is configured to give."""
    assert longest_answer(max_tokens, output) == tokens


@pytest.mark.parametrize(("text_bytes", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2), (400, 100)])
def test_texts_are_estimated_by_their_size(text_bytes: int, tokens: int) -> None:
    """A token for four bytes, those that are begun counted whole."""
    assert estimate_texts(text_bytes) == tokens


@pytest.mark.parametrize(
    ("counted", "seen", "usage"),
    [
        (None, 0, Usage(100, 0, 100)),
        (None, 7, Usage(100, 7, 107)),
        (NO_USAGE, 7, Usage(100, 7, 107)),
        (Usage(10, 0, 10, 4), 7, Usage(10, 7, 17, 4)),
        (Usage(10, 9, 19, 4, 3), 7, Usage(10, 9, 19, 4, 3)),
        (Usage(10, 9, 20), 9, Usage(10, 9, 20)),
        (Usage(0, 9, 9), 7, Usage(100, 9, 109)),
    ],
)
def test_what_was_not_counted_is_completed(counted: Usage | None, seen: int, usage: Usage) -> None:
    """The backend's counts stand, but for what it left out."""
    assert completed(counted, prompt_tokens=100, completion_tokens=seen) == usage


@given(st.integers(0, 10**9), st.integers(1, 10**6) | st.none())
def test_an_estimate_is_at_least_one_token(body_bytes: int, context: int | None) -> None:
    """Nothing is for free, and nothing is more than the context."""
    tokens = estimate_prompt(body_bytes, context)
    assert tokens >= 1
    assert context is None or tokens <= context
