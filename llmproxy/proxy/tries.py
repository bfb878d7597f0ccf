"""The tries of one exchange: backend after backend, until one gives an answer to relay.

What may follow on what (the truth table of docs/balancing.md):

- no connection, or TLS failed: another backend, then the models that stand in; when all were tried,
  or are full, the same ones again after a wait;
- a reused connection that died with no byte back: the same backend again, at once, with the same
  lease;
- 429 and 503: another backend that is free at this moment; else that answer is the answer;
- everything else, a first byte that does not come above all: nothing. The backend may be at work on
  the request, and a long prompt is dear.

Every further try is taken out of a budget, but for that on a fresh connection, and for those of
models that stand in where no connection could be made. Nothing is tried once the client has been
written to: that is not even known here. Full backends are waited for.

Where a try may go is asked of the router each time: what has no lease yet is routed by the
configuration in force.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from llmproxy.errors import (
    BackendsFull,
    GatewayError,
    ModelNotAllowed,
    ModelNotFound,
    NoBackend,
    QueueTimeout,
    ReusedConnectionDied,
)
from llmproxy.interfaces import IBackendLease, IRouter, IUpstreamResponse
from llmproxy.proxy.attempt import Answering, Attempt
from llmproxy.proxy.evidence import evidence_of, report_failure
from llmproxy.values import ModelRoute, Principal, TriedBackend
from llmproxy.wire.backoff import Backoff
from llmproxy.wire.retry_after import read_retry_after
from llmproxy.wire.retry_budget import RetryBudget

LAST_TRY_S: Final = 30.0
"""The last try is kept for backends that are only full, from one that failed, for so long.

By then checks and breakers tell whether that one is there.
"""

BUSY: Final = frozenset((429, 503))
"""Answers of a backend that did not accept the request, and may be another time."""


@attrs.frozen
class RetryRules:
    """When another try may follow.

    Attributes:
        backoff: How many, and after which waits.
        budget: Of all exchanges together.
    """

    backoff: Backoff
    budget: RetryBudget


@attrs.frozen
class Asking:
    """What one exchange asks of the backends.

    Attributes:
        model_id: The model for which the request was admitted.
        name: What the client called it.
        principal: Who asks: models must be theirs to use.
        affinity: As in `IStrategy.choose`.
        cost: As in `IRouter.wait`.
        attempt: Makes a try at a backend.
    """

    model_id: str
    name: str
    principal: Principal
    affinity: Callable[[], bytes]
    cost: float
    attempt: Callable[[IBackendLease], Attempt]


class Tries:
    """Tries backends.

    Args:
        router: Chooses them.
        rules: When another may follow.
        clock: Of the waits.
        now: Seconds since the epoch, for dates in ``Retry-After``.

    Attributes:
        lease: Of the backend that is tried, or that answers; None: of none.
        backend_name: The last that was tried.
        route: By which it was.
        count: How many tries were made.
        failed: Those that gave no answer to relay.
        first_at_s: When the first began, on the clock.
        was_sent: Whether a backend had the request, or part of it, when the last ended without an
            answer.
    """

    def __init__(
        self, router: IRouter, rules: RetryRules, clock: IReactorTime, now: Callable[[], float]
    ) -> None:
        self._router = router
        self._rules = rules
        self._clock = clock
        self._now = now
        self._out: set[str] = set()
        self._waits = 0
        self._is_full = False
        self.lease: IBackendLease | None = None
        self.backend_name = ""
        self.route: ModelRoute | None = None
        self.count = 0
        self.failed: list[TriedBackend] = []
        self.first_at_s: float | None = None
        self.was_sent = False

    def __repr__(self) -> str:
        return f"<Tries {self.count} at {self.backend_name or 'nobody'}>"

    async def head(self, asking: Asking) -> Answering:
        """Give the head of the answer that is to be relayed; its lease is `lease`.

        Cancelling ends whatever is waited for; the lease is to be released all the same.

        Raises:
            GatewayError: There is none.
        """
        self._rules.budget.pay_in()
        lease = await self._first(asking)
        while True:
            self.lease, self.backend_name, self.route = lease, lease.backend.name, lease.route
            self.count += 1
            if self.first_at_s is None:
                self.first_at_s = self._clock.seconds()
            attempt = asking.attempt(lease)
            try:
                answering = await attempt.head()
            except CancelledError:
                self.was_sent = attempt.is_sent
                raise
            except ReusedConnectionDied as error:
                # It is the lease's own backend again: who gave it up would go to the queue's end.
                # The client has let go of all idle connections, so that at once means a fresh one.
                self.failed.append(TriedBackend(lease.backend.name, error.code))
                if not self._rules.backoff.allows(self.count):
                    raise
            except GatewayError as error:
                self.was_sent = attempt.is_sent
                report_failure(lease, error)
                self.failed.append(TriedBackend(lease.backend.name, error.code))
                if not error.retryable:
                    raise error.with_traceback(None) from None  # its lease is released with its use
                self._leave(lease)
                lease = await self._after(error.with_traceback(None), asking)
            else:
                other = self._instead(lease, answering.response, asking)
                if other is None:
                    return answering
                lease = other

    def release(self, used_tokens: int = 0) -> None:
        """Give the lease back, if there is one; see `IBackendLease.release`."""
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release(used_tokens)

    def _route(self, asking: Asking) -> ModelRoute:
        """Say where requests for the model go now.

        Raises:
            ModelNotFound: Nowhere, as one that came now would be told.
            ModelNotAllowed: Likewise.
        """
        try:
            return self._router.route(asking.model_id, asking.principal)
        except ModelNotFound:
            # The client's name for it may be another model's by now.
            return self._router.route(asking.name, asking.principal)

    async def _first(self, asking: Asking) -> IBackendLease:
        route = self._route(asking)
        lease = self._acquire(route, asking)
        if lease is not None:
            return lease
        refusal: GatewayError = NoBackend()
        if self._is_full:
            try:
                return await self._wait(route, asking)
            except ModelNotFound:
                return await self._first(asking)
            except (NoBackend, BackendsFull) as error:
                refusal = error
            route = self._route(asking)
        lease = self._standing_in(route, asking)
        if lease is None:
            raise refusal.with_traceback(None)
        return lease

    async def _after(self, error: GatewayError, asking: Asking) -> IBackendLease:
        """Give whom to try after an error of a try that was not accepted.

        Raises:
            GatewayError: Nobody: the error itself, or why there is no room.
        """
        rules = self._rules
        if not rules.backoff.allows(self.count) or not rules.budget.take():
            # That spares a pool that fails. A model that stands in is asked for the first time.
            lease = None
            if rules.backoff.max_retries:
                lease = self._standing_in(self._route(asking), asking)
            if lease is None:
                raise error
            return lease
        while True:
            route = self._route(asking)
            lease = self._acquire(route, asking)
            is_full = self._is_full
            lease = lease or self._standing_in(route, asking)
            if lease is not None:
                return lease
            if is_full:
                try:
                    return await self._wait(route, asking)
                except (ModelNotFound, NoBackend):
                    continue  # there may be those that were tried, or another model
                except QueueTimeout:
                    self._out.clear()
                    route = self._route(asking)
                    lease = self._acquire(route, asking) or self._standing_in(route, asking)
                    if lease is None:
                        raise
                    return lease
            if not self._out:
                raise error
            # All were tried: wait a little, then go round again.
            await deferLater(self._clock, rules.backoff.wait_s(self._waits), lambda: None)
            self._waits += 1
            self._out.clear()

    def _instead(
        self, lease: IBackendLease, response: IUpstreamResponse, asking: Asking
    ) -> IBackendLease | None:
        """Give whom to try instead of relaying an answer; None: it is to be relayed."""
        if response.code not in BUSY or not self._rules.backoff.allows(self.count):
            return None
        self._out.add(lease.backend.name)
        evidence = evidence_of(response.code, b"retry-after" in dict(response.fields))
        rest_s = rest_of(response.fields, self._now())
        try:
            route = self._route(asking)
        except (ModelNotFound, ModelNotAllowed):
            return None
        other = self._acquire(route, asking) or self._standing_in(route, asking)
        if other is None:
            return None
        if not self._rules.budget.take():
            other.release()
            return None
        lease.report(evidence, rest_s)
        self.failed.append(TriedBackend(lease.backend.name, f"status_{response.code}"))
        self._leave(lease)
        _drop(response)
        return other

    def _leave(self, lease: IBackendLease) -> None:
        self.release()
        self._out.add(lease.backend.name)

    def _acquire(self, route: ModelRoute, asking: Asking) -> IBackendLease | None:
        """Take a backend that has room and was not tried; None: there is none."""
        self._is_full = False
        try:
            return self._router.acquire(route, frozenset(self._out), asking.affinity)
        except NoBackend:
            return None
        except BackendsFull:
            self._is_full = True
            return None

    def _wait(self, route: ModelRoute, asking: Asking) -> Deferred[IBackendLease]:
        # Who waits for room has time: there is no better moment than the latest for another try.
        backoff = self._rules.backoff
        is_last = not backoff.allows(self.count + 1)
        return self._router.wait(
            route.model_id,
            asking.principal,
            frozenset(self._out),
            LAST_TRY_S if is_last else backoff.max_wait_s,
            asking.affinity,
            asking.cost,
        )

    def _standing_in(self, route: ModelRoute, asking: Asking) -> IBackendLease | None:
        """Take a backend that has room for one of the models that stand in."""
        for model_id in route.fallback:
            try:
                other = self._router.route(model_id, asking.principal)
            except (ModelNotFound, ModelNotAllowed):
                continue
            lease = self._acquire(other, asking)
            if lease is not None:
                return lease
        return None


def rest_of(fields: Sequence[tuple[bytes, bytes]], now_s: float) -> float:
    """Say how long a backend asks to be left alone (RFC 9110, section 10.2.3); 0: it does not.

    Args:
        fields: Its answer's, names in lower case.
        now_s: The time, seconds since the epoch.
    """
    value = next((value for name, value in fields if name == b"retry-after"), b"")
    return read_retry_after(value.decode("latin-1"), now_s) or 0.0


class _Unwanted(Protocol):
    """Receives a body that nobody wants; what has come of it already costs nothing."""

    ended = False

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The body has ended."""
        del reason
        self.ended = True


def _drop(response: IUpstreamResponse) -> None:
    """Have nothing more of an answer: its connection serves on if the answer is whole already."""
    unwanted = _Unwanted()
    response.deliverBody(unwanted)
    if not unwanted.ended:
        transport: Any = unwanted.transport
        transport.stopProducing()
