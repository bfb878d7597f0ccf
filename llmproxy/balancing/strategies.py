"""The strategies by the names that the configuration gives them.

It knows which there are, and nothing of how they choose.
"""

from __future__ import annotations

from random import Random

from llmproxy.balancing.least_connections import LeastConnections
from llmproxy.balancing.round_robin import RoundRobin
from llmproxy.balancing.weighted import Weighted
from llmproxy.interfaces import IStrategy


def make_strategy(name: str, random: Random) -> IStrategy:
    """Make the strategy of that name, with no past.

    Args:
        name: ``routing.load_balance``.
        random: For those that leave something to chance.

    Raises:
        ValueError: There is none of that name.
    """
    if name == "round_robin":
        return RoundRobin()
    if name == "weighted":
        return Weighted()
    if name == "least_connections":
        return LeastConnections(random)
    raise ValueError(f"strategy {name!r}: wanted round_robin, weighted or least_connections")
