"""Tests of `llmproxy.balancing.round_robin`."""

from __future__ import annotations

from llmproxy.balancing.round_robin import RoundRobin
from tests.balancing.candidates import choose, pool


def test_circle() -> None:
    """The same candidates come in their order, again and again."""
    assert "".join(choose(RoundRobin(), pool(1, 1, 1), 7)) == "abcabca"


def test_weights_and_load_play_no_role() -> None:
    """Only turns count."""
    candidates = pool(1, 9)
    candidates[1].in_flight = 100
    assert "".join(choose(RoundRobin(), candidates, 4)) == "abab"


def test_steady_when_one_goes_and_comes_back() -> None:
    """The others keep their order, and who comes back is next."""
    strategy = RoundRobin()
    a, b, c = pool(1, 1, 1)
    assert choose(strategy, [a, b, c], 2) == ["a", "b"]
    assert choose(strategy, [a, c], 3) == ["c", "a", "c"]
    assert choose(strategy, [a, b, c], 4) == ["b", "a", "c", "b"]


def test_pools_that_share_a_backend() -> None:
    """A backend's turn for one model counts for the other model, too."""
    strategy = RoundRobin()
    a, b, c = pool(1, 1, 1)
    names = [choose(strategy, one_pool, 1)[0] for _ in range(3) for one_pool in ([a, b], [b, c])]
    assert names == ["a", "b", "a", "c", "b", "c"]


def test_repr_shows_the_turn() -> None:
    """The state is for people to see."""
    strategy = RoundRobin()
    choose(strategy, pool(1), 2)
    assert repr(strategy) == "<RoundRobin turn=2>"
