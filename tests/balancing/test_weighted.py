"""Tests of `llmproxy.balancing.weighted`."""

from __future__ import annotations

from llmproxy.balancing.weighted import Weighted
from tests.balancing.candidates import choose, pool, shares


def test_smooth_as_nginx() -> None:
    """The sequence that nginx's authors give for weights 5, 1, 1."""
    assert "".join(choose(Weighted(), pool(5, 1, 1), 14)) == "aabacaaaabacaa"


def test_load_plays_no_role() -> None:
    """Only weights count."""
    candidates = pool(1, 1)
    candidates[0].in_flight = 100
    assert "".join(choose(Weighted(), candidates, 4)) == "abab"


def test_stable_when_one_goes_and_comes_back() -> None:
    """The others share by weight meanwhile, and the cycle goes on afterwards."""
    strategy = Weighted()
    a, b, c = pool(3, 2, 1)
    assert shares(strategy, [a, b, c], 6) == {"a": 3, "b": 2, "c": 1}
    assert shares(strategy, [a, c], 8) == {"a": 6, "c": 2}
    assert shares(strategy, [a, b, c], 6) == {"a": 3, "b": 2, "c": 1}


def test_no_rush_on_who_comes_back() -> None:
    """Time away is not saved up."""
    strategy = Weighted()
    a, b = pool(1, 1)
    choose(strategy, [a], 100)
    assert sorted(choose(strategy, [a, b], 4)) == ["a", "a", "b", "b"]


def test_repr_shows_what_each_owns() -> None:
    """The state is for people to see."""
    strategy = Weighted()
    choose(strategy, pool(2, 1), 1)
    assert repr(strategy) == "<Weighted owned={'a': -1.0, 'b': 1}>"
