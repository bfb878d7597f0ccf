"""Tests of `llmproxy.commands.amounts`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.commands.amounts import parse_amount, percent, short_amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("200000", 200_000),
        ("200_000", 200_000),
        ("1,234,567", 1_234_567),
        ("20M", 20_000_000),
        ("1.5k", 1500),
        (" 500 K ", 500_000),
        ("2B", 2 * 10**9),
        ("2g", 2 * 10**9),
        ("0.1M", 100_000),
        ("9007199254740992", 2**53),
    ],
)
def test_amounts_are_read(text: str, amount: int) -> None:
    """Units are powers of a thousand; digits may be grouped."""
    assert parse_amount(text) == amount


@pytest.mark.parametrize(
    "text",
    ["", "M", "-1", "1.5", "1,5M", "1,23", "1e6", "20MB", "1.0001k", "9007199254740993", "\u0661"],
)
def test_what_is_no_amount_is_told(text: str) -> None:
    """With what is wanted."""
    with pytest.raises(ValueError, match="200000, 500k, 20M"):
        parse_amount(text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (999_999, "999,999"),
        (1_000_000, "1M"),
        (1_234_567, "1.2M"),
        (19_999_999, "19.9M"),
        (2_500_000_000, "2.5B"),
        (2**53, "9,007.1T"),
    ],
)
def test_amounts_are_shown_in_few_characters(amount: int, text: str) -> None:
    """Rounded down: a budget is not spent before it is."""
    assert short_amount(amount) == text


@given(st.integers(0, 2**53))
def test_what_is_shown_is_never_more(amount: int) -> None:
    """And less by at most a tenth of its unit, which is at most a tenth of it."""
    shown = parse_amount(short_amount(amount))
    assert shown <= amount <= shown * 1.1


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 5, "0%"), (999, 1000, "99%"), (1000, 1000, "100%"), (1049, 1000, "104%"), (0, 0, "100%")],
)
def test_percent(part: int, whole: int, text: str) -> None:
    """Rounded down; it may be over the whole."""
    assert percent(part, whole) == text
