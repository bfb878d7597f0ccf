"""Tests of `llmproxy.balancing.session_affinity`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from llmproxy.balancing.session_affinity import LOAD_FACTOR, SessionAffinity
from tests.balancing.candidates import Candidate, pool

KEYS = [b"session %d" % number for number in range(2000)]


def places(candidates: Sequence[Candidate], keys: Sequence[bytes] = KEYS) -> dict[bytes, str]:
    """Give the place of each conversation while nothing is in flight."""
    strategy = SessionAffinity()
    return {key: strategy.choose(candidates, 0.0, partial(bytes, key)).name for key in keys}


def moved(before: dict[bytes, str], after: dict[bytes, str]) -> set[bytes]:
    """Give the conversations that have another place."""
    return {key for key in before if before[key] != after[key]}


def test_the_same_everywhere() -> None:
    """Two gateways agree, whatever the order of their candidates: these places are for ever."""
    a, b, c = pool(1, 1, 1)
    assert places([a, b, c]) == places([c, a, b])
    assert "".join(places([a, b, c], KEYS[:12]).values()) == "caabbcabacbc"


def test_stays_with_load() -> None:
    """As long as its backend is not full, a conversation does not care what the others have."""
    a, b = pool(1, 1)
    key = next(key for key, name in places([a, b]).items() if name == "a")
    a.in_flight, b.in_flight = 10, 9
    assert SessionAffinity().choose([a, b], 0.0, lambda: key) is a


def test_spills_when_full() -> None:
    """With half again its share of what is in flight a backend takes no more."""
    a, b = pool(1, 1)
    key = next(key for key, name in places([a, b]).items() if name == "a")
    a.in_flight = 30  # of 31 each may have 24
    assert SessionAffinity().choose([a, b], 0.0, lambda: key) is b
    a.in_flight, b.in_flight = 22, 8
    assert SessionAffinity().choose([a, b], 0.0, lambda: key) is a


@given(weights=st.lists(st.integers(1, 5), min_size=2, max_size=6), gone=st.integers(0, 5))
def test_who_goes_moves_only_its_own(weights: list[int], gone: int) -> None:
    """When a backend goes, exactly its own conversations move; when it is back, so do they."""
    everybody = pool(*weights)
    left = everybody[gone % len(everybody)]
    others = [one for one in everybody if one is not left]
    before, after = places(everybody, KEYS[:200]), places(others, KEYS[:200])
    assert moved(before, after) == {key for key, name in before.items() if name == left.name}


def test_about_one_in_n_moves() -> None:
    """Of n equal backends each has a share of 1/n, within five standard deviations."""
    for count in (2, 3, 5, 10):
        had = Counter(places(pool(*[1] * count)).values())
        expected = len(KEYS) / count
        slack = 5 * (expected * (1 - 1 / count)) ** 0.5
        assert len(had) == count
        assert all(abs(number - expected) <= slack for number in had.values()), had


def test_weights_are_shares() -> None:
    """Three times the weight, three times the conversations; more weight takes from all others."""
    even, drawn = places(pool(1, 1, 1)), places(pool(3, 1, 1))
    assert abs(Counter(drawn.values())["a"] - 1200) < 110
    assert {drawn[key] for key in moved(even, drawn)} == {"a"}


def test_slow_start_keeps_the_places() -> None:
    """A backend that starts slowly is full sooner, but nobody's place is another for it."""
    a, b = pool(1, 1)
    before = places([a, b])
    a.weight = 0.1
    assert moved(before, places([a, b])) == set()
    a.in_flight, b.in_flight = 1, 3  # of 5 it may have 1
    key = next(key for key, name in before.items() if name == "a")
    assert SessionAffinity().choose([a, b], 0.0, lambda: key) is b


@given(
    candidates=st.lists(st.tuples(st.floats(0.1, 9), st.integers(0, 50)), min_size=2, max_size=6),
    key=st.binary(max_size=20),
)
def test_bounded_load(candidates: list[tuple[float, int]], key: bytes) -> None:
    """Whoever is chosen then has at most its share, rounded up, times the factor."""
    offered = [Candidate(f"b{i}", weight, load) for i, (weight, load) in enumerate(candidates)]
    chosen = SessionAffinity().choose(offered, 0.0, lambda: key)
    total = sum(one.in_flight for one in offered) + 1
    share = total * chosen.weight / sum(one.weight for one in offered)
    assert chosen.in_flight + 1 <= ceil(LOAD_FACTOR * share * (1 + 1e-9))


def test_one_popular_conversation_is_spread() -> None:
    """All requests of one conversation, none of which ends: nobody has more than the bound."""
    candidates = pool(1, 1, 1, 1)
    for number in range(1, 200):
        chosen = SessionAffinity().choose(candidates, 0.0, lambda: b"popular")
        assert isinstance(chosen, Candidate)
        chosen.in_flight += 1
        assert max(one.in_flight for one in candidates) <= ceil(LOAD_FACTOR * number / 4)
