"""A conversation stays where its prefix is cached.

It knows names, weights and requests in flight, and keeps nothing between two choices: the same
conversation has the same place on every gateway of the same configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import ceil, log
from typing import Final

from zope.interface import implementer

from llmproxy.interfaces import ICandidate, IStrategy

LOAD_FACTOR: Final = 1.5
"""How much more than its share of what is in flight a backend may have."""


@implementer(IStrategy)
class SessionAffinity:
    """Weighted rendezvous hashing with bounded load.

    Every conversation has an order of all backends: by a hash of both, drawn out by the weight. It
    goes to the first of them that is there and not full. When a backend goes, its own conversations
    go each to their next, and no other moves; when one comes, it takes some from all, and none
    moves between two others. A backend is full when it has `LOAD_FACTOR` times its share of what is
    in flight, so no popular conversation can drown it; while it starts slowly its share is small,
    but its place in the orders is not.

    Source: D. Thaler, C. Ravishankar, "Using name-based mappings to increase hit rates", 1998;
    V. Mirrokni and others, "Consistent Hashing with Bounded Loads", 2016.
    """

    def __repr__(self) -> str:
        return "<SessionAffinity>"

    def choose(
        self, candidates: Sequence[ICandidate], now_s: float, affinity: Callable[[], bytes]
    ) -> ICandidate:
        """Choose one of at least one candidate."""
        del now_s
        if len(candidates) == 1:
            return candidates[0]
        key = affinity()
        in_flight = weight = 0.0
        for candidate in candidates:
            in_flight += candidate.in_flight
            weight += candidate.weight
        allowed = LOAD_FACTOR * (in_flight + 1) / weight
        # Not all can be full: together they may have more than there is.
        return max(
            (one for one in candidates if one.in_flight < ceil(allowed * one.weight)),
            key=lambda one: _score(key, one),
        )


def _score(key: bytes, candidate: ICandidate) -> float:
    """Say how much a conversation wants a backend; likelier to be the most with more weight."""
    digest = blake2b(candidate.name.encode("utf-8") + b"\0" + key, digest_size=8).digest()
    # A number between 0 and 1, neither of them; its negative logarithm is distributed as the time
    # until the first of the events that come at a rate of 1, so the greatest quotient is the
    # candidate's with a chance that goes by its weight.
    chance = ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52
    return candidate.full_weight / -log(chance)
