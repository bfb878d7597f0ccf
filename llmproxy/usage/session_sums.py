"""Sessions that are going on, summed in memory: how many, and what each came to when it ended.

A session ends when nothing was heard of it for a while. It knows nothing of who counts them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from llmproxy.interfaces import IReporter
from llmproxy.values import UsageRecord

IDLE_S: Final = 1800.0
"""After so long without a request a session has ended."""

MOST_SESSIONS: Final = 10_000
"""At once; one more ends the one that was silent for longest."""

LOOK_INTERVAL_S: Final = 15.0
"""How often it is looked which have ended."""


@attrs.define
class SessionSum:
    """What a session came to.

    Attributes:
        first_s: When its first request began, on the clock.
        last_s: When its last request ended, on the clock.
        requests: How many.
        errors: Those with another outcome than ``ok``.
        prompt_tokens: Of all of them.
        completion_tokens: Of all of them.
        total_tokens: Of all of them.
        tool_calls: Of all of them.
    """

    first_s: float
    last_s: float
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    tool_calls: int = 0

    @property
    def duration_s(self) -> float:
        """From the start of its first request to the end of its last."""
        return self.last_s - self.first_s


@implementer(IReporter)
class SessionSums(Service):
    """Sums the requests of each session.

    Requests without a session's id, or without a key, belong to none.

    Args:
        clock: Tells when sessions have ended.
        on_end: Called with each that has.
        idle_s: See `IDLE_S`.
        most: See `MOST_SESSIONS`.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        on_end: Callable[[SessionSum], None],
        *,
        idle_s: float = IDLE_S,
        most: int = MOST_SESSIONS,
    ) -> None:
        self._clock = clock
        self._on_end = on_end
        self._idle_s = idle_s
        self._most = most
        # In the order in which they were last heard of. Clients choose the ids, so a key's
        # sessions are its own.
        self._sums: OrderedDict[tuple[str, str], SessionSum] = OrderedDict()
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock

    def __repr__(self) -> str:
        return f"<SessionSums active={self.active}>"

    @property
    def active(self) -> int:
        """How many sessions are going on."""
        return len(self._sums)

    def startService(self) -> None:
        """Begin to look for sessions that have ended."""
        super().startService()
        self._loop.start(LOOK_INTERVAL_S, now=False)

    def stopService(self) -> None:
        """Look no more; those that go on are not told of."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def report(self, record: UsageRecord) -> None:
        """Add a record to its session; see `IReporter`."""
        if not record.session_id or not record.key_id:
            return
        now_s = self._clock.seconds()
        place = (record.key_id, record.session_id)
        total = self._sums.get(place)
        if total is None:
            if len(self._sums) >= self._most:
                self._end_oldest()
            total = self._sums[place] = SessionSum(now_s - record.duration_ms / 1000, now_s)
        else:
            self._sums.move_to_end(place)
        total.last_s = now_s
        total.requests += 1
        usage = record.usage
        total.prompt_tokens += usage.prompt_tokens
        total.completion_tokens += usage.completion_tokens
        total.total_tokens += usage.total_tokens
        if record.tool_calls:
            total.tool_calls += sum(record.tool_calls.values())
        if record.outcome != "ok":
            total.errors += 1

    def _look(self) -> None:
        until_s = self._clock.seconds() - self._idle_s
        while self._sums and next(iter(self._sums.values())).last_s <= until_s:
            self._end_oldest()

    def _end_oldest(self) -> None:
        _, total = self._sums.popitem(last=False)
        try:
            self._on_end(total)
        except Exception:  # noqa: BLE001 - neither the request nor the loop ends with it
            self._log.failure("the end of a session cannot be told")
