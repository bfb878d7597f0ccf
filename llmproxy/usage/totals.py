"""Totals of usage by day, key, user and model, for budgets' owners and administrators.

Records are added up in memory and go to a store together, every second. It knows nothing of the
store's kind, and nothing of single records once they are added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import gmtime, strftime
from typing import Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from llmproxy.errors import StoreUnavailable
from llmproxy.interfaces import ICounterStore, IReporter, IUsageTotals
from llmproxy.values import UsageFilter, UsageRecord, UsageTotal

FLUSH_INTERVAL_S: Final = 1.0
"""What a kill loses of the totals, at most."""

MAX_PENDING: Final = 10_000
"""Different totals between two flushes; what is more goes to the model `OTHER_MODELS`."""

LONGEST_MODEL: Final = 256
"""Characters; where a backend takes any name, clients choose it."""

OTHER_MODELS: Final = "(other)"

Place = tuple[str, str, str, str]
"""Day, key id, user id, model."""


@attrs.define
class _Sum:
    """A total that grows."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    errors: int = 0


@implementer(IReporter, IUsageTotals)
class UsageTotals(Service):
    """Adds up what exchanges used.

    While the store fails, totals are kept and tried again; the outage is logged once. Stopping it
    writes a last time.

    Args:
        store: Where totals are kept.
        clock: Of the flushes.
        now: Seconds since the epoch.
    """

    _log = Logger()

    def __init__(self, store: ICounterStore, clock: IReactorTime, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._pending: dict[Place, _Sum] = {}
        self._day = ""
        self._day_ends_s = 0.0
        self._lock = DeferredLock()
        self._one_question = DeferredLock()
        self._is_failing = False
        self._loop = LoopingCall(self.flush)
        self._loop.clock = clock

    def __repr__(self) -> str:
        return f"<UsageTotals pending={len(self._pending)} failing={self._is_failing}>"

    @property
    def is_failing(self) -> bool:
        """Whether the store did not take the totals the last time."""
        return self._is_failing

    def startService(self) -> None:
        """Begin to flush."""
        super().startService()
        self._loop.start(FLUSH_INTERVAL_S, now=False)

    def stopService(self) -> Deferred[None]:
        """Flush a last time."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        return self.flush()

    def report(self, record: UsageRecord) -> None:
        """Add a record; those without a key belong to nobody."""
        if not record.key_id:
            return
        now_s = self._now()
        if not self._day or now_s >= self._day_ends_s or now_s < self._day_ends_s - 86400:
            self._day = strftime("%Y-%m-%d", gmtime(now_s))
            self._day_ends_s = (now_s // 86400 + 1) * 86400
        # A model that was not found is whatever the client wrote.
        model = record.model if record.upstream_model else ""
        if len(model) > LONGEST_MODEL:
            model = OTHER_MODELS
        place = (self._day, record.key_id, record.user_id, model)
        total = self._pending.get(place)
        if total is None:
            if len(self._pending) >= MAX_PENDING:
                place = (self._day, record.key_id, record.user_id, OTHER_MODELS)
            total = self._pending.setdefault(place, _Sum())
        total.requests += 1
        usage = record.usage
        total.prompt_tokens += usage.prompt_tokens
        total.completion_tokens += usage.completion_tokens
        total.total_tokens += usage.total_tokens
        if record.outcome != "ok":
            total.errors += 1

    def flush(self) -> Deferred[None]:
        """Write what was added up until now.

        Returns:
            A Deferred that fires when it is written, or kept for later. Cancelling it stops the
            waiting alone: half a write would be counted twice.
        """
        done: Deferred[None] = Deferred()
        Deferred.fromCoroutine(self._flush()).addCallback(done.callback)
        return done

    async def _flush(self) -> None:
        async with self._lock:
            pending, self._pending = self._pending, {}
            if not pending:
                return
            try:
                await self._store.add_usage(
                    {place: UsageTotal(**attrs.asdict(total)) for place, total in pending.items()}
                )
            except StoreUnavailable as error:
                self._keep(pending)
                if not self._is_failing:
                    self._is_failing = True
                    self._log.error("usage totals wait for their store: {error}", error=error)
            except Exception:  # noqa: BLE001 - the loop goes on, and nothing is lost
                self._keep(pending)
                self._is_failing = True
                self._log.failure("usage totals cannot be written")
            else:
                if self._is_failing:
                    self._is_failing = False
                    self._log.info("usage totals are written again")

    def _keep(self, unwritten: Mapping[Place, _Sum]) -> None:
        """Put back what could not be written."""
        for place, total in unwritten.items():
            kept = self._pending.setdefault(place, _Sum())
            for name, value in attrs.asdict(total).items():
                setattr(kept, name, getattr(kept, name) + value)

    def usage(
        self, wanted: UsageFilter
    ) -> Deferred[Sequence[tuple[Mapping[str, str], UsageTotal]]]:
        """Give totals; see `IUsageTotals`."""
        return Deferred.fromCoroutine(self._usage(wanted))

    async def _usage(self, wanted: UsageFilter) -> Sequence[tuple[Mapping[str, str], UsageTotal]]:
        # One after the other: whoever asks all the time is not to keep the store from looking up
        # keys meanwhile.
        async with self._one_question:
            await self.flush()
            if self._is_failing:
                raise StoreUnavailable("usage totals cannot be written now")
            return await self._store.usage(wanted)
