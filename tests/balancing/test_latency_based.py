"""Tests of `llmproxy.balancing.latency_based`."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from llmproxy.balancing.latency_based import LatencyBased
from tests.balancing.candidates import Candidate, no_affinity


def chosen(candidates: list[Candidate], seed: int = 1) -> str:
    """Choose once, with a fresh random sequence."""
    return LatencyBased(Random(seed)).choose(candidates, 0.0, no_affinity).name


def test_the_faster_of_two() -> None:
    """Of a pair the one that begins sooner, wherever in the list."""
    slow, fast = Candidate("slow", latency=0.2), Candidate("fast", latency=0.1)
    for seed in range(20):
        assert chosen([slow, fast], seed) == "fast"
        assert chosen([fast, slow], seed) == "fast"


def test_load_counts() -> None:
    """A fast one that has too much to do is not fast."""
    slow, fast = Candidate("slow", latency=0.2), Candidate("fast", latency=0.1, in_flight=2)
    assert chosen([slow, fast]) == "slow"


def test_weight_counts() -> None:
    """Twice the weight may have twice the requests."""
    small, big = Candidate("small", 1, 1, 0.1), Candidate("big", 3, 3, 0.1)
    assert chosen([small, big]) == "big"


def test_unknown_latency_is_neither_good_nor_bad() -> None:
    """Load alone decides while one of the two has not answered yet."""
    assert chosen([Candidate("new", in_flight=3), Candidate("known", 1, 2, 9.0)]) == "known"
    assert chosen([Candidate("new", in_flight=1), Candidate("known", 1, 2, 0.001)]) == "new"


def test_ties_are_left_to_chance() -> None:
    """The same seed gives the same choices; all have their turn."""
    candidates = [Candidate(name, latency=0.1) for name in "abc"]
    assert {chosen(candidates, seed) for seed in range(50)} == {"a", "b", "c"}
    assert [chosen(candidates, 7) for _ in range(5)] == [chosen(candidates, 7)] * 5


@given(
    latencies=st.lists(st.floats(0.001, 100), min_size=2, max_size=6, unique=True),
    seed=st.integers(),
)
def test_never_the_worst(latencies: list[float], seed: int) -> None:
    """Whichever two are picked, the worst of all loses."""
    candidates = [Candidate(f"b{i}", latency=one) for i, one in enumerate(latencies)]
    assert chosen(candidates, seed) != f"b{latencies.index(max(latencies))}"


def test_the_best_does_not_get_all() -> None:
    """Of three, the second best is chosen when the best is not picked: a third of the time."""
    strategy = LatencyBased(Random(1))
    candidates = [Candidate(f"b{i}", latency=0.1 * (i + 1)) for i in range(3)]
    names = [strategy.choose(candidates, 0.0, no_affinity).name for _ in range(900)]
    assert 250 < names.count("b1") < 350
    assert "b2" not in names
