"""The directory of backends: who there is, in which state, and who may take a request.

One object owns the state of all backends: requests in flight, health, what each lists. Health
checks and model lists report to it; the data path asks it. It sends nothing and has no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import attrs
from zope.interface import implementer

from llmproxy.backends.models import ConfiguredModels, ListedModel, is_literal, matches_any
from llmproxy.config.model import Model
from llmproxy.errors import ModelNotAllowed, ModelNotFound, NoBackend
from llmproxy.interfaces import (
    IBackendControl,
    IBackendLease,
    IBackendStatuses,
    ICandidate,
    IHealthSink,
    IModelCatalog,
    IRouter,
    IStrategy,
    IUpstreamClient,
)
from llmproxy.values import Backend, BackendStatus, ModelCard, ModelRoute, Principal

Health = Literal["up", "down", "loading"]
_MAX_ROUTES = 1000
_LONGEST_NAME = 256
"""Names longer than this are not kept: a client may ask for one as long as a body."""
_HEALTH: dict[str, Health] = {"up": "up", "down": "down", "loading": "loading"}


class LeaseReleasedTwice(AssertionError):
    """A lease was given back a second time: a bug of ours, in whoever held it."""


@implementer(ICandidate)
@attrs.define(eq=False)
class BackendState:
    """What changes about one backend, beside its identity, which does not.

    Attributes:
        identity: What its configuration says.
        client: The client that reaches it.
        in_flight: Leases that are out.
        health: What the health checks say; up until they say otherwise.
        reason: What the last failed check said; empty when it is up.
        drained: Whether an administrator keeps new requests away from it.
        listed: What its own list says; None while that is not known.
        name: Its identity's name, where strategies look for it.
        weight: Likewise.
    """

    identity: Backend
    client: IUpstreamClient = attrs.field(repr=False)
    in_flight: int = 0
    health: Health = "up"
    reason: str = ""
    drained: bool = False
    listed: dict[str, ListedModel] | None = attrs.field(default=None, repr=False)
    name: str = attrs.field(init=False, repr=False)
    weight: int = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.name = self.identity.name
        self.weight = self.identity.weight

    def serves(self, model: str) -> bool:
        """Say whether it takes requests for a model, be it up or not.

        Its globs decide when it has any, else its own list; while that is not known it takes any.
        """
        globs = self.identity.models
        if globs:
            return matches_any(model, globs)
        return self.listed is None or model in self.listed


@implementer(IBackendLease)
class _Lease:
    """One request's place at one backend."""

    __slots__ = ("_released", "_state", "backend", "client")

    def __init__(self, state: BackendState) -> None:
        self.backend = state.identity
        self.client = state.client
        self._state = state
        self._released = False
        state.in_flight += 1

    def __repr__(self) -> str:
        return f"<lease of {self.backend.name}{' (released)' if self._released else ''}>"

    def release(self) -> None:
        if self._released:
            raise LeaseReleasedTwice(f"the lease of {self.backend.name!r} was already released")
        self._released = True
        self._state.in_flight -= 1


@implementer(IRouter, IModelCatalog, IBackendStatuses, IBackendControl, IHealthSink)
class BackendDirectory:
    """All backends of one configuration, with their state.

    Args:
        backends: Each with its client, in the configuration's order; names are unique.
        strategy: Chooses among those that could take a request.
        models: The section ``models``; empty: clients see what the backends serve.
        created: The time that model cards show, seconds since the epoch.
    """

    def __init__(
        self,
        backends: Sequence[tuple[Backend, IUpstreamClient]],
        strategy: IStrategy,
        *,
        models: Sequence[Model] = (),
        created: int = 0,
    ) -> None:
        self._states = {
            identity.name: BackendState(identity, client) for identity, client in backends
        }
        self._strategy = strategy
        self._models = ConfiguredModels(models, created)
        self._created = created
        # What `route` found, until a backend lists other models: clients ask for few names.
        self._routes: dict[str, ModelRoute] = {}

    def __repr__(self) -> str:
        states = ", ".join(
            f"{state.name}: {state.health}, {state.in_flight} in flight"
            for state in self._states.values()
        )
        return f"<BackendDirectory {states}>"

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
        route = ModelRoute(model_id=model, upstream_model=model)
        if len(self._routes) < _MAX_ROUTES and len(model) <= _LONGEST_NAME:
            self._routes[model] = route
        return route

    def acquire(self, route: ModelRoute, tried: frozenset[str]) -> IBackendLease:
        """Choose a backend that can take the request now, and count it; see `IRouter`."""
        candidates = [
            state
            for state in self._states.values()
            if state.health == "up"
            and not state.drained
            and state.name not in tried
            and _leads_to(route, state)
        ]
        if not candidates:
            raise NoBackend
        if len(candidates) == 1:
            return _Lease(candidates[0])
        return _Lease(cast(BackendState, self._strategy.choose(candidates)))

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
            and _leads_to(route, state)
            and (listed := state.listed.get(route.upstream_model)) is not None
            and listed.context is not None
        ]
        return min(contexts, default=None)

    # IBackendStatuses

    def statuses(self) -> Sequence[BackendStatus]:
        """List the backends' states in the order of the configuration."""
        return [
            BackendStatus(
                name=state.name,
                state="drained" if state.drained else state.health,
                in_flight=state.in_flight,
                reason=state.reason,
            )
            for state in self._states.values()
        ]

    # IBackendControl

    def drain(self, name: str) -> None:
        """Give a backend no further requests; see `IBackendControl`."""
        self._states[name].drained = True

    def enable(self, name: str) -> None:
        """Undo `drain`; see `IBackendControl`."""
        self._states[name].drained = False

    # IHealthSink, and the model lists' own door

    def set_health(self, name: str, state: str, reason: str) -> None:
        """Set a backend's health; see `IHealthSink`.

        Raises:
            KeyError: There is no such backend, or no such state.
        """
        backend = self._states[name]
        backend.health = _HEALTH[state]
        backend.reason = "" if state == "up" else reason

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


def _leads_to(route: ModelRoute, state: BackendState) -> bool:
    """Say whether a route may use a backend; named backends are taken at the operator's word."""
    if route.backends is not None:
        return state.name in route.backends
    return state.serves(route.upstream_model)


def _may_use(principal: Principal, model_id: str) -> bool:
    return all(matches_any(model_id, globs) for globs in principal.allowed_models)
