"""Tests of `llmproxy.balancing.strategies`, and what all strategies must keep to."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from llmproxy.balancing.latency_based import LatencyBased
from llmproxy.balancing.least_connections import LeastConnections
from llmproxy.balancing.round_robin import RoundRobin
from llmproxy.balancing.session_affinity import SessionAffinity
from llmproxy.balancing.strategies import make_strategy
from llmproxy.balancing.weighted import Weighted
from llmproxy.interfaces import ICandidate, IStrategy
from tests.balancing.candidates import Candidate, choose, no_affinity, pool, shares

KINDS = {
    "round_robin": RoundRobin,
    "weighted": Weighted,
    "least_connections": LeastConnections,
    "latency_based": LatencyBased,
    "session_affinity": SessionAffinity,
}
every_strategy = pytest.mark.parametrize("name", KINDS)
some_weights = st.lists(st.integers(1, 9), min_size=1, max_size=5)
some_past = st.lists(st.sets(st.integers(0, 4), min_size=1), max_size=30)


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_names(name: str, kind: type) -> None:
    """Each configured name makes its class."""
    strategy = make_strategy(name, Random(1))
    assert isinstance(strategy, kind)
    assert verifyObject(IStrategy, strategy)
    assert verifyObject(ICandidate, Candidate("a"))


def test_unknown_name() -> None:
    """A name that slipped through the loader is shown, with what was wanted."""
    with pytest.raises(ValueError, match="'magic': wanted one of round_robin, weighted, "):
        make_strategy("magic", Random(1))


@every_strategy
@given(weights=some_weights, past=some_past, seed=st.integers())
def test_chooses_a_member(name: str, weights: list[int], past: list[set[int]], seed: int) -> None:
    """Whoever came and went before, the choice is one of those offered."""
    strategy = make_strategy(name, Random(seed))
    everybody = pool(*weights)
    for number, present in enumerate(past):
        offered = [everybody[i % len(everybody)] for i in sorted(present)]
        chosen = strategy.choose(offered, float(number), lambda: b"same")
        assert any(chosen is candidate for candidate in offered)


@every_strategy
@given(weights=some_weights, past=some_past, seed=st.integers())
def test_nobody_starves(name: str, weights: list[int], past: list[set[int]], seed: int) -> None:
    """Whatever the past was, everybody who stays is chosen before long."""
    strategy = make_strategy(name, Random(seed))
    everybody = pool(*weights)
    for present in past:
        choose(
            strategy, [everybody[i] for i in sorted(present) if i < len(everybody)] or everybody, 1
        )
    # Where chance or a hash chooses, it is the bound on load that sees to it.
    before_long = sum(weights) * (len(past) + 1) * len(weights)
    assert set(choose(strategy, everybody, before_long)) == {one.name for one in everybody}


@pytest.mark.parametrize("name", ["round_robin", "weighted", "least_connections"])
@given(weights=some_weights, cycles=st.integers(1, 4), seed=st.integers())
def test_exact_shares_over_a_cycle(name: str, weights: list[int], cycles: int, seed: int) -> None:
    """After whole cycles everybody had exactly its share: by weight, or each the same."""
    if name == "round_robin":
        weights = [1] * len(weights)
    candidates = pool(*weights)
    assert shares(make_strategy(name, Random(seed)), candidates, cycles * sum(weights)) == {
        candidate.name: cycles * candidate.weight for candidate in candidates
    }


@pytest.mark.parametrize("name", ["weighted", "least_connections", "latency_based"])
def test_slow_start_counts(name: str) -> None:
    """A candidate that has a tenth of its weight gets about a tenth of what the other gets."""
    strategy = make_strategy(name, Random(1))
    starting, other = Candidate("a", 0.1), Candidate("b", 1)
    names = choose(strategy, [starting, other], 220)
    assert 15 <= names.count("a") <= 25


@every_strategy
def test_only_one(name: str) -> None:
    """A single candidate takes all."""
    assert choose(make_strategy(name, Random(1)), pool(3), 5) == ["a"] * 5


@every_strategy
def test_does_not_touch_what_it_is_given(name: str) -> None:
    """Neither the list nor the candidates change; counting is the caller's work."""
    candidates = pool(1, 2, 3)
    before = [(c.name, c.weight, c.in_flight) for c in candidates]
    strategy = make_strategy(name, Random(1))
    for _ in range(10):
        strategy.choose(tuple(candidates), 0.0, lambda: b"same")
    assert [(c.name, c.weight, c.in_flight) for c in candidates] == before


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"session_affinity"}))
def test_prompts_are_looked_at_by_none_but_one(name: str) -> None:
    """Who does not go by the conversation does not ask for it."""
    strategy = make_strategy(name, Random(1))
    for _ in range(5):
        strategy.choose(pool(1, 2, 3), 0.0, no_affinity)
