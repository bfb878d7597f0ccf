"""Tests of `llmproxy.balancing.least_connections`."""

from __future__ import annotations

from random import Random

from llmproxy.balancing.least_connections import LeastConnections
from tests.balancing.candidates import Candidate, no_affinity, pool


def chosen(candidates: list[Candidate], seed: int = 1) -> str:
    """Choose once, with a fresh random sequence."""
    return LeastConnections(Random(seed)).choose(candidates, 0.0, no_affinity).name


def test_fewest_in_flight() -> None:
    """Whoever has least to do is chosen, wherever in the list."""
    assert chosen([Candidate("a", in_flight=2), Candidate("b", in_flight=1)]) == "b"
    assert chosen([Candidate("b", in_flight=1), Candidate("a", in_flight=2)]) == "b"


def test_for_its_weight() -> None:
    """Load is counted per weight."""
    assert chosen([Candidate("a", 1, 2), Candidate("b", 4, 7)]) == "b"
    assert chosen([Candidate("a", 1, 1), Candidate("b", 4, 7)]) == "a"


def test_ties_at_random() -> None:
    """Equal loads are chosen among by chance: all in time, and in another order per seed."""
    candidates = [Candidate("a", 3, 1), Candidate("b", 6, 2), Candidate("c", 9, 3)]
    assert {chosen(candidates, seed) for seed in range(50)} == {"a", "b", "c"}
    strategy, again = LeastConnections(Random(7)), LeastConnections(Random(7))
    first = [strategy.choose(candidates, 0.0, no_affinity).name for _ in range(20)]
    assert first == [again.choose(candidates, 0.0, no_affinity).name for _ in range(20)]


def test_ties_by_weight() -> None:
    """With nothing in flight the weights still count."""
    strategy = LeastConnections(Random(1))
    candidates = pool(9, 1)
    names = [strategy.choose(candidates, 0.0, no_affinity).name for _ in range(1000)]
    assert 850 < names.count("a") < 950
