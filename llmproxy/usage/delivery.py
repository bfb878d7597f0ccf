"""Batches go from one source to one reporter: one at a time, in order, until each is taken.

It knows when a batch is due, how long to wait after a failure and when to give up. It knows nothing
of how a batch is sent, and nothing of where batches come from.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, Literal

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmproxy.deliveries import DeadLetter
from llmproxy.errors import DeliveryFailed, EventsRefused, ReceiverGone
from llmproxy.rounds import Rounds
from llmproxy.usage.dead_letters import DeadLetters
from llmproxy.usage.receiver import Receiver
from llmproxy.usage.sources import BatchSource, Pending
from llmproxy.wire.backoff import Backoff

ROUND_S: Final = 0.25
"""How often it is looked whether something is due; more often where an interval is shorter."""

FIRST_BACKOFF_S: Final = 1.0
"""The longest wait after the first failure; it doubles with each."""

FLUSH_S: Final = 5.0
"""How long stopping waits for what is not delivered yet."""

_MOST_DOUBLINGS: Final = 40


class Delivery(Service):
    """Delivers what a source gives.

    After a failure it waits a random time up to a bound that doubles (full jitter). A reporter that
    asks to be left alone gets nothing for so long, from no delivery. Stopping tries a last time,
    for a few seconds; not what has an end of its own.

    Args:
        receiver: The reporter.
        source: Gives the batches.
        dead_letters: Takes those that are given up.
        clock: The reactor's time.
        now: Seconds since the epoch.
        random: Spreads the tries.
        ended: Called once when the source has no more; None: it has no end.

    Attributes:
        source: Gives the batches.
        delivered_records: Events that were taken.
        state: What it does now.
    """

    _log = Logger()

    def __init__(
        self,
        receiver: Receiver,
        source: BatchSource,
        *,
        dead_letters: DeadLetters,
        clock: IReactorTime,
        now: Callable[[], float],
        random: Random,
        ended: Callable[[Delivery], None] | None = None,
    ) -> None:
        self._receiver = receiver
        self.source = source
        self._dead_letters = dead_letters
        self._clock = clock
        self._now = now
        self._random = random
        self._ended = ended
        self._policy = receiver.policy
        self._backoff = Backoff(
            initial_wait_s=FIRST_BACKOFF_S, max_wait_s=self._policy.max_backoff_s
        )
        self._rounds = Rounds(
            self._run,
            clock=clock,
            interval_s=min(ROUND_S, self._policy.batch_interval_s),
            log=self._log,
        )
        self._one_round = DeferredLock()
        self._pause: Deferred[None] | None = None
        self._is_ending = False
        self._has_tried_last = False
        self._last: Deferred[None] | None = None
        self._is_hurried = False
        self._is_unreadable = False
        self.delivered_records = 0
        self.state: Literal["idle", "delivering", "waiting"] = "idle"

    def __repr__(self) -> str:
        return f"<Delivery to {self._receiver.name}: {self.state}, {self.source!r}>"

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._rounds.start()

    def stopService(self) -> Deferred[None]:
        """Try a last time, for a few seconds, then give the source's place back."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._is_ending = True
        if self._ended is None:
            if self._pause is not None:
                self._pause.callback(None)
            if not self._is_hurried:
                self._last = last = Deferred.fromCoroutine(self._run())
                last.addTimeout(FLUSH_S, self._clock)
                await last.addErrback(self._not_flushed)
        await self._rounds.stop()
        self.source.close()

    def hurry(self) -> None:
        """Do without the last try, or with no more of it."""
        self._is_hurried = True
        if self._last is not None:
            self._last.cancel()

    def _not_flushed(self, failure: Failure) -> None:
        self._log.warn(
            "reporter {name} does not have everything; it is sent after the next start ({error})",
            name=self._receiver.name,
            error="it was broken off" if self._is_hurried else failure.value,
        )

    async def _run(self) -> None:
        """Deliver all that is due."""
        async with self._one_round:  # stopping runs it once more
            try:
                while self._is_due():
                    pending = self.source.take(self._policy.batch_size)
                    self._is_unreadable = False
                    if pending is not None and not await self._deliver(pending):
                        return
                    await deferLater(self._clock, 0, lambda: None)  # others have their turn
                if self._ended is not None and not self._is_ending:
                    self._is_ending = True
                    self._clock.callLater(0, self._ended, self)
            except OSError as error:  # of reading alone; each round tries again
                if not self._is_unreadable:
                    self._log.error(
                        "the spool cannot be read for reporter {name}: {error}",
                        name=self._receiver.name,
                        error=error,
                    )
                self._is_unreadable = True
            finally:
                self.state = "idle"

    def _is_due(self) -> bool:
        interval_s = 0.0 if self._is_ending else self._policy.batch_interval_s
        return not (self._receiver.is_gone or self._has_tried_last) and self.source.is_due(
            self._policy.batch_size, interval_s
        )

    async def _deliver(self, pending: Pending) -> bool:
        """Deliver a batch; False: not now."""
        receiver = self._receiver
        while await self._is_rested():
            self.state = "delivering"
            try:
                async with receiver.one_at_a_time:
                    if receiver.is_gone:
                        return False
                    if receiver.rests_until_s > self._clock.seconds():
                        continue  # another delivery was told so just now
                    try:
                        await receiver.sink.deliver(pending.batch)
                    except ReceiverGone as error:  # whoever waits for the lock is to know
                        receiver.gone(str(error))
                        return False
                    except DeliveryFailed as error:  # likewise
                        receiver.rest(self._clock.seconds(), error.retry_after_s or 0.0)
                        raise
            except CancelledError:
                raise
            except EventsRefused as error:
                reason = str(error)
                if await self._bury(pending, reason, error.events):
                    self._took(len(pending.batch.events) - len(error.events))
                    return True
            except DeliveryFailed as error:
                reason = str(error)
            except Exception as error:  # noqa: BLE001 - it stays in the spool, whatever it is
                self._log.failure("a delivery to reporter {name} failed", name=receiver.name)
                reason = str(error) or type(error).__name__
            else:
                self.source.done()
                self._took(len(pending.batch.events))
                return True
            self.source.failed()
            receiver.failed(reason)
            if self._is_hopeless(pending) and await self._bury(
                pending, reason, pending.batch.events
            ):
                return True
            if self._is_ending:
                self._has_tried_last = True
                return False
            limit_s = self._backoff.wait_s(min(pending.tries - 1, _MOST_DOUBLINGS))
            await self._wait(self._random.uniform(0, limit_s))
        return False

    async def _is_rested(self) -> bool:
        """Wait until the receiver may be asked; False: this delivery ends before."""
        while (rest_s := self._receiver.rests_until_s - self._clock.seconds()) > 0:
            if self._is_ending:
                return False
            await self._wait(rest_s)
        return True

    def _is_hopeless(self, pending: Pending) -> bool:
        limit_s = self._policy.give_up_after_s
        return limit_s > 0 and self._now() - pending.first_try_s - pending.away_s >= limit_s

    def _took(self, events: int) -> None:
        if events:
            self._receiver.took(events)
            self.delivered_records += events

    async def _bury(self, pending: Pending, reason: str, events: tuple[bytes, ...]) -> bool:
        """Make events of a batch a dead letter, and go on; False: that cannot be done now."""
        letter = DeadLetter(
            batch=attrs.evolve(pending.batch, events=events),
            given_up_at_s=self._now(),
            first_try_at_s=pending.first_try_s,
            tries=pending.tries,
            reason=reason,
        )
        try:
            await self._dead_letters.add(self._receiver.name, letter)
        except OSError as error:
            self._log.error("a dead letter cannot be written: {error}", error=error)
            return False
        self.source.done()
        self._receiver.gave_up(pending.batch.id, reason)
        return True

    async def _wait(self, wait_s: float) -> None:
        self.state = "waiting"
        pause: Deferred[None] = Deferred()
        self._pause = pause
        timer = self._clock.callLater(wait_s, pause.callback, None)
        try:
            await pause
        finally:
            self._pause = None
            if timer.active():
                timer.cancel()
