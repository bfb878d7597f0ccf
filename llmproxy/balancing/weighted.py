"""Each as often as its weight says, and well mixed.

It knows names and weights, and nothing of load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zope.interface import implementer

from llmproxy.interfaces import ICandidate, IStrategy


@implementer(IStrategy)
class Weighted:
    """nginx's smooth weighted round robin.

    At each choice every candidate earns its weight, the richest is chosen and pays what all earned
    together. Weights 5, 1, 1 give a a b a c a a, not a a a a a b c, and over as many choices as the
    weights' sum the shares are exact; whole numbers stay exact in floats. What a candidate owns
    is kept by name while it is away, so that one that comes and goes neither gains nor loses by it.

    Source: nginx, ``ngx_http_upstream_get_peer``, since 1.3.1.
    """

    def __init__(self) -> None:
        self._owned: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Weighted owned={self._owned}>"

    def choose(
        self, candidates: Sequence[ICandidate], now_s: float, affinity: Callable[[], bytes]
    ) -> ICandidate:
        """Choose one of at least one candidate; of equally rich ones the first."""
        del now_s, affinity
        owned = self._owned
        total = 0.0
        for candidate in candidates:
            total += candidate.weight
            owned[candidate.name] = owned.get(candidate.name, 0) + candidate.weight
        chosen = max(candidates, key=lambda candidate: owned[candidate.name])
        owned[chosen.name] -= total
        return chosen
