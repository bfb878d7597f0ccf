"""``/v1/models`` and ``/v1/models/ID``: the models that a key may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from twisted.web.resource import Resource

from llmproxy.errors import ModelNotFound
from llmproxy.interfaces import IModelCatalog
from llmproxy.resources.base import EdgeResource, Identify, answer_json
from llmproxy.values import ModelCard, Principal

if TYPE_CHECKING:
    from llmproxy.site import EdgeRequest


class ModelsResource(EdgeResource):
    """The list of models, or one of it.

    Args:
        identify: Says who asks.
        catalog: Knows the models.
        wanted: The id of the one model asked for; None: all.
    """

    methods = (b"GET", b"HEAD")

    def __init__(
        self, identify: Identify, catalog: IModelCatalog, wanted: str | None = None
    ) -> None:
        super().__init__(identify)
        self._known = identify
        self._catalog = catalog
        self._wanted = wanted
        self.isLeaf = wanted is not None

    def getChild(self, path: bytes, request: Any) -> Resource:
        """Give the resource of one model; ids may hold slashes."""
        name = b"/".join((path, *request.postpath))
        if not name:
            return super().getChild(path, request)
        wanted = unquote(name.decode("latin-1"), errors="replace")
        return ModelsResource(self._known, self._catalog, wanted)

    def answer(self, request: EdgeRequest, principal: Principal) -> None:
        """Answer with what the principal may use."""
        cards = self._catalog.cards(principal)
        if self._wanted is None:
            answer_json(request, 200, {"object": "list", "data": list(map(_shown, cards))})
            return
        for card in cards:
            if card.id == self._wanted:
                answer_json(request, 200, _shown(card))
                return
        raise ModelNotFound


def _shown(card: ModelCard) -> dict[str, object]:
    shown: dict[str, object] = {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": "llmproxy",
    }
    if card.name:
        shown["name"] = card.name
    if card.description:
        shown["description"] = card.description
    if card.context is not None:
        shown["max_model_len"] = card.context
    if card.output is not None:
        shown["max_output_tokens"] = card.output
    if card.images:
        shown["input_modalities"] = ["text", "image"]
    if card.reasoning:
        shown["reasoning"] = True
    return shown
