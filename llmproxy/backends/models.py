"""The names of models: globs, the configured models, and what backends list.

Pure. It knows nothing of which backend is up, and nothing of requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import attrs

from llmproxy.config.model import Model
from llmproxy.values import ModelCard, ModelRoute


@attrs.frozen
class ListedModel:
    """One model as a backend's own ``/v1/models`` lists it.

    Attributes:
        id: The name that requests to that backend use.
        context: Its context window in tokens; None when the backend does not say.
    """

    id: str
    context: int | None = None


def matches_any(name: str, globs: Sequence[str]) -> bool:
    """Say whether a model's name matches one of the globs (``*``, ``?``, ``[...]``; case counts).

    A glob always matches the very same name, also when that name has a bracket in it.
    """
    return name in globs or any(fnmatchcase(name, glob) for glob in globs)


def is_literal(glob: str) -> bool:
    """Say whether a glob is just a name."""
    return not any(sign in glob for sign in "*?[")


def fallbacks(model_id: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Give the models to try for another: each once, and never that one itself."""
    return tuple(name for name in dict.fromkeys(wanted) if name != model_id)


class ConfiguredModels:
    """The section ``models``: the names that clients use, and where each leads.

    Args:
        models: The section; an id stands before an alias of the same name, an earlier alias before
            a later one.
        created: What the cards give as their time, seconds since the epoch.
        fallback: Tried for every model, after its own.
    """

    def __init__(self, models: Sequence[Model], created: int, fallback: Sequence[str] = ()) -> None:
        self._routes: dict[str, ModelRoute] = {}
        self._cards: list[tuple[ModelCard, ModelRoute]] = []
        for model in models:
            route = ModelRoute(
                model_id=model.id,
                upstream_model=model.upstream_model or model.id,
                backends=frozenset(model.backends) if model.backends else None,
                first_byte_timeout_s=model.first_byte_timeout,
                context=model.context,
                output=model.output,
                fallback=fallbacks(model.id, (*model.fallback, *fallback)),
            )
            self._routes.setdefault(model.id, route)
            card = ModelCard(
                id=model.id,
                created=created,
                name=model.name or model.id,
                description=model.description,
                context=model.context,
                output=model.output,
                images=model.images,
                reasoning=model.reasoning,
            )
            self._cards.append((card, route))
        for model in models:
            for alias in model.aliases:
                self._routes.setdefault(alias, self._routes[model.id])

    def __len__(self) -> int:
        return len(self._cards)

    def __repr__(self) -> str:
        return f"<ConfiguredModels {[card.id for card, _ in self._cards]}>"

    def resolve(self, name: str) -> ModelRoute | None:
        """Give the route of an id or alias; None when there is no such model."""
        return self._routes.get(name)

    def cards(self) -> Sequence[tuple[ModelCard, ModelRoute]]:
        """List the models in the file's order, each with its route."""
        return self._cards
