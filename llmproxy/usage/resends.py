"""What an administrator has sent again: delivered records, and dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.logger import Logger
from zope.interface import implementer

from llmproxy.deliveries import DeadLetterSummary
from llmproxy.errors import ResendRefused
from llmproxy.interfaces import IResending
from llmproxy.usage.dead_letters import DeadLetters
from llmproxy.usage.delivery import Delivery
from llmproxy.usage.other_parts import place_in
from llmproxy.usage.part import Part
from llmproxy.usage.receiver import Receiver
from llmproxy.usage.replay import Replay
from llmproxy.usage.segments import Position
from llmproxy.usage.slot_deliveries import SlotDeliveries
from llmproxy.usage.sources import BatchSource


class MakeDelivery(Protocol):
    """Makes a delivery that ends with its source."""

    def __call__(
        self, receiver: Receiver, source: BatchSource, *, ended: Callable[[Delivery], None]
    ) -> Delivery:
        """Make one."""


@implementer(IResending)
class Resends(MultiService):
    """Deliveries beside those of what is new, one undertaking at a time for each reporter.

    They take turns with what is new, and are as patient; what they cannot deliver becomes a dead
    letter like everything else. Stopping ends them.

    Args:
        receivers: The reporters, by name.
        dead_letters: Those that were given up.
        own: This process's part of the spool.
        others: Gives the parts of others, as they are now; it fails with `OSError`.
        make_delivery: Makes a delivery to a reporter out of a source.
        now: Seconds since the epoch.
        new_id: Makes ids of batches.
    """

    _log = Logger()

    def __init__(
        self,
        receivers: Mapping[str, Receiver],
        *,
        dead_letters: DeadLetters,
        own: SlotDeliveries,
        others: Callable[[], Iterable[Part]],
        make_delivery: MakeDelivery,
        now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        super().__init__()
        self._receivers = receivers
        self._dead_letters = dead_letters
        self._own = own
        self._others = others
        self._make_delivery = make_delivery
        self._now = now
        self._new_id = new_id
        self._running: dict[str, list[Delivery]] = {}
        self._sent: dict[str, int] = {}  # by those that have ended, of what is under way

    def sent(self, name: str) -> int | None:
        """Say how many records a reporter was sent again so far; None: nothing is under way."""
        if name not in self._running:
            return None
        return self._sent[name] + sum(one.delivered_records for one in self._running[name])

    def replay(self, name: str, since_s: float | None, until_s: float | None) -> None:
        """Send once more what a reporter has; see `IResending`."""
        receiver = self._free(name)
        since = float("-inf") if since_s is None else since_s
        until = float("inf") if until_s is None else until_s
        own = self._own
        places: list[tuple[Part, Position]] = [(own.slot, own.cursors[name].position)]
        places += [
            (part, place) for part in self._others() if (place := place_in(part, name)) is not None
        ]
        sources = [
            Replay(
                part,
                place,
                lambda line: since <= line.time_s < until,
                receiver.sink.kinds,
                now=self._now,
                new_id=self._new_id,
            )
            for part, place in places
        ]
        self._log.info("reporter {name} is sent again what it has", name=name)
        self._begin(receiver, sources)

    def dead_letters(self, name: str, limit: int) -> Deferred[Sequence[DeadLetterSummary]]:
        """List dead letters; see `IResending`."""
        if name not in self._receivers:
            return fail(KeyError(name))
        return self._dead_letters.oldest(name, limit)

    def resend_dead_letters(self, name: str) -> None:
        """Send dead letters; see `IResending`."""
        receiver = self._free(name)
        source = self._dead_letters.claim(name, self._now)
        self._log.info("reporter {name} is sent its dead letters", name=name)
        self._begin(receiver, [source])

    def _free(self, name: str) -> Receiver:
        receiver = self._receivers[name]
        if receiver.is_gone:
            raise ResendRefused("it is disabled until the next start")
        if name in self._running:
            raise ResendRefused("it is being sent something again already")
        return receiver

    def _begin(self, receiver: Receiver, sources: Sequence[BatchSource]) -> None:
        name = receiver.name
        running = self._running[name] = []
        self._sent[name] = 0

        def ended(delivery: Delivery) -> None:
            running.remove(delivery)
            self._sent[name] += delivery.delivered_records
            maybeDeferred(delivery.disownServiceParent).addErrback(
                lambda failure: self._log.failure("a resending did not end well", failure=failure)
            )
            if running:
                running[0].setServiceParent(self)
            else:
                self._log.info(
                    "reporter {name} was sent {count} records again",
                    name=name,
                    count=self._sent[name],
                )
                del self._running[name]

        running.extend(self._make_delivery(receiver, source, ended=ended) for source in sources)
        # One after the other: each looks through files in its turn of the reactor.
        running[0].setServiceParent(self)
