"""Every record is kept, and reaches who wants it: the spool, the reporters, and what joins them.

Part of the parts list: plain constructor calls, and the order in which these parts start and end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from os import urandom
from random import SystemRandom
from typing import Any, Final

import attrs
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.web.client import Agent
from zope.interface import implementer

from llmproxy.backends.bounded_body import read_bounded
from llmproxy.backends.reasons import reason_of
from llmproxy.config.checks_usage import webhook_key
from llmproxy.config.model_usage import Reporter, Usage
from llmproxy.deliveries import ReceiverStatus, SpoolStatus
from llmproxy.interfaces import IDatabase, IMetering, IRecordStore, IUsageSink
from llmproxy.usage.adoption import Adoption
from llmproxy.usage.dead_letters import DeadLetters
from llmproxy.usage.delivery import Delivery
from llmproxy.usage.log_sink import LogSink
from llmproxy.usage.other_parts import look_elsewhere, other_parts
from llmproxy.usage.receiver import DeliveryPolicy, Receiver
from llmproxy.usage.record_sinks import make_record_sink
from llmproxy.usage.resends import Resends
from llmproxy.usage.retention import Retention
from llmproxy.usage.slot import Slot, take_slot
from llmproxy.usage.slot_deliveries import SlotDeliveries
from llmproxy.usage.sources import BatchSource
from llmproxy.usage.spool import Spool
from llmproxy.usage.webhook_sink import WebhookSink

LOCAL_MAX_BACKOFF_S: Final = 60.0
"""Longest wait between two tries where the receiver is a store or a log of the operator's own."""

GIVE_UP_AFTER_S: Final = 259200.0
"""After which time a delivery to one of those becomes a dead letter."""

_DEAD_LETTERS: Final = "dead-letters"


@implementer(IMetering)
class Metering(MultiService):
    """The spool and its reporters.

    Stopped after the last request has concluded, it tries for a few seconds to deliver what is
    left; what is not delivered then is after the next start.

    Args:
        settings: The section ``usage``, with at least one reporter.
        reactor: The reactor.
        records: The gateway's own store of records; there is one for a ``builtin`` reporter.
        databases: By the names of ``storage.databases``; those that reporters name are there.

    Attributes:
        spool: Takes records and alerts.
        receivers: The reporters, in the order of the configuration.
        resends: What is sent again.

    Raises:
        OSError: The spool's directory cannot be used.
    """

    def __init__(
        self,
        settings: Usage,
        reactor: Any,
        *,
        records: IRecordStore | None,
        databases: Mapping[str, IDatabase],
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._spool_dir = settings.spool_dir
        self._random = SystemRandom()
        self.receivers = [
            Receiver(
                one.name,
                one.type,
                make_record_sink(one, records, databases) or self._make_sink(one),
                _policy(one),
            )
            for one in settings.reporters
        ]
        by_name = {receiver.name: receiver for receiver in self.receivers}
        self._dead_letters = DeadLetters(
            os.path.join(settings.spool_dir, _DEAD_LETTERS),
            in_thread=self._in_thread,
            new_id=_new_id,
        )
        self._slot = slot = take_slot(settings.spool_dir)
        self.spool = Spool(slot, settings, clock=reactor, now=time.time, in_thread=self._in_thread)
        self._own = self._deliver(slot)
        self._adoption = Adoption(
            settings.spool_dir,
            deliver=self._deliver,
            make_retention=lambda other: Retention(
                other,
                max_bytes=settings.spool_max_size,
                keep_s=settings.spool_retention,
                now=time.time,
            ),
            clock=reactor,
        )
        self.resends = Resends(
            by_name,
            dead_letters=self._dead_letters,
            own=self._own,
            others=lambda: other_parts(settings.spool_dir, {slot.directory}),
            make_delivery=self._make_delivery,
            now=time.time,
            new_id=_new_id,
        )
        for part in (self._own, self._adoption, self.resends):
            part.setServiceParent(self)

    def __repr__(self) -> str:
        return f"<Metering {self.spool!r} {self._own!r}>"

    def startService(self) -> None:
        """Begin to deliver."""
        self.spool.startService()
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Deliver what can be delivered in a few seconds, and keep the rest."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await maybeDeferred(super().stopService)
        await self.spool.stopService()
        self._slot.close()

    def hurry(self) -> None:
        """Deliver nothing more; what is left is delivered after the next start."""
        for part in self._parts:
            for delivery in part.deliveries.values():
                delivery.hurry()

    @property
    def _parts(self) -> list[SlotDeliveries]:
        """What is delivered from: this process's part of the spool, and adopted ones."""
        return [self._own, *self._adoption.adopted]

    def spool_status(self) -> SpoolStatus:
        """Say how it goes with the spool; see `IMetering`."""
        slots = [part.slot for part in self._parts]
        return SpoolStatus(
            size_bytes=sum(slot.segments.total_bytes for slot in slots),
            max_bytes=self.spool.max_bytes,
            written_records=self.spool.written_records,
            waiting_records=self.spool.waiting_records,
            lost_records=self.spool.lost_records,
            damaged_records=sum(slot.damage.records for slot in slots)
            + self._adoption.damaged_records,
        )

    def receiver_statuses(self) -> Sequence[ReceiverStatus]:
        """Say how it goes with each reporter; see `IMetering`."""
        return [self._status(receiver) for receiver in self.receivers]

    async def whole_status(self) -> tuple[SpoolStatus, Sequence[ReceiverStatus]]:
        """Say how it goes with every part of the spool; see `IMetering`."""
        elsewhere = await self._in_thread(
            look_elsewhere,
            self._spool_dir,
            {part.slot.directory for part in self._parts},
            {one.name: one.sink.kinds for one in self.receivers},
        )
        spool = self.spool_status()
        return (
            attrs.evolve(spool, size_bytes=spool.size_bytes + elsewhere.size_bytes),
            [
                attrs.evolve(
                    own,
                    backlog_records=own.backlog_records + other.records,
                    backlog_bytes=own.backlog_bytes + other.size_bytes,
                    oldest_s=max(own.oldest_s, time.time() - other.since_s),
                )
                for own in self.receiver_statuses()
                for other in (elsewhere.backlogs[own.name],)
            ],
        )

    def _status(self, receiver: Receiver) -> ReceiverStatus:
        cursors = [part.cursors[receiver.name] for part in self._parts]
        states = {part.deliveries[receiver.name].state for part in self._parts}
        return ReceiverStatus(
            name=receiver.name,
            type=receiver.type,
            state="disabled"
            if receiver.is_gone
            else next(state for state in ("delivering", "waiting", "idle") if state in states),
            backlog_records=sum(cursor.backlog_records for cursor in cursors),
            backlog_bytes=sum(cursor.backlog_bytes for cursor in cursors),
            oldest_s=max(cursor.oldest_s for cursor in cursors),
            delivered_batches=receiver.delivered_batches,
            delivered_records=receiver.delivered_records,
            failed_tries=receiver.failed_tries,
            dead_letters=receiver.dead_letters,
            dead_letter_bytes=self._dead_letters.size_bytes(receiver.name),
            skipped_records=receiver.skipped_records,
            last_error=receiver.last_error,
            resending=self.resends.sent(receiver.name),
        )

    def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), call, *arguments)

    def _deliver(self, slot: Slot) -> SlotDeliveries:
        return SlotDeliveries(
            slot,
            self.receivers,
            make_delivery=self._make_delivery,
            now=time.time,
            new_id=_new_id,
        )

    def _make_delivery(
        self,
        receiver: Receiver,
        source: BatchSource,
        *,
        ended: Callable[[Delivery], None] | None = None,
    ) -> Delivery:
        return Delivery(
            receiver,
            source,
            dead_letters=self._dead_letters,
            clock=self._reactor,
            now=time.time,
            random=self._random,
            ended=ended,
        )

    def _make_sink(self, reporter: Reporter) -> IUsageSink:
        """Make the sink of a reporter that keeps no records."""
        if reporter.type == "log":
            return LogSink()
        settings = reporter.webhook
        secrets = [one for one in (settings.secret, settings.previous_secret) if one]
        return WebhookSink(
            url=settings.url,
            headers=settings.headers,
            keys=tuple(webhook_key(secret) for secret in secrets),
            message_format=settings.format,
            timeout_s=settings.timeout,
            # Each message on a connection of its own: on one that the receiver is just closing, it
            # would fail, and wait for its next try.
            agent=Agent(self._reactor, connectTimeout=settings.timeout),
            read_body=read_bounded,
            reason_of=reason_of,
            clock=self._reactor,
            now=time.time,
        )


def _policy(reporter: Reporter) -> DeliveryPolicy:
    if reporter.type == "webhook":
        return DeliveryPolicy(
            batch_size=reporter.webhook.batch_size,
            batch_interval_s=reporter.webhook.batch_interval,
            max_backoff_s=reporter.webhook.max_backoff,
            give_up_after_s=reporter.webhook.give_up_after,
        )
    own = reporter.database  # its figures are right for what is on this machine, too
    return DeliveryPolicy(
        batch_size=own.batch_size,
        batch_interval_s=own.batch_interval,
        max_backoff_s=LOCAL_MAX_BACKOFF_S,
        give_up_after_s=GIVE_UP_AFTER_S,
    )


def _new_id() -> str:
    return "msg_" + urandom(16).hex()
