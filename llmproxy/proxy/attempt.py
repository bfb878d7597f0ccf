"""One try: a request to one backend, up to its answer's head."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from llmproxy.errors import FirstByteTimeout, GatewayTimeout
from llmproxy.interfaces import IBackendLease, IUpstreamResponse
from llmproxy.timeouts import Timeouts
from llmproxy.wire.body_edit import edit_body


@attrs.frozen
class Outbound:
    """A request as it goes up, whichever backend takes it.

    Attributes:
        method: The method.
        target: Path and query, as the client sent them.
        body: The client's body, byte for byte.
        model: The name to put in it, or None when it is already right.
        wants_usage: Whether usage may be asked for in the client's place: a stream of an endpoint
            that knows ``stream_options``, whose client did not ask itself.
        first_byte_timeout_s: The model's, overriding the backend's.
    """

    method: str
    target: bytes
    body: bytes = attrs.field(repr=False)
    model: str | None = None
    wants_usage: bool = False
    first_byte_timeout_s: float | None = None


@attrs.frozen
class Answering:
    """What is left of an attempt once its answer has begun; the request's body is not.

    Attributes:
        response: The head; its body is not yet delivered.
        injected_usage: Whether the backend was asked for usage in the client's place.
        first_byte_by_s: When the first piece of its body must have come, on the clock; None: it may
            take its time.
        deadline_s: When the backend's total time is over, on the clock; None: never.
    """

    response: IUpstreamResponse
    injected_usage: bool
    first_byte_by_s: float | None
    deadline_s: float | None


class Attempt:
    """Sends a request to the backend of a lease, and waits for the head under two clocks.

    Args:
        clock: Of the total time.
        timeouts: Of the wait.
        lease: The backend; the caller releases it.
        outbound: The request.
        headers: Its fields, encoded.
        make_body: Makes the body's producer, which says in ``has_begun`` whether it was asked to.
    """

    def __init__(
        self,
        clock: IReactorTime,
        timeouts: Timeouts,
        lease: IBackendLease,
        outbound: Outbound,
        headers: bytes,
        make_body: Any,
    ) -> None:
        self._clock = clock
        self._timeouts = timeouts
        self._lease = lease
        self._outbound = outbound
        self._headers = headers
        self._make_body = make_body
        self._expired = False
        self._producer: Any = None

    @property
    def is_sent(self) -> bool:
        """Whether the backend has the request, or part of it."""
        return self._producer is not None and self._producer.has_begun

    async def head(self) -> Answering:
        """Send the request and wait for the head of its answer.

        Cancelling aborts the backend's connection.

        Raises:
            UpstreamError: As `IUpstreamClient.request` has it.
            FirstByteTimeout: The head did not come in time.
            GatewayTimeout: The total time was over before it came.
        """
        outbound, backend = self._outbound, self._lease.backend
        body = outbound.body
        injected_usage = outbound.wants_usage and backend.inject_usage
        if outbound.model is not None or injected_usage:
            body = edit_body(body, model=outbound.model, include_usage=injected_usage)
        self._producer = self._make_body(body)
        wait_s = outbound.first_byte_timeout_s
        if wait_s is None:
            wait_s = backend.first_byte_timeout_s
        total_s = backend.timeout_s
        now_s = self._clock.seconds()
        deadline_s = now_s + total_s if total_s else None
        first_byte_by_s = now_s + wait_s if wait_s else None
        limit_s = min(wait_s, total_s) if wait_s and total_s else wait_s or total_s
        answer = self._lease.client.request(
            outbound.method,
            backend.url + outbound.target,
            headers=self._headers,
            data=self._producer,
            unbuffered=True,
        )
        timeout = self._timeouts.start(limit_s, partial(self._expire, answer)) if limit_s else None
        try:
            return Answering(await answer, injected_usage, first_byte_by_s, deadline_s)
        except CancelledError:
            if self._expired:
                raise (FirstByteTimeout if limit_s == wait_s else GatewayTimeout) from None
            raise
        finally:
            if timeout is not None:
                timeout.cancel()

    def _expire(self, answer: Deferred[IUpstreamResponse]) -> None:
        self._expired = True
        answer.cancel()
