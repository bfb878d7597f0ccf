"""Estimates of tokens: what is reserved for a request, and what it is charged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.values import NO_USAGE, Usage, UsageSource
from llmproxy.wire.estimate import (
    USUAL_ANSWER_TOKENS,
    estimate_prompt,
    longest_answer,
    spent_tokens,
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


@pytest.mark.parametrize(
    ("usage", "source", "answered", "tokens"),
    [
        (Usage(10, 5, 15), "exact", True, 15),
        (Usage(10, 5, 17), "exact", False, 17),
        (Usage(0, 7, 7), "partial", True, 107),
        (Usage(10, 7, 17), "partial", True, 17),
        (NO_USAGE, "none", True, 150),
        (NO_USAGE, "none", False, 0),
    ],
)
def test_what_an_exchange_is_charged(
    usage: Usage, source: UsageSource, answered: bool, tokens: int
) -> None:
    """The backend's counts, and estimates for what it did not count."""
    assert (
        spent_tokens(usage, source, prompt_tokens=100, answered=answered, bytes_out=200) == tokens
    )


@given(st.integers(0, 10**9), st.integers(1, 10**6) | st.none())
def test_an_estimate_is_at_least_one_token(body_bytes: int, context: int | None) -> None:
    """Nothing is for free, and nothing is more than the context."""
    tokens = estimate_prompt(body_bytes, context)
    assert tokens >= 1
    assert context is None or tokens <= context
