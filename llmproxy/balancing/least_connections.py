"""Whoever has the least to do.

It knows weights and requests in flight, and keeps nothing between two choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from zope.interface import implementer

from llmproxy.interfaces import ICandidate, IStrategy


@implementer(IStrategy)
class LeastConnections:
    """Chooses the candidate with the fewest requests in flight for its weight.

    Ties are broken at random, so that several gateways do not all favour the first backend of their
    file, and by weight, so that weights count also when nothing is in flight.

    Args:
        random: Breaks ties.
    """

    def __init__(self, random: Random) -> None:
        self._random = random

    def __repr__(self) -> str:
        return "<LeastConnections>"

    def choose(
        self, candidates: Sequence[ICandidate], now_s: float, affinity: Callable[[], bytes]
    ) -> ICandidate:
        """Choose one of at least one candidate."""
        del now_s, affinity
        if len(candidates) == 1:
            return candidates[0]
        # Equal fractions are equal floats: division is correctly rounded.
        loads = [candidate.in_flight / candidate.weight for candidate in candidates]
        least = min(loads)
        tied = [
            candidate for candidate, load in zip(candidates, loads, strict=True) if load == least
        ]
        if len(tied) == 1:
            return tied[0]
        return self._random.choices(tied, [candidate.weight for candidate in tied])[0]
