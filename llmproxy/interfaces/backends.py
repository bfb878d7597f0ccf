"""The seams of the backends: who is chosen, how it is reached, and how it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from twisted.web.iweb import IResponse
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.web.iweb import IBodyProducer

    from llmproxy.values import Backend as BackendIdentity
    from llmproxy.values import BackendStatus, Evidence, ModelCard, ModelRoute, Principal


class ICandidate(Interface):
    """What a strategy may know of a backend."""

    name: str = Attribute("Unique name.")
    weight: float = Attribute("Share of the traffic now, above 0; less while it starts slowly.")
    full_weight: int = Attribute("Share of the traffic once it has started, at least 1.")
    in_flight: int = Attribute("Requests that it is working on now.")

    def latency_s(now_s: float) -> float | None:
        """Say how long its answers take to begin, lately; None when that is not known."""


class IStrategy(Interface):
    """Chooses among backends that could all take the request.

    Candidates may be others at every call. What a strategy keeps of them it keeps by name.
    """

    def choose(
        candidates: Sequence[ICandidate], now_s: float, affinity: Callable[[], bytes]
    ) -> ICandidate:
        """Choose one of at least one candidate.

        Args:
            candidates: In the configuration's order; neither they nor the list are changed.
            now_s: The time, on the clock of ``latency_s``.
            affinity: Gives what is the same for all requests of one conversation. That costs a look
                at the prompt: it is called by strategies only that go by it.
        """


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


class IProgress(Interface):
    """How an answer that is coming goes on, on the reactor's clock."""

    first_piece_s: float | None = Attribute("When its first piece came; None before.")
    last_piece_s: float = Attribute("When its last piece came.")


class IBackendLease(Interface):
    """The right to send one request to one backend, counted until it is released."""

    backend: BackendIdentity = Attribute("Its identity.")
    client: IUpstreamClient = Attribute("The client for it.")
    route: ModelRoute = Attribute("By which the request goes there.")
    settle: Callable[[float], None] | None = Attribute("Told at its end what it used, in tokens.")

    def answering(progress: IProgress) -> None:
        """Take note that the first byte of the answer's body came; at most once.

        How long that took since the lease was given is the backend's latency. How the answer goes
        on is looked up in ``progress`` when somebody must know, until the lease is released.
        """

    def report(evidence: Evidence, rest_s: float = 0.0) -> None:
        """Say what the request showed of the backend; at most once, before `release`.

        Without it, as when the client left, the request showed nothing.

        Args:
            evidence: What it showed.
            rest_s: How long the backend asks to be left alone.
        """

    def release(used_tokens: int = 0) -> None:
        """Give the slot back; exactly once.

        Args:
            used_tokens: What the request took of the backend: prompt and answer.
        """


class IRouter(Interface):
    """Knows the models and the backends that serve them."""

    def route(model: str, principal: Principal) -> ModelRoute:
        """Resolve the name that a client asked for.

        Raises:
            ModelNotFound: No such model.
            ModelNotAllowed: It exists, but not for this principal.
        """

    def acquire(
        route: ModelRoute, tried: frozenset[str], affinity: Callable[[], bytes]
    ) -> IBackendLease:
        """Choose a backend that can take the request now, not one already tried, and count it.

        Args:
            route: Where requests for the model may go.
            tried: Names of backends that failed it.
            affinity: As in `IStrategy.choose`.

        Raises:
            NoBackend: There is none.
            BackendsFull: There are some, but each works on as many requests as it may.
        """

    def wait(
        model_id: str,
        principal: Principal,
        tried: frozenset[str],
        tried_for_s: float,
        affinity: Callable[[], bytes],
        cost: float,
    ) -> Deferred[IBackendLease]:
        """Wait until a backend has room; after `acquire` found them full.

        Where the request may go is what the configuration says that is in force by then.

        Args:
            model_id: The model's id.
            principal: Whose request it is: keys take turns.
            tried: As above.
            tried_for_s: How long it does not go there.
            affinity: As in `IStrategy.choose`.
            cost: What it may take of the backend, in tokens: who takes more has fewer turns. What
                it took is told when the lease is released.

        Returns:
            A Deferred of the lease. It fails with `QueueFull`, `QueueTimeout`, or `NoBackend` when
            there is nobody left to wait for, and as `route` does. Cancelling it ends the waiting.
        """


class IModelCatalog(Interface):
    """The models that clients may see."""

    def cards(principal: Principal) -> Sequence[ModelCard]:
        """List the models that the principal may use, in a stable order."""


class IBackendStatuses(Interface):
    """The state of all backends, for people and load balancers."""

    def statuses() -> Sequence[BackendStatus]:
        """List them in the order of the configuration."""


class IBackendControl(Interface):
    """What an administrator may do with backends."""

    def drain(name: str) -> None:
        """Give a backend no further requests; those that run go on.

        Raises:
            KeyError: There is none of that name.
        """

    def enable(name: str) -> None:
        """Undo `drain`.

        Raises:
            KeyError: There is none of that name.
        """


class IBackendActivity(Interface):
    """Whether backends that do not answer a question are at work."""

    def last_piece_s(name: str) -> float:
        """Say when the last piece of an answer of that backend came, on the reactor's clock.

        Minus infinity when there was none yet. It looks at all its running answers: for now and
        then.

        Raises:
            KeyError: There is no such backend.
        """


class IHealthSink(Interface):
    """Where the verdicts of health checks go."""

    def set_health(name: str, state: str, reason: str) -> None:
        """Set a backend's state to ``up``, ``down`` or ``loading``."""
