"""``/.well-known/opencode``: what OpenCode asks before it knows a key, and what it asks with one.

Nothing of a request flows into an answer, its ``Host`` least of all: clients run what stands there,
and send their keys to where it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmproxy.interfaces import IModelCatalog
from llmproxy.resources.base import EdgeResource, Identify, answer_json
from llmproxy.values import Principal
from llmproxy.wire.opencode import OpenCodeProvider

if TYPE_CHECKING:
    from llmproxy.site import EdgeRequest


class WellKnownResource(EdgeResource):
    """How to log in, and where to ask after that; for everybody.

    Args:
        provider: The gateway.
    """

    methods = (b"GET", b"HEAD")

    def __init__(self, provider: OpenCodeProvider) -> None:
        super().__init__()
        self._told = provider.well_known()

    def answer(self, request: EdgeRequest, principal: Principal) -> None:
        """Answer everybody the same."""
        del principal
        answer_json(request, 200, self._told)


class ConfigResource(EdgeResource):
    """A configuration with the models that a key may use.

    Args:
        identify: Says who asks.
        provider: The gateway.
        catalog: Knows the models.
    """

    methods = (b"GET", b"HEAD")

    def __init__(
        self, identify: Identify, provider: OpenCodeProvider, catalog: IModelCatalog
    ) -> None:
        super().__init__(identify)
        self._provider = provider
        self._catalog = catalog

    def answer(self, request: EdgeRequest, principal: Principal) -> None:
        """Answer with what the principal may use."""
        answer_json(request, 200, self._provider.config(self._catalog.cards(principal)))
