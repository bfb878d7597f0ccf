"""Requests that wait for room at a backend.

Each model has a queue of its own, fair between keys. Whenever there may be room, those that wait
are looked at in turn, model by model, and whoever can be given a lease has it in that moment:
nobody who comes later can be first. Room is told of from outside, but for that which time alone
makes: while somebody waits, one timer is set for that. It knows leases only by what gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil, inf
from typing import Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from llmproxy.backends.fair_queue import FairQueue, Waiting
from llmproxy.errors import GatewayError, QueueFull, QueueTimeout
from llmproxy.interfaces import IBackendLease
from llmproxy.timeouts import Timeout, Timeouts

SHORTEST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
"""What clients that found no room are told to wait is between these."""

_SMOOTHING = 0.2

_NONE_TRIED: Final[frozenset[str]] = frozenset()

Take = Callable[[frozenset[str]], IBackendLease | None]
"""Gives a lease of none of these backends, or None while there is no room; raises why there is
nobody left to wait for."""


@attrs.define(eq=False)
class _Request:
    """One request that waits.

    Attributes:
        take: Gives it a lease.
        tried: Names of backends that failed it, where it does not go for now.
        given: Fires with the lease.
        entry: Its place; None: there was none.
        timeout: Ends its waiting.
        again: Ends its avoiding those that failed it.
        lease: What it was given, and does not have yet.
        refusal: Why there is nobody left to wait for.
    """

    take: Take
    tried: frozenset[str]
    given: Deferred[IBackendLease] = attrs.field(init=False)
    entry: Waiting[_Request] | None = None
    timeout: Timeout | None = None
    again: Timeout | None = None
    lease: IBackendLease | None = None
    refusal: GatewayError | None = None

    def look(self) -> bool:
        """Say whether its waiting is at an end; then it has what it waited for."""
        try:
            self.lease = self.take(self.tried)
        except GatewayError as error:
            self.refusal = error.with_traceback(None)
        return self.lease is not None or self.refusal is not None

    def stop_clocks(self) -> None:
        """It waits no more."""
        for timeout in (self.timeout, self.again):
            if timeout is not None:
                timeout.cancel()


class BackendQueue:
    """All requests that wait.

    Args:
        max_waiting: How many may wait for a model.
        max_wait_s: How long; 0: as long as the client does.
        clock: Keeps time.

    Attributes:
        opens_s: Says when, on the clock, time alone may make room; infinity: it will not.
        turned_away: How many found no room, or were turned out for others.
        timed_out: How many waited too long.
    """

    def __init__(self, max_waiting: int, max_wait_s: float, clock: IReactorTime) -> None:
        self._clock = clock
        self._timeouts = Timeouts(clock)
        self._queues: dict[str, FairQueue[_Request]] = {}
        self.hold_to(max_waiting, max_wait_s)
        self._interval_s = SHORTEST_RETRY_S
        self._last_given_s = clock.seconds()
        self._timer: IDelayedCall | None = None
        self._looks_at_s = inf
        self.opens_s: Callable[[], float] = lambda: inf
        self.turned_away = 0
        self.timed_out = 0

    def __repr__(self) -> str:
        return f"<BackendQueue {self.waiting} waiting for {len(self._queues)} models>"

    def hold_to(self, max_waiting: int, max_wait_s: float) -> None:
        """Hold those that come from now on to other limits; arguments as the constructor's.

        Those that wait already keep their places and their time.
        """
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        for queue in self._queues.values():
            queue.limit = max_waiting

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return sum(map(len, self._queues.values()))

    def waiting_for(self, model_id: str) -> int:
        """Say how many wait for a model now."""
        queue = self._queues.get(model_id)
        return 0 if queue is None else len(queue)

    def wait(
        self,
        model_id: str,
        key: str,
        cost: float,
        take: Take,
        *,
        tried: frozenset[str] = _NONE_TRIED,
        tried_for_s: float = 0.0,
    ) -> Deferred[IBackendLease]:
        """Wait for room.

        Args:
            model_id: For which model.
            key: Whose request it is.
            cost: What it will take of a backend: tokens.
            take: Gives a lease when there is room.
            tried: Names of backends that failed it.
            tried_for_s: How long it does not go there.

        Returns:
            A Deferred of the lease; it fails with `QueueFull`, `QueueTimeout`, or as ``take`` does.
            Cancelling it ends the waiting; a lease that it had been given already is given back.
        """
        if not self.waiting:
            self._last_given_s = self._clock.seconds()  # while nobody waits, no room is late
        queue = self._queues.get(model_id)
        if queue is None:
            queue = self._queues[model_id] = FairQueue(self._max_waiting)
        request = _Request(take, tried)
        request.given = Deferred(partial(self._cancelled, queue, request))
        request.entry, turned_out = queue.push(key, max(cost, 1.0), request, tried)
        if turned_out is not None:
            self._end(turned_out.item, self._full(queue))
        if request.entry is None:
            request.given.errback(self._full(queue))
        else:
            if self._max_wait_s:
                expired = partial(self._expired, queue, request)
                request.timeout = self._timeouts.start(self._max_wait_s, expired)
            if tried:
                forgets = partial(self._forgets, queue, request)
                request.again = self._timeouts.start(tried_for_s, forgets)
        self._set_timer()
        return request.given

    def look(self) -> None:
        """Give those that wait what room there is; called whenever there may be some."""
        for model_id in list(self._queues):
            queue = self._queues[model_id]
            while (entry := queue.pop(_Request.look)) is not None:
                self._found(queue, entry)
            if not len(queue):
                del self._queues[model_id]
        if len(self._queues) > 1:
            # Whose turn it was to be first is last the next time.
            first = next(iter(self._queues))
            self._queues[first] = self._queues.pop(first)
        self._set_timer()

    def _set_timer(self) -> None:
        """See to it that room is looked for when time makes some, if somebody waits.

        What was to be looked at is, be it that it has opened meanwhile: only looking gives room.
        """
        at_s = min(self.opens_s(), self._looks_at_s) if self.waiting else inf
        if at_s == self._looks_at_s:
            return
        self._looks_at_s = at_s
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at_s != inf:
            delay_s = max(at_s - self._clock.seconds(), 0.0)
            self._timer = self._clock.callLater(delay_s, self._time_has_come)

    def _time_has_come(self) -> None:
        self._timer, self._looks_at_s = None, inf
        self.look()

    def _found(self, queue: FairQueue[_Request], entry: Waiting[_Request]) -> None:
        request = entry.item
        settle = partial(queue.settle, entry)
        if request.refusal is not None:
            settle(0.0)
            self._end(request, request.refusal)
            return
        assert request.lease is not None
        request.lease.settle = settle
        now_s = self._clock.seconds()
        self._interval_s += _SMOOTHING * (now_s - self._last_given_s - self._interval_s)
        self._last_given_s = now_s
        request.stop_clocks()
        # In a turn of its own: whoever gave back the room is at its end, and is not to run others.
        self._clock.callLater(0, self._give, request)

    @staticmethod
    def _give(request: _Request) -> None:
        lease, request.lease = request.lease, None
        if lease is not None:
            request.given.callback(lease)

    def _end(self, request: _Request, error: GatewayError) -> None:
        """Fail one that is out of its queue."""
        request.stop_clocks()
        self._clock.callLater(0, self._fail, request, error)

    @staticmethod
    def _fail(request: _Request, error: GatewayError) -> None:
        if not request.given.called:  # else its client has left meanwhile
            request.given.errback(error)

    def _forgets(self, queue: FairQueue[_Request], request: _Request) -> None:
        """It may go again to those that failed it."""
        assert request.entry is not None
        request.tried = _NONE_TRIED
        queue.move(request.entry, _NONE_TRIED)
        self.look()

    def _expired(self, queue: FairQueue[_Request], request: _Request) -> None:
        assert request.entry is not None
        request.stop_clocks()
        queue.remove(request.entry)
        self.timed_out += 1
        self._set_timer()
        request.given.errback(QueueTimeout(retry_after_s=self._retry_after_s(queue)))

    def _cancelled(
        self, queue: FairQueue[_Request], request: _Request, _: Deferred[IBackendLease]
    ) -> None:
        """The client has left."""
        if request.entry is not None:
            queue.remove(request.entry)
        request.stop_clocks()
        self._set_timer()
        lease, request.lease = request.lease, None
        if lease is not None:
            lease.release()

    def _full(self, queue: FairQueue[_Request]) -> QueueFull:
        self.turned_away += 1
        return QueueFull(retry_after_s=self._retry_after_s(queue))

    def _retry_after_s(self, queue: FairQueue[_Request]) -> float:
        """Say when there may be room: when those that wait have been given theirs."""
        wait_s = ceil((len(queue) + 1) * self._interval_s)
        return float(min(max(wait_s, SHORTEST_RETRY_S), LONGEST_RETRY_S))
