"""The seams: every interface between rooms, with its full contract.

Implementations live in the rooms above and are handed to their users by constructor, in
``service.py``. Nothing is implemented here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.web.iweb import IResponse
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.web.iweb import IBodyProducer

    from llmproxy.values import Backend as BackendIdentity
    from llmproxy.values import (
        BackendStatus,
        ModelCard,
        ModelRoute,
        Principal,
        UsageRecord,
    )


class IByteBudget(Interface):
    """Bytes that all request bodies together may hold."""

    def take(size_bytes: int) -> bool:
        """Take bytes out of the budget.

        Returns:
            Whether they were there; when not, nothing was taken.
        """

    def give_back(size_bytes: int) -> None:
        """Return bytes that were taken."""


class IClientRequest(Interface):
    """One request of a client, as the data path sees it.

    The edge implements it over a `twisted.web` request. Writing after the client has gone is
    allowed and does nothing.
    """

    method: bytes = Attribute("The method.")
    path: bytes = Attribute("The target's path, as it came.")
    uri: bytes = Attribute("The target, as it came: path and query.")
    clientproto: bytes = Attribute("``HTTP/1.1`` or ``HTTP/1.0``.")
    raw_headers: Sequence[tuple[bytes, bytes]] = Attribute(
        "The fields in their order, names lower-cased, values stripped."
    )
    request_id: str = Attribute("The client's own if it is sane, else a new one.")
    client_ip: str = Attribute("Who calls, X-Forwarded-For of trusted proxies believed.")
    peer_ip: str = Attribute("Who is at the other end of the connection.")
    from_trusted_proxy: bool = Attribute("Whether ``peer_ip`` is a trusted proxy.")
    secure: bool = Attribute("Whether the client's connection is TLS here.")
    started_s: float = Attribute("When its first byte was seen, on the reactor's clock.")
    repeats: dict[str, Any] = Attribute(
        "Shared by the requests of one connection whose heads are the same but for the length: "
        "there may be kept what was made of ``raw_headers``."
    )

    def header(name: bytes) -> bytes:
        """Give the value of the first field of that lower-case name, or nothing (``b""``)."""

    def read_body(limit_bytes: int, budget: IByteBudget) -> Deferred[bytes]:
        """Read the whole body.

        What it takes out of the budget stays taken; the caller gives back the body's length.

        Returns:
            A Deferred of the body. Cancelling it stops the reading. It fails with `BodyTooLarge`
            (at once when Content-Length tells), `MemoryBudgetSpent`, `RequestTimeout` or
            `ClientGone`, and then nothing stays taken.
        """

    def begin(status: int, reason: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Set the answer's head; it goes out with the first `write`."""

    def write(data: bytes) -> None:
        """Write a piece of the answer's body; an empty one sends just the head."""

    def finish() -> None:
        """End the answer well."""

    def refuse_further() -> None:
        """Close the client's connection after this answer; called before `begin`."""

    def break_off(farewell: bytes) -> None:
        """End the answer so that nobody takes it for complete, after a last piece if not empty."""

    def on_gone(callback: Callable[[], None]) -> None:
        """Have ``callback()`` called once if the client leaves before `finish`."""

    def registerProducer(producer: object, streaming: bool) -> None:
        """Attach the producer that is to be paused while the client takes nothing."""

    def unregisterProducer() -> None:
        """Detach it."""


class IAuthenticator(Interface):
    """Turns credentials into a principal."""

    def authenticate(credential: str, client_ip: str) -> Deferred[Principal]:
        """Say who a credential stands for.

        Args:
            credential: What the client sent; empty when it sent none.
            client_ip: Where it calls from.

        Returns:
            A Deferred of the principal; it fails with `InvalidApiKey`, `KeyDisabled`, `KeyExpired`
            or `IpNotAllowed`. Cancelling it leaves the verdict unknown.
        """


class ICandidate(Interface):
    """What a strategy may know of a backend."""

    name: str = Attribute("Unique name.")
    weight: int = Attribute("Share of the traffic, at least 1.")
    in_flight: int = Attribute("Requests that it is working on now.")


class IStrategy(Interface):
    """Chooses among backends that could all take the request."""

    def choose(candidates: Sequence[ICandidate]) -> ICandidate:
        """Choose one of at least one candidate."""


class IUpstreamResponse(IResponse):
    """A backend's answer, with its fields as they came."""

    fields: Sequence[tuple[bytes, bytes]] = Attribute(
        "All fields in their order, names in lower case, values stripped."
    )


class IUpstreamClient(Interface):
    """The part of treq's ``HTTPClient`` that the data path uses."""

    def request(
        method: str,
        url: bytes,
        *,
        headers: bytes,
        data: IBodyProducer | None,
        unbuffered: bool = True,
    ) -> Deferred[IUpstreamResponse]:
        """Send a request, exactly as given.

        Args:
            method: The method.
            url: The URL, as it is to be asked for.
            headers: Encoded field lines, each with its CR LF; without Host and length.
            data: The body; None: none.
            unbuffered: True: the body is delivered as it comes.

        Returns:
            A Deferred of the response's head, the body not yet begun. It fails with the retryable
            or final classes of `UpstreamError`. Cancelling it aborts the connection.
        """


class IBackendLease(Interface):
    """The right to send one request to one backend, counted until it is released."""

    backend: BackendIdentity = Attribute("Its identity.")
    client: IUpstreamClient = Attribute("The client for it.")

    def release() -> None:
        """Give the slot back; exactly once."""


class IRouter(Interface):
    """Knows the models and the backends that serve them."""

    def route(model: str, principal: Principal) -> ModelRoute:
        """Resolve the name that a client asked for.

        Raises:
            ModelNotFound: No such model.
            ModelNotAllowed: It exists, but not for this principal.
        """

    def acquire(route: ModelRoute, tried: frozenset[str]) -> IBackendLease:
        """Choose a backend that can take the request now, not one already tried, and count it.

        Raises:
            NoBackend: There is none.
        """


class IModelCatalog(Interface):
    """The models that clients may see."""

    def cards(principal: Principal) -> Sequence[ModelCard]:
        """List the models that the principal may use, in a stable order."""


class IBackendStatuses(Interface):
    """The state of all backends, for people and load balancers."""

    def statuses() -> Sequence[BackendStatus]:
        """List them in the order of the configuration."""


class IHealthSink(Interface):
    """Where the verdicts of health checks go."""

    def set_health(name: str, state: str, reason: str) -> None:
        """Set a backend's state to ``up``, ``down`` or ``loading``."""


class IReporter(Interface):
    """Takes the one record of each exchange."""

    def report(record: UsageRecord) -> None:
        """Take a record; never raises, never blocks for long."""
