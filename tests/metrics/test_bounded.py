"""Names as labels."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmproxy.metrics.bounded import LONGEST_NAME, OTHER, Bounded


def test_the_first_ones_stay() -> None:
    """Later ones are others, however often they come."""
    bounded = Bounded(2)
    assert [bounded.label(name) for name in "abcacb"] == ["a", "b", OTHER, "a", OTHER, "b"]
    assert repr(bounded) == "<Bounded 2 of 2>"


def test_long_names_are_others() -> None:
    """They take no place either."""
    bounded = Bounded(1)
    assert bounded.label("x" * (LONGEST_NAME + 1)) == OTHER
    assert bounded.label("x" * LONGEST_NAME) == "x" * LONGEST_NAME


@given(st.lists(st.text(st.characters(), max_size=200), max_size=30))
def test_any_names(names: list[str]) -> None:
    """There are never more labels than wanted, and each can be sent."""
    bounded = Bounded(5)
    labels = {bounded.label(name) for name in names}
    assert len(labels - {OTHER}) <= 5
    for label in labels:
        label.encode("utf-8")


def test_half_a_surrogate_pair() -> None:
    """JSON may spell it; nothing may send it."""
    assert Bounded(1).label("a\ud800") == "a?"
