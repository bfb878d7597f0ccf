"""Whoever begins its answers sooner, of two that chance picks.

It knows latencies, weights and requests in flight, and keeps nothing between two choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from zope.interface import implementer

from llmproxy.interfaces import ICandidate, IStrategy


@implementer(IStrategy)
class LatencyBased:
    """Power of two choices, on latency times load.

    To choose the best of all would send everything there until the news comes back that it is not
    the best any more. Of two picked at random the worse one is avoided, and the best gets no more
    than its part. What a backend costs is its latency times the requests that it would have, for
    its weight. While the latency of one of the two is not known, load alone decides: a backend that
    is new is neither flooded nor avoided.

    Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.

    Args:
        random: Picks the two, and breaks ties.
    """

    def __init__(self, random: Random) -> None:
        self._random = random

    def __repr__(self) -> str:
        return "<LatencyBased>"

    def choose(
        self, candidates: Sequence[ICandidate], now_s: float, affinity: Callable[[], bytes]
    ) -> ICandidate:
        """Choose one of at least one candidate."""
        del affinity
        if len(candidates) == 1:
            return candidates[0]
        # In either order, so that a tie is left to chance as well.
        first, second = self._random.sample(candidates, 2)
        first_cost = (first.in_flight + 1) / first.weight
        second_cost = (second.in_flight + 1) / second.weight
        first_s, second_s = first.latency_s(now_s), second.latency_s(now_s)
        if first_s is not None and second_s is not None:
            first_cost *= first_s
            second_cost *= second_s
        return first if first_cost <= second_cost else second
