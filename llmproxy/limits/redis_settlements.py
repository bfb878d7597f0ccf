"""What was given back, on its way to Redis: in order, in batches, each of them exactly once.

One batch is on its way at a time, under a number of its own. It is sent again until there is a
reply, and the script applies a number only once: so a reply that was lost does no harm. It knows
nothing of how requests are granted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmproxy.interfaces import IRedis
from llmproxy.limits.redis_outage import RedisOutage
from llmproxy.limits.redis_plan import Plan
from llmproxy.limits.redis_scripts import SETTLE

How = Literal["s", "u", "m", "c", "r"]
"""As in `redis_scripts.SETTLE`."""

MOST_PENDING: Final = 10_000
"""While Redis is away, so many are kept."""

BATCH: Final = 100
"""So many go in one call: some milliseconds of Redis's time."""

RETRY_S: Final = 0.5
"""After a failure, the next try comes so much later."""


class Settlement:
    """One request's end.

    Args:
        plan: What limited it.
        how: What is to be done.
        lease: Its lease.
        asked: The tokens it asked for.
        spent: The tokens it used.
    """

    __slots__ = ("asked", "how", "lease", "plan", "spent")

    def __init__(self, plan: Plan, how: How, lease: str, asked: int = 0, spent: int = 0) -> None:
        self.plan = plan
        self.how = how
        self.lease = lease
        self.asked = asked
        self.spent = spent

    def __repr__(self) -> str:
        return f"<Settlement {self.how} {self.lease} asked={self.asked} spent={self.spent}>"


class Settlements:
    """Sends settlements to Redis.

    Args:
        redis: Where to.
        name: The Redis key that is this process's own, for the number of its last batch.
        clock: The reactor's time.
        now: The argument ``now`` of the scripts.
        outage: Is told of each call.

    Attributes:
        dropped: How many were lost because too many waited, or because Redis could not apply them.
    """

    _log = Logger()

    def __init__(
        self,
        redis: IRedis,
        *,
        name: bytes,
        clock: IReactorTime,
        now: Callable[[], str],
        outage: RedisOutage,
    ) -> None:
        self._redis = redis
        self._name = name
        self._clock = clock
        self._now = now
        self._outage = outage
        self._waiting: deque[Settlement] = deque()
        self._batch: list[Settlement] = []
        self._number = 0
        self._under_way = False
        self._retry: IDelayedCall | None = None
        self._stopped = False
        self._overflowing = False
        self._added = 0
        self._ended = 0
        self._watchers: list[tuple[int, Deferred[None]]] = []
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<Settlements pending={self.pending} dropped={self.dropped}>"

    @property
    def pending(self) -> int:
        """How many are not known to have reached Redis."""
        return len(self._waiting) + len(self._batch)

    def add(self, settlement: Settlement) -> None:
        """Send one, at once if nothing is on its way; never raises."""
        self._added += 1
        if len(self._waiting) >= MOST_PENDING:
            # Not one of the batch: it may have been applied.
            self._waiting.popleft()
            self._ended += 1
            self.dropped += 1
            if not self._overflowing:
                self._overflowing = True
                self._log.error(
                    "redis is away for too long: of what was used, the oldest is forgotten"
                )
        self._waiting.append(settlement)
        if self._retry is None:
            self._send()

    def caught_up(self) -> Deferred[None] | None:
        """Wait until all that was added before now has reached Redis.

        Returns:
            None if it has. Else a Deferred that fires when it has, or when the next try fails.
            Cancelling it ends the waiting.
        """
        if not self.pending:
            return None
        watcher: Deferred[None] = Deferred()
        self._watchers.append((self._added, watcher))
        return watcher

    def retry_now(self) -> None:
        """Try again what has failed."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
            self._send()

    async def stop(self) -> None:
        """Send what waits, and try nothing again after the first failure.

        What is added later is still sent, once.
        """
        self._stopped = True
        self.retry_now()
        while self._under_way:
            await (self.caught_up() or succeed(None))

    def _send(self) -> None:
        """Send the batch again, or a new one, unless one is on its way."""
        if self._under_way:
            return
        if not self._batch:
            if not self._waiting:
                return
            for _ in range(min(BATCH, len(self._waiting))):
                self._batch.append(self._waiting.popleft())
            self._number += 1
        names = [self._name]
        numbers: dict[Plan, int] = {}
        plans: list[str] = []
        items: list[str] = []
        for each in self._batch:
            plan = each.plan
            number = numbers.get(plan)
            if number is None:
                number = numbers[plan] = len(numbers) + 1
                plans.append(f"[{len(names)},{plan.text}]")
                names += plan.names
            items.append(f'[{number},"{each.how}","{each.lease}",{each.asked},{each.spent}]')
        self._under_way = True
        self._redis.run_script(
            SETTLE,
            names,
            (self._number, self._now(), f"[{','.join(plans)}]", f"[{','.join(items)}]"),
        ).addCallbacks(self._applied, self._failed).addErrback(self._broke)

    def _applied(self, not_applied: Any) -> None:
        self._under_way = False
        if not_applied:
            self.dropped += not_applied
            self._log.error(
                "redis holds something else under the names of limits or quotas: {count} requests "
                "could not be counted",
                count=not_applied,
            )
        self._ended += len(self._batch)
        self._batch.clear()
        self._overflowing = False
        self._outage.succeeded()
        self._tell(self._ended)
        self._send()

    def _failed(self, failure: Failure) -> None:
        self._under_way = False
        self._outage.failed(failure.value)
        if not self._stopped:
            self._retry = self._clock.callLater(RETRY_S, self._again)
        self._tell(self._added)

    def _broke(self, failure: Failure) -> None:
        self._log.failure("settling requests broke", failure=failure)

    def _again(self) -> None:
        self._retry = None
        self._send()

    def _tell(self, reached: int) -> None:
        watchers, self._watchers = self._watchers, []
        for wanted, watcher in watchers:
            if wanted > reached:
                self._watchers.append((wanted, watcher))
            elif not watcher.called:
                watcher.callback(None)
