"""Fakes of what the data path talks to: a client's request, a backend, a router."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH
from zope.interface import implementer

from llmproxy.entitlements import Quota, Standing
from llmproxy.errors import BackendsFull, GatewayError, InvalidApiKey, ModelNotFound, NoBackend
from llmproxy.interfaces import (
    IAuthenticator,
    IBackendLease,
    IByteBudget,
    IClientRequest,
    IGrant,
    ILimiter,
    IProgress,
    IReporter,
    IRouter,
    IUpstreamClient,
    IUpstreamResponse,
)
from llmproxy.values import Backend, Demand, Evidence, ModelRoute, Principal, UsageRecord

KEY = "sk-good"


@implementer(IClientRequest)
class FakeRequest:
    """A client's request that is wholly in, and a record of how it was answered."""

    def __init__(
        self,
        body: bytes = b'{"model": "m"}',
        *,
        path: bytes = b"/v1/chat/completions",
        headers: Sequence[tuple[bytes, bytes]] = (),
        key: str = KEY,
    ) -> None:
        self.method = b"POST"
        self.path = path
        self.uri = path
        self.clientproto = b"HTTP/1.1"
        self.raw_headers: Sequence[tuple[bytes, bytes]] = (
            (b"host", b"gateway.test"),
            (b"authorization", b"Bearer " + key.encode()),
            *headers,
        )
        self.request_id = "req-1"
        self.client_ip = self.peer_ip = "192.0.2.1"
        self.from_trusted_proxy = False
        self.secure = False
        self.surplus = False
        self.certificate_subject = ""
        self.started_s = 0.0
        self.repeats: dict[str, Any] = {}
        self.body: bytes | Deferred[bytes] = body
        self.budget: IByteBudget | None = None
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.written: list[bytes] = []
        self.head_sent = False
        self.finished = False
        self.broken_off = False
        self.closes = False
        self.producer: Any = None
        self.gone_callback: Callable[[], None] | None = None

    def header(self, name: bytes) -> bytes:
        """Give a field."""
        return next((value for field, value in self.raw_headers if field == name), b"")

    def read_body(self, limit_bytes: int, budget: IByteBudget) -> Deferred[bytes]:
        """Give the body, at once or when the test says."""
        if isinstance(self.body, Deferred):
            return self.body
        assert budget.take(len(self.body))
        return succeed(self.body)

    def begin(self, status: int, reason: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Note the head."""
        assert not self.head_sent, "the head is already out"
        self.status = status
        self.headers = {name.lower(): value for name, value in headers}

    def write(self, data: bytes) -> None:
        """Note a piece."""
        assert self.status, "no head was set"
        assert not self.finished
        assert not self.broken_off
        self.head_sent = True
        if data:
            self.written.append(data)

    def finish(self) -> None:
        """Note the good end."""
        assert not self.finished
        assert not self.broken_off
        assert self.producer is None, "the producer is still attached"
        self.finished = True

    def refuse_further(self) -> None:
        """Note that the connection closes."""
        self.closes = True

    def break_off(self, farewell: bytes) -> None:
        """Note the bad end."""
        assert not self.finished
        assert self.producer is None, "the producer is still attached"
        if farewell:
            self.write(farewell)
        self.broken_off = True

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Keep the callback for `leave`."""
        self.gone_callback = callback

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Attach."""
        assert self.producer is None
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        """Detach."""
        self.producer = None

    def leave(self) -> None:
        """The client leaves."""
        assert self.gone_callback is not None
        self.gone_callback()

    @property
    def output(self) -> bytes:
        """All that was written."""
        return b"".join(self.written)


class FakeBody(bytes):
    """A request's body on its way up, which a backend has or not."""

    has_begun = True


class FakeBodyTransport:
    """The transport that a response's body comes from."""

    def __init__(self) -> None:
        self.paused = False
        self.stopped = False

    def pauseProducing(self) -> None:
        """Pause."""
        self.paused = True

    def resumeProducing(self) -> None:
        """Resume."""
        self.paused = False

    def stopProducing(self) -> None:
        """Cut."""
        self.stopped = True


@implementer(IUpstreamResponse)
class FakeResponse:
    """A response whose body the test delivers."""

    version = (b"HTTP", 1, 1)
    request: Any = None
    previousResponse: Any = None

    def __init__(
        self,
        code: int = 200,
        headers: dict[bytes, bytes] | None = None,
        length: Any = UNKNOWN_LENGTH,
    ) -> None:
        self.code = code
        self.phrase = b"Fine"
        self.headers = Headers()
        for name, value in (headers or {}).items():
            self.headers.addRawHeader(name, value)
        self.fields = [(name.lower(), value) for name, value in (headers or {}).items()]
        self.length = length
        self.transport = FakeBodyTransport()
        self.receiver: Any = None

    def setPreviousResponse(self, response: Any) -> None:
        """Never called."""
        raise AssertionError

    def deliverBody(self, protocol: Any) -> None:
        """Connect the receiver."""
        self.receiver = protocol
        protocol.makeConnection(self.transport)

    def piece(self, data: bytes) -> None:
        """Deliver a piece."""
        self.receiver.dataReceived(data)

    def end(self, reason: Exception | None = None) -> None:
        """End the body."""
        self.receiver.connectionLost(Failure(reason or ResponseDone()))


def stream_response(**more: bytes) -> FakeResponse:
    """Make an event stream's response."""
    headers = {b"Content-Type": b"text/event-stream"}
    headers.update({name.replace("_", "-").encode(): value for name, value in more.items()})
    return FakeResponse(headers=headers)


@attrs.define
class Sent:
    """One request that reached a `FakeUpstream`."""

    method: str
    url: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    answer: Deferred[IUpstreamResponse]
    cancelled: bool = False


@implementer(IUpstreamClient)
class FakeUpstream:
    """A client whose requests the test answers."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def request(
        self,
        method: str,
        url: bytes,
        *,
        headers: bytes,
        data: Any,
        unbuffered: bool = True,
    ) -> Deferred[IUpstreamResponse]:
        """Note a request."""
        assert unbuffered

        def cancelled(_: Deferred[IUpstreamResponse]) -> None:
            sent.cancelled = True

        assert headers.endswith(b"\r\n")
        lines = headers.removesuffix(b"\r\n").split(b"\r\n")
        fields = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
        sent = Sent(method, url, fields, data, Deferred(cancelled))
        self.sent.append(sent)
        return sent.answer


@implementer(IBackendLease)
class FakeLease:
    """A lease that checks that it is released once, and keeps what it is told."""

    def __init__(self, backend: Backend, client: FakeUpstream, route: ModelRoute) -> None:
        self.backend = backend
        self.route = route
        self.client = client
        self.released = 0
        self.used_tokens = 0
        self.settle: Callable[[float], None] | None = None
        self.progress: IProgress | None = None
        self.evidence: Evidence | None = None
        self.rest_s = 0.0

    def answering(self, progress: IProgress) -> None:
        """Keep it."""
        assert self.progress is None
        assert not self.released
        self.progress = progress

    def report(self, evidence: Evidence, rest_s: float = 0.0) -> None:
        """Keep it."""
        assert self.evidence is None
        assert not self.released
        self.evidence, self.rest_s = evidence, rest_s

    def release(self, used_tokens: int = 0) -> None:
        """Release."""
        self.used_tokens = used_tokens
        self.released += 1
        assert self.released == 1


@implementer(IRouter)
class FakeRouter:
    """Backends in a fixed order, each with an upstream of its own.

    Attributes:
        full: Names of those that have no room.
        waiting: Who waits for that: the key, the cost, and what fires when the test gives a lease.
        avoided: Of each that waited: where it did not go, and how long.
        more_routes: Models that there are, beside ``m``; the value is where they lead.
        gone: Names that are no model's any more.
    """

    def __init__(self, *backends: Backend) -> None:
        self.backends = backends or (Backend(name="one", url=b"http://one.test", host=b"one.test"),)
        self.upstreams = {backend.name: FakeUpstream() for backend in self.backends}
        self.leases: list[FakeLease] = []
        self.affinities: list[Callable[[], bytes]] = []
        self.model_route = ModelRoute(model_id="m", upstream_model="m")
        self.more_routes: dict[str, ModelRoute] = {}
        self.gone: set[str] = set()
        self.avoided: list[tuple[frozenset[str], float]] = []
        self.full: set[str] = set()
        self.waiting: list[tuple[str, float, Deferred[IBackendLease]]] = []

    def route(self, model: str, principal: Principal) -> ModelRoute:
        """Know one model, and its alias."""
        if model in self.more_routes:
            return self.more_routes[model]
        if model not in ("m", "alias") or model in self.gone:
            raise ModelNotFound(param="model")
        return self.model_route

    def acquire(
        self, route: ModelRoute, tried: frozenset[str], affinity: Callable[[], bytes]
    ) -> FakeLease:
        """Give the first that was not tried."""
        self.affinities.append(affinity)
        left = [
            backend
            for backend in self.backends
            if backend.name not in tried
            and (route.backends is None or backend.name in route.backends)
        ]
        if not left:
            raise NoBackend
        for backend in left:
            if backend.name not in self.full:
                return self.lease(backend.name, route)
        raise BackendsFull

    def lease(self, name: str, route: ModelRoute | None = None) -> FakeLease:
        """Give a lease of a backend; as who waited has it, unless a route is given."""
        (backend,) = [one for one in self.backends if one.name == name]
        lease = FakeLease(backend, self.upstreams[name], route or self.model_route)
        self.leases.append(lease)
        return lease

    def wait(
        self,
        model_id: str,
        principal: Principal,
        tried: frozenset[str],
        tried_for_s: float,
        affinity: Callable[[], bytes],
        cost: float,
    ) -> Deferred[IBackendLease]:
        """Wait for the test."""
        self.avoided.append((tried, tried_for_s))
        given: Deferred[IBackendLease] = Deferred()
        self.waiting.append((principal.key_id, cost, given))
        return given

    @property
    def in_flight(self) -> int:
        """Leases that are out."""
        return sum(not lease.released for lease in self.leases)


@implementer(IAuthenticator)
class FakeAuthenticator:
    """Knows one key."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def authenticate(self, credential: str, client_ip: str) -> Deferred[Principal]:
        """Say who that is."""
        self.asked.append((credential, client_ip))
        if credential == KEY:
            return succeed(Principal(key_id="key-1", key_name="tester", user_id="u1"))
        return fail(InvalidApiKey())


@implementer(IGrant)
class FakeGrant:
    """A grant that checks that it is settled once.

    Attributes:
        demand: What it was given for.
        settled: With how many tokens; None before.
    """

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self.settled: int | None = None

    def settle(self, tokens: int) -> None:
        """Settle."""
        assert self.settled is None
        self.settled = tokens


@implementer(ILimiter)
class FakeLimiter:
    """Grants everything, or refuses everything, at once or when the test says."""

    def __init__(self) -> None:
        self.grants: list[FakeGrant] = []
        self.refusal: GatewayError | None = None
        self.delay: Deferred[None] | None = None
        self.cancelled = False

    def acquire(self, demand: Demand) -> Deferred[IGrant]:
        """Grant."""
        if self.refusal is not None:
            return fail(self.refusal)

        def given() -> IGrant:
            grant = FakeGrant(demand)
            self.grants.append(grant)
            return grant

        if self.delay is not None:

            def cancelled(_: Deferred[IGrant]) -> None:
                self.cancelled = True

            waiting: Deferred[IGrant] = Deferred(cancelled)
            self.delay.addCallback(lambda _: waiting.callback(given()))
            return waiting
        return succeed(given())

    def standing(self, principal: Principal) -> Deferred[Standing]:
        """Never called."""
        raise AssertionError

    def quota_used(self, quotas: Mapping[str, Quota]) -> Deferred[Mapping[str, int]]:
        """Never called."""
        raise AssertionError

    def set_quota_used(self, key_id: str, quota: Quota, tokens: int) -> Deferred[None]:
        """Never called."""
        raise AssertionError


@implementer(IReporter)
class FakeReporter:
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[UsageRecord] = []

    def report(self, record: UsageRecord) -> None:
        """Keep one."""
        self.records.append(record)
