"""The ledger of budgets: counted here, kept in a store.

Everything is decided from memory. What was used goes to the store every half second, in one call
for all keys, and its answer, the sum over all processes, is what this one goes on from. So each
process may grant, beyond what is left, at most what the others have used since it last asked, which
is half a second for a key that is in use here, and a minute or two for one that was not. Exact over
several processes is ``rate_limit.storage: redis``.

A call whose outcome is not known, because the store was lost just then, is made again: what was
used may then count twice, never not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isinf
from typing import Final

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmproxy.entitlements import Quota, QuotaStanding
from llmproxy.errors import LimitsUnavailable, StoreUnavailable
from llmproxy.interfaces import ICounterStore
from llmproxy.limits.periods import period_end_s, period_start_s
from llmproxy.limits.quota_counter import QuotaCounter

FLUSH_INTERVAL_S: Final = 0.5


class QuotaLedger:
    """Counts the budgets of all keys.

    Without a store it counts from ``used_before`` whenever the process begins, and forgets nothing.

    Args:
        store: Where it is kept; None: nowhere.
        clock: Of the flushes.
        now: Gives the wall clock's time, seconds since the epoch.
        deny: Whether a key whose counter cannot be loaded is refused; else it counts from
            ``used_before`` until the store is back, and then on top of what is stored.

    Attributes:
        deny: As the argument; it may change.
    """

    _log = Logger()

    def __init__(
        self,
        store: ICounterStore | None,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
        deny: bool = False,
    ) -> None:
        self._store = store
        self._now = now
        self.deny = deny
        self._counters: dict[str, QuotaCounter] = {}
        self._loading: dict[str, list[Deferred[None]]] = {}
        self._due: dict[str, QuotaCounter] = {}
        self._flushing: Mapping[str, QuotaCounter] = {}
        self._lock = DeferredLock()  # one call that adds at a time: its answer leaves nothing out
        self._loop = LoopingCall(self._round)
        self._loop.clock = clock
        self._failing = False

    def __repr__(self) -> str:
        return (
            f"<QuotaLedger keys={len(self._counters)} loading={len(self._loading)}"
            f" unwritten={len(self._due) + len(self._flushing)}"
            f"{' failing' if self._failing else ''}>"
        )

    def start(self) -> None:
        """Begin to flush."""
        if self._store is not None:
            self._loop.start(FLUSH_INTERVAL_S, now=False)

    async def stop(self) -> None:
        """Flush a last time; what is settled after that is not written."""
        if self._loop.running:
            self._loop.stop()
        await self._round()
        if self._due:
            self._log.error(
                "the use of quotas of {count} keys could not be written", count=len(self._due)
            )

    def find(self, key_id: str, quota: Quota, now_s: float) -> QuotaCounter | None:
        """Give a key's counter, at that time; None when it must be loaded first."""
        counter = self._counters.get(key_id)
        if counter is None:
            if self._store is not None:
                return None
            self._counters[key_id] = counter = QuotaCounter(quota, now_s, known=True)
        else:
            counter.observe(quota.period, now_s)
        return counter

    def note(self, key_id: str, counter: QuotaCounter) -> None:
        """Have a counter flushed, for it was asked or has changed: so it learns of the others."""
        counter.rested = False
        if self._store is not None:
            self._due[key_id] = counter

    def load(self, key_id: str, quota: Quota) -> Deferred[None]:
        """Load a key's counter; those who wait for the same one share one question.

        Returns:
            A Deferred that fires when `find` gives it; it fails with `LimitsUnavailable`.
            Cancelling it ends the waiting, not the question, which may be others'.
        """
        first = key_id not in self._loading
        waiting = self._loading.setdefault(key_id, [])
        loaded: Deferred[None] = Deferred(waiting.remove)
        waiting.append(loaded)
        if first:
            asked = Deferred.fromCoroutine(self._load(key_id, quota))
            asked.addErrback(self._load_failed).addCallback(self._loaded, key_id)
        return loaded

    async def _load(self, key_id: str, quota: Quota) -> Failure | None:
        assert self._store is not None
        counter = QuotaCounter(quota, self._now(), known=False)
        try:
            said = await self._store.begin_quota_use({key_id: (counter.starts_s, counter.start)})
        except StoreUnavailable as error:
            self._store_failed(str(error))
            if self.deny:
                raise
        else:
            self._store_answered()
            counter.learn(*said[key_id])
        # An administrator may have set it while it was loaded: then that one counts.
        self._counters.setdefault(key_id, counter)
        return None

    def _load_failed(self, failure: Failure) -> Failure | None:
        if not failure.check(StoreUnavailable):
            self._log.failure("a quota's counter could not be loaded", failure=failure)
        return None

    def _loaded(self, _: object, key_id: str) -> None:
        waiting = self._loading.pop(key_id)
        while waiting:
            loaded = waiting.pop(0)
            if key_id in self._counters:
                loaded.callback(None)
            else:
                loaded.errback(LimitsUnavailable())

    async def used(self, quotas: Mapping[str, Quota]) -> Mapping[str, int]:
        """Say by key id how many tokens are used in the running period; see `ILimiter`."""
        now_s = self._now()
        if self._store is None:
            found = {key_id: self.find(key_id, quota, now_s) for key_id, quota in quotas.items()}
            return {key_id: one.used for key_id, one in found.items() if one is not None}
        met = {key_id: self._met(key_id, quota, now_s) for key_id, quota in quotas.items()}
        starts = {
            key_id: (period_start_s(quota.period, now_s), quota.used_before)
            if (counter := met[key_id]) is None
            else (counter.starts_s, counter.start)
            for key_id, quota in quotas.items()
        }
        if not quotas:
            return {}
        await self._lock.acquire()
        try:
            said = await self._store.begin_quota_use(starts)
            # Within the lock, for who has it next changes what is not told yet.
            return {
                key_id: self._learnt(key_id, starts[key_id][0], *said[key_id]) for key_id in starts
            }
        finally:
            self._lock.release()

    def _learnt(self, key_id: str, starts_s: int, stands_s: int, tokens: int) -> int:
        """Say what is used in a period, given what stands in the store."""
        counter = self._counters.get(key_id)
        if counter is not None:
            counter.learn(stands_s, tokens)
            return counter.used
        return tokens if stands_s >= starts_s else 0

    def _met(self, key_id: str, quota: Quota, now_s: float) -> QuotaCounter | None:
        counter = self._counters.get(key_id)
        if counter is not None:
            counter.observe(quota.period, now_s)
        return counter

    async def set_used(self, key_id: str, quota: Quota, tokens: int) -> None:
        """Set what is used in the running period; see `ILimiter`."""
        await self._lock.acquire()
        try:
            now_s = self._now()
            counter = self._met(key_id, quota, now_s)
            if counter is None:
                counter = QuotaCounter(quota, now_s, known=self._store is None)
            starts_s, told = counter.starts_s, counter.pending
            if self._store is not None:
                await self._store.set_quota_use(key_id, starts_s, tokens)
            if counter.starts_s == starts_s:
                counter.pending -= told  # what is settled after it was asked comes on top
            # If it was loaded meanwhile, that one was loaded from what stood before.
            self._counters.setdefault(key_id, counter).learn(starts_s, tokens)
        finally:
            self._lock.release()

    async def standing(self, key_id: str, quota: Quota) -> QuotaStanding:
        """Say how a key's budget stands; fails with `StoreUnavailable` if nothing is known."""
        used = 0
        try:
            used = (await self.used({key_id: quota}))[key_id]
        except StoreUnavailable:
            if key_id not in self._counters:
                raise
        now_s = self._now()
        counter = self._met(key_id, quota, now_s)
        if counter is None:
            ends_s = period_end_s(quota.period, now_s)
            return QuotaStanding(quota.total, used, 0, quota.period, ends_s)
        return QuotaStanding(
            quota.total,
            counter.used,
            counter.reserved,
            quota.period,
            None if isinf(counter.ends_s) else counter.ends_s,
        )

    def sweep(self) -> None:
        """Forget counters that the store knows as well, and nobody asked for since the last sweep.

        They are loaded anew when they are asked for.
        """
        if self._store is None:
            return
        for key_id, counter in list(self._counters.items()):
            if not counter.rested:
                counter.rested = True
            elif (
                counter.running == 0
                and counter.known
                and key_id not in self._due
                and key_id not in self._flushing
            ):
                del self._counters[key_id]

    def _round(self) -> Deferred[None]:
        flushed = Deferred.fromCoroutine(self._flush())
        return flushed.addErrback(self._round_failed)

    def _round_failed(self, failure: Failure) -> None:
        if failure.check(StoreUnavailable):
            self._store_failed(failure.getErrorMessage())
        else:
            self._log.failure("the use of quotas was not written; the next try comes", failure)

    async def _flush(self) -> None:
        await self._lock.acquire()
        due, self._due = self._due, {}
        self._flushing = due
        try:
            if due:
                await self._write(due)
                self._store_answered()
        except BaseException:
            self._due = {**due, **self._due}
            raise
        finally:
            self._flushing = {}
            self._lock.release()

    async def _write(self, due: Mapping[str, QuotaCounter]) -> None:
        assert self._store is not None
        unknown = {key: (one.starts_s, one.start) for key, one in due.items() if not one.known}
        if unknown:
            for key, said in (await self._store.begin_quota_use(unknown)).items():
                due[key].learn(*said)
        uses = {}
        for key, counter in due.items():
            uses[key] = (counter.starts_s, counter.pending)
            counter.pending = 0
        try:
            answer = await self._store.add_quota_use(uses)
        except BaseException:
            for key, (starts_s, tokens) in uses.items():
                if due[key].starts_s == starts_s:  # else nobody asks for that period any more
                    due[key].pending += tokens
            raise
        for key, said in answer.items():
            due[key].learn(*said)

    def _store_failed(self, reason: str) -> None:
        if not self._failing:
            self._failing = True
            self._log.error("the use of quotas cannot be read or written: {reason}", reason=reason)

    def _store_answered(self) -> None:
        if self._failing:
            self._failing = False
            self._log.info("the use of quotas can be read and written again")
