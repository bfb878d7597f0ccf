"""The root of the Resource tree: every path that is served, and CORS over all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from twisted.web.resource import Resource

from llmproxy.config.model import Cors
from llmproxy.interfaces import (
    IBackendStatuses,
    IClientRequest,
    ILimiter,
    IModelCatalog,
    IUsageTotals,
)
from llmproxy.resources.base import EdgeResource, Identify
from llmproxy.resources.health import HealthResource, ReadyResource
from llmproxy.resources.me import MeResource
from llmproxy.resources.models import ModelsResource
from llmproxy.resources.opencode import ConfigResource, WellKnownResource
from llmproxy.resources.proxy import RELAYED_PATHS, ProxyResource
from llmproxy.values import ConfigStatus, Principal
from llmproxy.wire.opencode import MODELS_PATH, WELL_KNOWN_PATH, OpenCodeProvider

if TYPE_CHECKING:
    from llmproxy.site import EdgeRequest


class RootResource(EdgeResource):
    """The root; OPTIONS is answered here for every path, whether browsers ask for CORS or not."""

    def __init__(self, cors: CrossOrigin) -> None:
        super().__init__()
        self._cors = cors

    def getChildWithDefault(self, path: bytes, request: Any) -> Any:
        """Answer a preflight before anything else: it carries no key."""
        if self._cors.is_preflight(request):
            return _Preflight(self._cors)
        return super().getChildWithDefault(path, request)

    def render(self, request: EdgeRequest) -> int:
        """Only ``OPTIONS *`` means the server as a whole."""
        if request.method == b"OPTIONS" and request.path == b"*":
            return _ServerOptions().render(request)
        return super().render(request)


class _ServerOptions(EdgeResource):
    """``OPTIONS *``."""

    methods = (b"GET", b"HEAD", b"POST")


class _Preflight(EdgeResource):
    """The answer to a browser's question whether a request may be made (Fetch, section 4.8)."""

    isLeaf = True
    methods = (b"OPTIONS",)

    def __init__(self, cors: CrossOrigin) -> None:
        super().__init__()
        self._cors = cors

    def answer(self, request: EdgeRequest, principal: Principal) -> None:
        """Answer 204; the fields of `CrossOrigin.fields_for` come with `begin`."""
        del principal
        request.begin(204, b"", self._cors.preflight_fields)
        request.finish()


class CrossOrigin:
    """``server.cors`` as fields of answers.

    Args:
        settings: The configuration.
    """

    def __init__(self, settings: Cors) -> None:
        self._enabled = settings.enabled
        self._any = "*" in settings.allowed_origins
        self._origins = frozenset(origin.encode() for origin in settings.allowed_origins)
        self._credentials = settings.allow_credentials
        self._exposed = ", ".join(settings.expose_headers).encode()
        self.preflight_fields = (
            (b"Access-Control-Allow-Methods", ", ".join(settings.allowed_methods).encode()),
            (b"Access-Control-Allow-Headers", ", ".join(settings.allowed_headers).encode()),
            (b"Access-Control-Max-Age", b"%d" % settings.max_age),
        )

    @property
    def enabled(self) -> bool:
        """Whether there is anything to do."""
        return self._enabled

    def is_preflight(self, request: EdgeRequest) -> bool:
        """Say whether a request is a preflight that is to be answered."""
        return (
            self._enabled
            and request.method == b"OPTIONS"
            and bool(request.header(b"access-control-request-method"))
            and self._allows(request.header(b"origin"))
        )

    def _allows(self, origin: bytes) -> bool:
        return bool(origin) and (self._any or origin in self._origins)

    def fields_for(self, request: EdgeRequest) -> Sequence[tuple[bytes, bytes]]:
        """Give the fields that let a browser's script read an answer."""
        if not self._enabled:
            return ()
        fields = [] if self._any else [(b"Vary", b"Origin")]
        origin = request.header(b"origin")
        if self._allows(origin):
            fields.append((b"Access-Control-Allow-Origin", b"*" if self._any else origin))
            if self._credentials:
                fields.append((b"Access-Control-Allow-Credentials", b"true"))
            if self._exposed:
                fields.append((b"Access-Control-Expose-Headers", self._exposed))
        return fields


def make_root(
    *,
    identify: Identify,
    begin: Callable[[IClientRequest], object],
    catalog: IModelCatalog,
    limiter: ILimiter,
    totals: IUsageTotals,
    now: Callable[[], float],
    backends: IBackendStatuses,
    is_draining: Callable[[], bool],
    config_status: Callable[[], ConfigStatus],
    cors: CrossOrigin,
    open_paths: Collection[str],
    opencode: OpenCodeProvider | None = None,
) -> Resource:
    """Put the tree together.

    Args:
        identify: Says who asks.
        begin: Starts an exchange.
        catalog: Knows the models.
        limiter: Knows how keys stand.
        totals: Know what was used.
        now: Seconds since the epoch.
        backends: Know their states.
        is_draining: Whether the daemon is.
        config_status: Says which configuration is in force.
        cors: What browsers may do.
        open_paths: Local paths that need no key.
        opencode: What OpenCode is told; None: nothing.
    """
    root = RootResource(cors)

    def guard(path: str) -> Identify | None:
        return None if path in open_paths else identify

    put(root, b"/health", HealthResource(guard("/health")))
    put(root, b"/ready", ReadyResource(backends, is_draining, config_status, guard("/ready")))
    put(root, b"/v1/models", ModelsResource(identify, catalog))
    put(root, b"/me", MeResource(identify, catalog, limiter, totals, now))
    if opencode is not None:
        put(root, WELL_KNOWN_PATH.encode(), WellKnownResource(opencode))
        put(root, MODELS_PATH.encode(), ConfigResource(identify, opencode, catalog))
    relayed = ProxyResource(begin)
    for path in RELAYED_PATHS:
        put(root, path, relayed)
    return root


def put(root: Resource, path: bytes, resource: Resource) -> None:
    """Put a resource into a tree, with plain nodes above it."""
    *parents, name = path[1:].split(b"/")
    node = root
    for parent in parents:
        below = node.children.get(parent)
        if below is None:
            below = EdgeResource()
            node.putChild(parent, below)
        node = below
    node.putChild(name, resource)
