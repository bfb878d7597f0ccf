"""What tests of the spool share: records, a part of a spool, receivers that do as they are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from llmproxy.config.model_usage import Usage
from llmproxy.config.setting import Duration, Size
from llmproxy.deliveries import Batch
from llmproxy.interfaces import IUsageSink
from llmproxy.usage.cursor import Cursor
from llmproxy.usage.dead_letters import DeadLetters
from llmproxy.usage.delivery import Delivery
from llmproxy.usage.receiver import DeliveryPolicy, Receiver
from llmproxy.usage.slot import Slot, take_slot
from llmproxy.usage.spool import Spool
from llmproxy.values import StreamAlert, UsageRecord
from llmproxy.values import Usage as Tokens

START_S = 1_800_000_000.0
"""When the clocks of tests begin."""

POLICY = DeliveryPolicy(
    batch_size=100, batch_interval_s=5.0, max_backoff_s=60.0, give_up_after_s=3600.0
)


def clock_of_tests() -> Clock:
    """Give a clock that shows a time of this century."""
    clock = Clock()
    clock.advance(START_S)
    return clock


def record(record_id: str = "r0", **fields: Any) -> UsageRecord:
    """Give a record."""
    return UsageRecord(
        **{
            "id": record_id,
            "time": START_S,
            "request_id": f"req_{record_id}",
            "endpoint": "/v1/chat/completions",
            "key_id": "key-1",
            "key_name": "alice-laptop",
            "user_id": "alice",
            "model": "m",
            "backend": "b",
            "usage": Tokens(10, 20, 30),
            "usage_source": "exact",
            "outcome": "ok",
            "status": 200,
            **fields,
        }
    )


def alert(request_id: str = "a0") -> StreamAlert:
    """Give an alert."""
    return StreamAlert(kind="long_stream", time=START_S, request_id=request_id)


def ids_of(batches: list[Batch]) -> list[str]:
    """Give the ids of the records in batches, or the request ids of alerts."""
    found = [msgspec.json.decode(event) for batch in batches for event in batch.events]
    return [one.get("id") or one["request_id"] for one in found]


def settings(folder: Path, **fields: Any) -> Usage:
    """Give a section ``usage``."""
    if "spool_max_size" in fields:
        fields["spool_max_size"] = Size(fields["spool_max_size"])
    if "spool_retention" in fields:
        fields["spool_retention"] = Duration(fields["spool_retention"])
    return Usage(spool_dir=str(folder / "spool"), **fields)


@implementer(IUsageSink)
class FakeSink:
    """A receiver.

    Attributes:
        tries: All batches that it was offered.
        taken: Those that it took.
        error: What it fails with; None: it takes them.
        held: Deliveries that it does not answer, while `holds`.
        holds: Whether it leaves deliveries without an answer.
    """

    def __init__(self, *kinds: str) -> None:
        self.kinds = frozenset(kinds or ("usage", "alert"))
        self.tries: list[Batch] = []
        self.taken: list[Batch] = []
        self.error: Exception | None = None
        self.holds = False
        self.held: list[Deferred[None]] = []

    def deliver(self, batch: Batch) -> Deferred[None]:
        """Take a batch, or not."""
        self.tries.append(batch)
        if self.holds:
            held: Deferred[None] = Deferred()
            self.held.append(held)
            return held.addCallback(lambda _: self.taken.append(batch))
        if self.error is not None:
            return fail(self.error)
        self.taken.append(batch)
        return succeed(None)


class Highest(Random):
    """Chance that always gives the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        """Give the upper bound."""
        return b


class Numbers:
    """Makes ids that can be told apart."""

    def __init__(self, prefix: str = "msg_") -> None:
        self._prefix = prefix
        self.last = 0

    def __call__(self) -> str:
        """Make the next."""
        self.last += 1
        return f"{self._prefix}{self.last}"


class World:
    """A spool and one delivery from it, on a clock of their own.

    Args:
        folder: Where the spool is.
        sink: Where the delivery goes.
        policy: How.
        clock: Its time.
        usage: Further keys of the section ``usage``.
        write: As of `Spool`.
    """

    def __init__(
        self,
        folder: Path,
        sink: FakeSink | None = None,
        *,
        policy: DeliveryPolicy = POLICY,
        clock: Clock | None = None,
        name: str = "billing",
        new_id: Callable[[], str] | None = None,
        **more: Any,
    ) -> None:
        self.folder = folder
        self.clock = clock or clock_of_tests()
        self.sink = sink or FakeSink()
        spool_more = {"write": more.pop("write")} if "write" in more else {}
        self.settings = settings(folder, **more)
        self.slot: Slot = take_slot(self.settings.spool_dir)
        self.spool = Spool(
            self.slot,
            self.settings,
            clock=self.clock,
            now=self.clock.seconds,
            in_thread=maybeDeferred,
            **spool_more,
        )
        self.new_id = new_id or Numbers()
        self.dead_letters = DeadLetters(
            str(folder / "spool" / "dead-letters"), in_thread=maybeDeferred, new_id=self.new_id
        )
        self.receiver = Receiver(name, "webhook", self.sink, policy)
        self.cursor = Cursor(
            self.slot,
            name,
            self.sink.kinds,
            now=self.clock.seconds,
            new_id=self.new_id,
            is_given_up=lambda: self.receiver.is_gone,
            skipped=self.receiver.skipped,
        )
        self.delivery = self.make_delivery(self.receiver, self.cursor)

    def make_delivery(self, receiver: Receiver, source: Any, **more: Any) -> Delivery:
        """Make a delivery."""
        return Delivery(
            receiver,
            source,
            dead_letters=self.dead_letters,
            clock=self.clock,
            now=self.clock.seconds,
            random=Highest(),
            **more,
        )

    def start(self) -> None:
        """Start both."""
        self.spool.startService()
        self.delivery.startService()

    def pump(self, seconds: float = 0.0, step_s: float = 0.25) -> None:
        """Let time go by, and everything have its turns."""
        end_s = self.clock.seconds() + seconds
        while True:
            for _ in range(50):
                self.clock.advance(0)
            if self.clock.seconds() >= end_s:
                return
            self.clock.advance(step_s)

    def kill(self) -> None:
        """End as kill -9 would: nothing is written any more; the clock is of no more use."""
        self.slot.close()

    def stop(self) -> None:
        """End as SIGTERM would."""
        ends: list[Any] = []
        self.delivery.stopService().addBoth(ends.append)
        self.pump(10)
        self.spool.stopService().addBoth(ends.append)
        self.pump()
        assert ends == [None, None]
        self.slot.close()
        assert self.clock.getDelayedCalls() == []
