"""One reporter of the configuration: where it sends, how patiently, and how that goes."""

from __future__ import annotations

import attrs
from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from llmproxy.deliveries import ReporterType
from llmproxy.interfaces import IUsageSink


@attrs.frozen
class DeliveryPolicy:
    """How a reporter is delivered to.

    Attributes:
        batch_size: Events in one delivery, at most.
        batch_interval_s: How long an event waits for others.
        max_backoff_s: Longest wait between two tries.
        give_up_after_s: A delivery that failed for so long becomes a dead letter; 0: never.
    """

    batch_size: int
    batch_interval_s: float
    max_backoff_s: float
    give_up_after_s: float


@attrs.define(eq=False)
class Receiver:
    """A reporter, and what is counted of it since the start of the process.

    Attributes:
        name: Its name.
        type: Its type.
        sink: Where it sends.
        policy: How patiently.
        one_at_a_time: Held by the delivery that is under way.
        is_gone: Whether it wants nothing more.
        delivered_batches: Deliveries that it took.
        delivered_records: Events in them.
        failed_tries: Tries that failed.
        dead_letters: Deliveries that were given up.
        skipped_records: Events that were deleted before it had them.
        rests_until_s: When it may be asked again, on the clock; it said so itself.
        last_error: Why the last try failed; empty when it did not.
    """

    _log = Logger()

    name: str
    type: ReporterType
    sink: IUsageSink
    policy: DeliveryPolicy
    one_at_a_time: DeferredLock = attrs.field(factory=DeferredLock, repr=False)
    is_gone: bool = False
    delivered_batches: int = 0
    delivered_records: int = 0
    failed_tries: int = 0
    dead_letters: int = 0
    skipped_records: int = 0
    rests_until_s: float = float("-inf")
    last_error: str = ""

    def took(self, records: int) -> None:
        """Note a delivery that it took."""
        self.delivered_batches += 1
        self.delivered_records += records
        if self.last_error:
            self.last_error = ""
            self._log.info("reporter {name} takes records again", name=self.name)

    def failed(self, reason: str) -> None:
        """Note a try that failed; the same reason is logged once."""
        self.failed_tries += 1
        if reason != self.last_error:
            self._log.warn(
                "reporter {name} does not take records: {reason}; they wait in the spool",
                name=self.name,
                reason=reason,
            )
        self.last_error = reason

    def rest(self, now_s: float, wait_s: float) -> None:
        """Leave it alone for a while, in every delivery, as far as the policy's longest wait."""
        until_s = now_s + min(wait_s, self.policy.max_backoff_s)
        self.rests_until_s = max(self.rests_until_s, until_s)

    def gave_up(self, batch_id: str, reason: str) -> None:
        """Note a delivery that became a dead letter."""
        self.dead_letters += 1
        self._log.error(
            "delivery {batch} to reporter {name} is given up, and is a dead letter now: {reason}",
            batch=batch_id,
            name=self.name,
            reason=reason,
        )

    def skipped(self, records: int) -> None:
        """Note events that were deleted before it had them; who deleted them tells of it."""
        self.skipped_records += records

    def gone(self, reason: str) -> None:
        """Note that it wants nothing more."""
        self.failed_tries += 1
        self.last_error = reason
        if not self.is_gone:
            self.is_gone = True
            self._log.critical(
                "reporter {name} wants no more records and is disabled until the next start; "
                "they wait in the spool: {reason}",
                name=self.name,
                reason=reason,
            )
