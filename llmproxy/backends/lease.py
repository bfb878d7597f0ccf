"""One request's place at one backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from llmproxy.backends.state import BackendState
from llmproxy.interfaces import IBackendLease, IProgress
from llmproxy.values import Evidence, ModelRoute

LONGEST_REST_S: Final = 60.0
"""However long a backend asks to be left alone: health checks and others find out sooner."""


class LeaseReleasedTwice(AssertionError):
    """A lease was given back a second time: a bug of ours, in whoever held it."""


@implementer(IBackendLease)
class Lease:
    """Counts a request at its backend, and passes on what it shows of it.

    It holds the identity, the client and the route that it began with, whatever becomes of the
    configuration.

    Args:
        state: The backend's.
        route: By which the request goes there.
        clock: Of latencies and evidence.
        now_s: The time, on that clock.

    Attributes:
        settle: Told, when it is released, how many tokens the request used; None: nobody is.
    """

    __slots__ = (
        "_began_s",
        "_clock",
        "_released",
        "_state",
        "backend",
        "client",
        "route",
        "settle",
    )

    def __init__(
        self, state: BackendState, route: ModelRoute, clock: IReactorTime, now_s: float
    ) -> None:
        self.backend = state.identity
        self.route = route
        self.client = state.client
        self._state = state
        self._clock = clock
        self._began_s = now_s
        self._released = False
        self.settle: Callable[[float], None] | None = None
        state.in_flight += 1
        if not state.breaker.is_closed:
            state.breaker.begin(self, now_s)

    def __repr__(self) -> str:
        return f"<lease of {self.backend.name}{' (released)' if self._released else ''}>"

    def answering(self, progress: IProgress) -> None:
        """Take note of the answer's first byte; see `IBackendLease`."""
        state = self._state
        state.answers[self] = progress
        now_s = self._clock.seconds()
        state.latency.observe(now_s - self._began_s, now_s)

    def report(self, evidence: Evidence, rest_s: float = 0.0) -> None:
        """Say what the request showed; see `IBackendLease`."""
        now_s = self._clock.seconds()
        self._state.observe(self, evidence, now_s)
        if rest_s:
            self._state.rest(now_s + min(rest_s, LONGEST_REST_S))

    def release(self, used_tokens: int = 0) -> None:
        """Give the slot back; see `IBackendLease`."""
        if self._released:
            raise LeaseReleasedTwice(f"the lease of {self.backend.name!r} was already released")
        self._released = True
        state = self._state
        state.in_flight -= 1
        if self in state.answers:
            state.answered(self)
        if not state.breaker.is_closed:
            state.breaker.end(self)
        settle, self.settle = self.settle, None
        if settle is not None:
            settle(used_tokens)  # before others are looked at
        if state.on_room is not None:
            state.on_room()
