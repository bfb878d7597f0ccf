"""The directory of backends: who there is, in which state, and who may take a request.

One object owns the state of all backends: requests in flight, health, breakers, what each lists.
Health checks and model lists report to it; the data path asks it. It sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from llmproxy.backends.lease import Lease
from llmproxy.backends.membership import Membership
from llmproxy.backends.models import (
    ConfiguredModels,
    ListedModel,
    fallbacks,
    is_literal,
    matches_any,
)
from llmproxy.backends.pool import choosable, leads_to, pool_of, rested
from llmproxy.backends.queue import BackendQueue
from llmproxy.backends.state import BackendState, Health
from llmproxy.errors import BackendsFull, ModelNotAllowed, ModelNotFound, NoBackend
from llmproxy.interfaces import (
    IBackendActivity,
    IBackendControl,
    IBackendLease,
    IBackendStatuses,
    IHealthSink,
    IModelCatalog,
    IRouter,
)
from llmproxy.values import Backend, BackendStatus, ModelCard, ModelRoute, Principal
from llmproxy.vitals.breaker import Breaker
from llmproxy.vitals.slow_start import SlowStart

_MAX_ROUTES = 1000
_LONGEST_NAME = 256
"""Names longer than this are not kept: a client may ask for one as long as a body."""
_HEALTH: dict[str, Health] = {"up": "up", "down": "down", "loading": "loading"}


@implementer(
    IRouter, IModelCatalog, IBackendStatuses, IBackendControl, IBackendActivity, IHealthSink
)
class BackendDirectory:
    """All backends of one configuration, with their state.

    Args:
        members: What the configuration says of them.
        clock: Of breakers, slow starts and latencies.
        queue: Where requests wait for backends that are full.
        created: The time that model cards show, seconds since the epoch.
    """

    def __init__(
        self, members: Membership, *, clock: IReactorTime, queue: BackendQueue, created: int = 0
    ) -> None:
        self._states: dict[str, BackendState] = {}
        self._clock = clock
        self._queue = queue
        queue.opens_s = self._opens_s
        self._created = created
        # What `route` found, until a backend lists other models: clients ask for few names.
        self._routes: dict[str, ModelRoute] = {}
        self._put(members)

    def replace(self, members: Membership) -> None:
        """Go on with another configuration.

        The state of a backend is that of the backend with the same URL before; where several have
        that URL, that of the one with the same name as well, if there is one. What is new starts
        slowly. What is gone is given no further requests. Those that wait go on waiting, for where
        their models lead now, unless there is room, or nobody left to wait for.
        """
        before = set(self._states.values())
        self._put(members)
        now_s = self._clock.seconds()
        for state in self._states.values():
            if state not in before:
                state.start_slowly(now_s)
        self._look()

    def _put(self, members: Membership) -> None:
        breaker, slow_start_s = members.breaker, members.slow_start_s
        identities = [identity for identity, _ in members.backends]
        kept = _kept(list(self._states.values()), identities)
        self._capped = any(identity.max_concurrent for identity in identities)
        self._states = {}
        for identity, client in members.backends:
            state = kept.get(identity.name)
            if state is None:
                state = BackendState(identity, client, Breaker(breaker), SlowStart(slow_start_s))
            else:
                state.become(identity, client, breaker, slow_start_s)
            state.on_room = self._look if self._capped else None
            self._states[identity.name] = state
        self._strategy = members.strategy
        self._max_ejected_percent = members.max_ejected_percent
        self._fallback = tuple(members.fallback)
        self._models = ConfiguredModels(members.models, self._created, members.fallback)
        self._routes.clear()

    def __repr__(self) -> str:
        states = ", ".join(
            f"{state.name}: {state.health}, {state.in_flight} in flight"
            for state in self._states.values()
        )
        return f"<BackendDirectory {states}>"

    @property
    def waiting(self) -> int:
        """How many requests wait for room at a backend."""
        return self._queue.waiting

    # IRouter

    def route(self, model: str, principal: Principal) -> ModelRoute:
        """Resolve the name that a client asked for; see `IRouter`.

        Health plays no role: a model whose backends are all down exists all the same.
        """
        route = self._routes.get(model)
        if route is None:
            route = self._resolve(model)
        if route is None:
            raise ModelNotFound(param="model")
        if not _may_use(principal, route.model_id):
            raise ModelNotAllowed(param="model")
        return route

    def _resolve(self, model: str) -> ModelRoute | None:
        if self._models:
            return self._models.resolve(model)
        if not any(state.serves(model) for state in self._states.values()):
            return None
        route = ModelRoute(
            model_id=model, upstream_model=model, fallback=fallbacks(model, self._fallback)
        )
        if len(self._routes) < _MAX_ROUTES and len(model) <= _LONGEST_NAME:
            self._routes[model] = route
        return route

    def acquire(
        self, route: ModelRoute, tried: frozenset[str], affinity: Callable[[], bytes]
    ) -> IBackendLease:
        """Choose a backend that can take the request now, and count it; see `IRouter`."""
        now_s = self._clock.seconds()
        pool = pool_of(route, self._states.values())
        candidates = rested(choosable(pool, self._max_ejected_percent, now_s), now_s)
        if tried:
            candidates = [state for state in candidates if state.name not in tried]
        if not candidates:
            raise NoBackend
        if self._capped:
            candidates = [state for state in candidates if state.has_room]
            if not candidates:
                raise BackendsFull
        # Also when there is but one: whoever counts turns must know of all of them.
        chosen = self._strategy.choose(candidates, now_s, affinity)
        return Lease(cast(BackendState, chosen), route, self._clock, now_s)

    def wait(
        self,
        model_id: str,
        principal: Principal,
        tried: frozenset[str],
        tried_for_s: float,
        affinity: Callable[[], bytes],
        cost: float,
    ) -> Deferred[IBackendLease]:
        """Wait until a backend has room; see `IRouter`."""

        def take(tried: frozenset[str]) -> IBackendLease | None:
            try:
                return self.acquire(self.route(model_id, principal), tried, affinity)
            except BackendsFull:
                return None

        return self._queue.wait(
            model_id, principal.key_id, cost, take, tried=tried, tried_for_s=tried_for_s
        )

    def _opens_s(self) -> float:
        """Say when time alone may make room."""
        now_s = self._clock.seconds()
        return min((state.opens_s(now_s) for state in self._states.values()), default=inf)

    def _look(self) -> None:
        """There may be room for those that wait, or nobody left to wait for."""
        if self._queue.waiting:
            self._queue.look()

    # IModelCatalog

    def cards(self, principal: Principal) -> Sequence[ModelCard]:
        """List the models that the principal may use; see `IModelCatalog`.

        Configured models in the file's order; else what the backends list or are configured to
        serve by plain names, in the order in which they appear there. A context window that is not
        configured is the smallest that a backend gives for the model.
        """
        if self._models:
            cards = [
                attrs.evolve(card, context=self._listed_context(route))
                if card.context is None
                else card
                for card, route in self._models.cards()
            ]
        else:
            cards = [
                ModelCard(
                    id=name,
                    created=self._created,
                    context=self._listed_context(ModelRoute(model_id=name, upstream_model=name)),
                )
                for name in self._served_names()
            ]
        return [card for card in cards if _may_use(principal, card.id)]

    def _served_names(self) -> Sequence[str]:
        names: dict[str, None] = {}
        for state in self._states.values():
            globs = state.identity.models
            names.update(dict.fromkeys(filter(is_literal, globs) if globs else state.listed or ()))
        return list(names)

    def _listed_context(self, route: ModelRoute) -> int | None:
        """Give the smallest context that a backend of the route gives for its model."""
        contexts = [
            listed.context
            for state in self._states.values()
            if state.listed is not None
            and leads_to(route, state)
            and (listed := state.listed.get(route.upstream_model)) is not None
            and listed.context is not None
        ]
        return min(contexts, default=None)

    # IBackendStatuses

    def statuses(self) -> Sequence[BackendStatus]:
        """List the backends' states in the order of the configuration."""
        now_s = self._clock.seconds()
        ejected: set[str] = set()
        if not all(state.settled for state in self._states.values()):
            for route in self._known_routes():
                pool = pool_of(route, self._states.values())
                left = {one.name for one in choosable(pool, self._max_ejected_percent, now_s)}
                ejected.update(one.name for one in pool if one.name not in left)
        return [
            state.status(now_s, ejected=state.name in ejected) for state in self._states.values()
        ]

    def _known_routes(self) -> Iterable[ModelRoute]:
        """Give the routes of the models that clients see, or asked for."""
        if self._models:
            return [route for _, route in self._models.cards()]
        names = {**dict.fromkeys(self._served_names()), **self._routes}
        return [ModelRoute(model_id=name, upstream_model=name) for name in names]

    # IBackendControl

    def drain(self, name: str) -> None:
        """Give a backend no further requests; see `IBackendControl`."""
        self._states[name].drained = True
        self._look()

    def enable(self, name: str) -> None:
        """Undo `drain`; see `IBackendControl`."""
        state = self._states[name]
        if state.drained:
            state.drained = False
            state.start_slowly(self._clock.seconds())
        self._look()

    # IBackendActivity

    def last_piece_s(self, name: str) -> float:
        """Say when the last piece of an answer of a backend came; see `IBackendActivity`."""
        return self._states[name].last_piece_s()

    def known_health(self) -> dict[str, tuple[Health, str]]:
        """Give the health of each backend, and the reason for it, whatever administrators do."""
        return {state.name: (state.health, state.reason) for state in self._states.values()}

    # IHealthSink, and the model lists' own door

    def set_health(self, name: str, state: str, reason: str) -> None:
        """Set a backend's health; see `IHealthSink`.

        Raises:
            KeyError: There is no such backend, or no such state.
        """
        self._states[name].set_health(_HEALTH[state], reason, self._clock.seconds())
        self._look()

    def set_listed(self, name: str, listed: Sequence[ListedModel]) -> None:
        """Set what a backend's own list says.

        Raises:
            KeyError: There is no such backend.
        """
        models: dict[str, ListedModel] = {}
        for model in listed:
            models.setdefault(model.id, model)
        self._states[name].listed = models
        self._routes.clear()
        self._look()


def _kept(before: list[BackendState], identities: Sequence[Backend]) -> dict[str, BackendState]:
    """Give the states that live on, by the names that they have from now on."""
    kept: dict[str, BackendState] = {}
    for same_name in (True, False):
        for identity in identities:
            for state in before:
                if (
                    identity.name not in kept
                    and state.identity.url == identity.url
                    and (state.name == identity.name or not same_name)
                ):
                    kept[identity.name] = state
                    before.remove(state)
                    break
    return kept


def _may_use(principal: Principal, model_id: str) -> bool:
    globs_of = principal.allowed_models
    return not globs_of or all(matches_any(model_id, globs) for globs in globs_of)
