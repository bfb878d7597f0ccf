"""Each in its turn.

It knows names and turns, and nothing of load or weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zope.interface import implementer

from llmproxy.interfaces import ICandidate, IStrategy


@implementer(IStrategy)
class RoundRobin:
    """Chooses the candidate whose last turn is longest ago.

    With the same candidates every time that is the plain circle. A counter into the list would jump
    whenever a candidate comes or goes; turns kept by name do not: the others keep their order, and
    who is new or back is next.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._last_turn: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<RoundRobin turn={self._turn}>"

    def choose(
        self, candidates: Sequence[ICandidate], now_s: float, affinity: Callable[[], bytes]
    ) -> ICandidate:
        """Choose one of at least one candidate."""
        del now_s, affinity
        last_turn = self._last_turn
        chosen = min(candidates, key=lambda candidate: last_turn.get(candidate.name, 0))
        self._turn += 1
        last_turn[chosen.name] = self._turn
        return chosen
