"""The strategies by the names that the configuration gives them.

It knows which there are, and nothing of how they choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from llmproxy.balancing.latency_based import LatencyBased
from llmproxy.balancing.least_connections import LeastConnections
from llmproxy.balancing.round_robin import RoundRobin
from llmproxy.balancing.session_affinity import SessionAffinity
from llmproxy.balancing.weighted import Weighted
from llmproxy.interfaces import IStrategy

_MAKERS: Mapping[str, Callable[[Random], IStrategy]] = {
    "round_robin": lambda _: RoundRobin(),
    "weighted": lambda _: Weighted(),
    "least_connections": LeastConnections,
    "latency_based": LatencyBased,
    "session_affinity": lambda _: SessionAffinity(),
}


def make_strategy(name: str, random: Random) -> IStrategy:
    """Make the strategy of that name, with no past.

    Args:
        name: ``routing.load_balance``.
        random: For those that leave something to chance.

    Raises:
        ValueError: There is none of that name.
    """
    make = _MAKERS.get(name)
    if make is None:
        raise ValueError(f"strategy {name!r}: wanted one of {', '.join(_MAKERS)}")
    return make(random)
