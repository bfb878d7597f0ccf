"""Candidates to choose among, and a way to count who is chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import attrs
from zope.interface import implementer

from llmproxy.interfaces import ICandidate, IStrategy


@implementer(ICandidate)
@attrs.define(eq=False)
class Candidate:
    """A backend, as far as strategies know it; its latency does not change with the time."""

    name: str
    weight: float = 1
    in_flight: int = 0
    latency: float | None = None
    full_weight: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.full_weight = max(1, round(self.weight))

    def latency_s(self, now_s: float) -> float | None:
        """Give its latency."""
        return self.latency


def no_affinity() -> bytes:
    """Stand for a prompt that nobody may look at."""
    raise AssertionError("this strategy asked for what it does not go by")


def pool(*weights: float) -> list[Candidate]:
    """Make idle candidates a, b, c, ... of these weights."""
    return [Candidate("abcdefghij"[i], weight) for i, weight in enumerate(weights)]


def choose(strategy: IStrategy, candidates: Sequence[Candidate], times: int) -> list[str]:
    """Choose so many times, each request staying in flight; give the names.

    Each request is of a conversation of its own.
    """
    names = []
    for number in range(times):
        chosen = strategy.choose(candidates, 0.0, partial(bytes, b"%d" % number))
        assert isinstance(chosen, Candidate)
        chosen.in_flight += 1
        names.append(chosen.name)
    return names


def shares(strategy: IStrategy, candidates: Sequence[Candidate], times: int) -> dict[str, int]:
    """Choose so many times, and count."""
    return dict(Counter(choose(strategy, candidates, times)))
