"""The backends that could take a request, and those of them that may.

It knows routes, states and what breakers leave out; who of the rest gets the request is the
strategy's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llmproxy.backends.state import BackendState
from llmproxy.values import ModelRoute
from llmproxy.vitals.ejection import left_in


def leads_to(route: ModelRoute, state: BackendState) -> bool:
    """Say whether a route may use a backend; named backends are taken at the operator's word."""
    if route.backends is not None:
        return state.name in route.backends
    return state.serves(route.upstream_model)


def pool_of(route: ModelRoute, states: Iterable[BackendState]) -> Sequence[BackendState]:
    """Give those that could take a request, if it were not for their breakers."""
    return [
        state
        for state in states
        if state.health == "up" and not state.drained and leads_to(route, state)
    ]


def choosable(
    pool: Sequence[BackendState], max_ejected_percent: float, now_s: float
) -> Sequence[BackendState]:
    """Give those of a pool that breakers do not leave out, brought up to date.

    Args:
        pool: As `pool_of` gives it.
        max_ejected_percent: As in `left_in`.
        now_s: The time.
    """
    settled = True
    for state in pool:
        if not state.settled:
            state.look(now_s)
            settled = settled and state.settled
    return pool if settled else left_in(pool, max_ejected_percent, now_s)


def rested(candidates: Sequence[BackendState], now_s: float) -> Sequence[BackendState]:
    """Leave out those that asked to be left alone for now, unless all did."""
    return [state for state in candidates if state.settled or not state.rests(now_s)] or candidates
