"""The metrics, for Prometheus: text or OpenMetrics, as it asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed

from llmproxy.interfaces import IClientRequest
from llmproxy.resources.base import EdgeResource, Identify
from llmproxy.values import ANONYMOUS, Principal

if TYPE_CHECKING:
    from llmproxy.site import EdgeRequest

Scrape = Callable[[str], "Deferred[tuple[str, bytes]]"]


def _anybody(request: IClientRequest) -> Deferred[Principal]:
    del request
    return succeed(ANONYMOUS)


class MetricsResource(EdgeResource):
    """Serves the metrics.

    Args:
        scrape: Gives the content type and the text for what a request accepts.
        identify: Says who asks; None: everybody may.
    """

    methods = (b"GET", b"HEAD")

    def __init__(self, scrape: Scrape, identify: Identify | None = None) -> None:
        super().__init__(identify or _anybody)
        self._scrape = scrape

    async def answer(self, request: EdgeRequest, principal: Principal) -> None:
        """Answer with all of them."""
        del principal
        content_type, text = await self._scrape(request.header(b"accept").decode("latin-1"))
        request.begin(
            200,
            b"",
            (
                (b"Content-Type", content_type.encode("ascii")),
                (b"Content-Length", b"%d" % len(text)),
                (b"Cache-Control", b"no-store"),
            ),
        )
        request.write(text)
        request.finish()
