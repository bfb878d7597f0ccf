"""Candidates to choose among, and a way to count who is chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import attrs
from zope.interface import implementer

from llmproxy.interfaces import ICandidate, IStrategy


@implementer(ICandidate)
@attrs.define(eq=False)
class Candidate:
    """A backend, as far as strategies know it."""

    name: str
    weight: int = 1
    in_flight: int = 0


def pool(*weights: int) -> list[Candidate]:
    """Make idle candidates a, b, c, ... of these weights."""
    return [Candidate("abcdefghij"[i], weight) for i, weight in enumerate(weights)]


def choose(strategy: IStrategy, candidates: Sequence[Candidate], times: int) -> list[str]:
    """Choose so many times, each request staying in flight; give the names."""
    names = []
    for _ in range(times):
        chosen = strategy.choose(candidates)
        assert isinstance(chosen, Candidate)
        chosen.in_flight += 1
        names.append(chosen.name)
    return names


def shares(strategy: IStrategy, candidates: Sequence[Candidate], times: int) -> dict[str, int]:
    """Choose so many times, and count."""
    return dict(Counter(choose(strategy, candidates, times)))
