"""The relayed paths: each POST becomes an exchange."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmproxy.interfaces import IClientRequest
from llmproxy.resources.base import EdgeResource
from llmproxy.values import Principal

if TYPE_CHECKING:
    from llmproxy.site import EdgeRequest

RELAYED_PATHS = (
    b"/v1/chat/completions",
    b"/v1/completions",
    b"/v1/embeddings",
    b"/v1/responses",
    b"/v1/messages",
    b"/v1/rerank",
    b"/v1/score",
    b"/tokenize",
    b"/detokenize",
)
"""All that ever reaches a backend for a client; the list is exact."""


class ProxyResource(EdgeResource):
    """Relays what is posted to it.

    Args:
        begin: Starts an exchange.
    """

    methods = (b"POST",)
    stays = True

    def __init__(self, begin: Callable[[IClientRequest], object]) -> None:
        super().__init__()
        self._begin = begin

    def answer(self, request: EdgeRequest, principal: Principal) -> None:
        """Start the exchange; it does the rest, finding out who asks as well."""
        del principal
        request.recorded = True
        self._begin(request)
