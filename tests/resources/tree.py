"""The whole Resource tree over fakes, and an edge that serves it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from llmproxy.config.model import Cors
from llmproxy.entitlements import Quota, Standing
from llmproxy.errors import InvalidApiKey
from llmproxy.interfaces import (
    IBackendStatuses,
    IClientRequest,
    IGrant,
    ILimiter,
    IModelCatalog,
    IUsageTotals,
)
from llmproxy.resources.root import CrossOrigin, make_root
from llmproxy.values import (
    BackendStatus,
    ConfigStatus,
    Demand,
    ModelCard,
    Principal,
    UsageFilter,
    UsageTotal,
)
from llmproxy.wire.opencode import OpenCodeProvider
from tests.edge import Answer, Edge, get

CREATED = 1_700_000_000
CARDS = (
    ModelCard("plain", CREATED),
    ModelCard("org/whole", CREATED, "Whole", "All of it.", 131072, 8192),
    ModelCard("secret", CREATED, images=True, reasoning=True),
)
PRINCIPALS = {
    "sk-all": Principal("k1"),
    "sk-some": Principal("k2", allowed_models=(("plain", "org/*"),)),
}
"""What keys stand for."""


@implementer(IModelCatalog, IBackendStatuses)
class FakeDirectory:
    """Models and backends.

    Attributes:
        states: Of the backends.
    """

    def __init__(self) -> None:
        self.states: list[BackendStatus] = []

    def cards(self, principal: Principal) -> Sequence[ModelCard]:
        """List the models that it may use."""
        return [
            card
            for card in CARDS
            if all(
                any(fnmatchcase(card.id, pattern) for pattern in globs)
                for globs in principal.allowed_models
            )
        ]

    def statuses(self) -> Sequence[BackendStatus]:
        """List the states."""
        return self.states


@implementer(ILimiter, IUsageTotals)
class FakeLedger:
    """How keys stand, and what was used.

    Attributes:
        given: How every key stands.
        rows: What was used.
        wanted: What was asked for.
        failure: What every question fails with; None: nothing.
    """

    def __init__(self) -> None:
        self.given = Standing({})
        self.rows: Sequence[tuple[Mapping[str, str], UsageTotal]] = ()
        self.wanted: list[UsageFilter] = []
        self.failure: Exception | None = None

    def acquire(self, demand: Demand) -> Deferred[IGrant]:
        """Never called."""
        raise AssertionError

    def standing(self, principal: Principal) -> Deferred[Standing]:
        """Say how a key stands."""
        return succeed(self.given) if self.failure is None else fail(self.failure)

    def quota_used(self, quotas: Mapping[str, Quota]) -> Deferred[Mapping[str, int]]:
        """Never called."""
        raise AssertionError

    def set_quota_used(self, key_id: str, quota: Quota, tokens: int) -> Deferred[None]:
        """Never called."""
        raise AssertionError

    def usage(
        self, wanted: UsageFilter
    ) -> Deferred[Sequence[tuple[Mapping[str, str], UsageTotal]]]:
        """Say what was used."""
        self.wanted.append(wanted)
        return succeed(self.rows)


class Tree:
    """The tree, with all it stands on.

    Attributes:
        directory: Models and backends.
        ledger: Limits and usage.
        draining: Whether the daemon is.
        config_status: Which configuration is in force.
        begun: The requests that reached the data path.
        waiting: When a list, whoever asks is not known until these fire.
    """

    def __init__(
        self,
        *,
        cors: Cors | None = None,
        open_paths: Collection[str] = ("/health", "/ready", "/metrics"),
        opencode: OpenCodeProvider | None = None,
    ) -> None:
        self.directory = FakeDirectory()
        self.ledger = FakeLedger()
        self.draining = False
        self.config_status = ConfigStatus("0123456789ab", CREATED)
        self.begun: list[tuple[bytes, bytes]] = []
        self.waiting: list[Deferred[Principal]] | None = None
        self.cross_origin = CrossOrigin(cors or Cors())
        self.root = make_root(
            identify=self._identify,
            begin=self._begin,
            catalog=self.directory,
            limiter=self.ledger,
            totals=self.ledger,
            now=lambda: CREATED + 0.5,
            backends=self.directory,
            is_draining=lambda: self.draining,
            config_status=lambda: self.config_status,
            cors=self.cross_origin,
            open_paths=open_paths,
            opencode=opencode,
        )

    def _identify(self, request: IClientRequest) -> Deferred[Principal]:
        if self.waiting is not None:
            self.waiting.append(Deferred())
            return self.waiting[-1]
        key = request.header(b"authorization").decode().removeprefix("Bearer ")
        known = PRINCIPALS.get(key)
        return fail(InvalidApiKey()) if known is None else succeed(known)

    def _begin(self, request: Any) -> None:
        self.begun.append((request.method, request.uri))
        request.begin(200, b"", ((b"Content-Length", b"7"),))
        request.write(b"relayed")
        request.finish()

    def edge(self) -> Edge:
        """Make an edge that serves it."""
        return Edge(resource=self.root, cors_fields=self.cross_origin.fields_for)

    def ask(self, method: str, path: str, *lines: str, key: str = "sk-all") -> Answer:
        """Ask something on a connection of its own, which stays open afterwards.

        Args:
            method: The method.
            path: The target.
            *lines: Further fields.
            key: The key; none if empty.
        """
        authorization = (f"Authorization: Bearer {key}",) if key else ()
        with self.edge() as edge:
            client = edge.connect().send(get(path, *authorization, *lines, method=method))
            assert not client.is_closed
            return client.answer(method)
