"""The seams of what is reported: records, alerts, and their way to who receives them."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from llmproxy.deliveries import Batch, DeadLetterSummary, ReceiverStatus, SpoolStatus
    from llmproxy.values import StreamAlert, UsageFilter, UsageRecord, UsageTotal


class IReporter(Interface):
    """Takes the one record of each exchange."""

    def report(record: UsageRecord) -> None:
        """Take a record; never raises, never blocks for long."""


class IAlerts(Interface):
    """Takes alerts."""

    def alert(alert: StreamAlert) -> None:
        """Take an alert; never raises, never blocks for long."""


class IUsageTotals(Interface):
    """What was used, added up by day, key, user and model."""

    def usage(
        wanted: UsageFilter,
    ) -> Deferred[Sequence[tuple[Mapping[str, str], UsageTotal]]]:
        """Give totals, each with the values of ``wanted.group_by``, ordered by them.

        All that was reported until now is in them. Fails with `StoreUnavailable`.
        """


class IUsageSink(Interface):
    """Where one reporter's events go: a service, a table, a log."""

    kinds: frozenset[str] = Attribute("The kinds of events that it takes; others pass it by.")

    def deliver(batch: Batch) -> Deferred[None]:
        """Deliver a batch: all of it, or what came through may come again under the same ids.

        Returns:
            A Deferred that fires when the receiver has the batch for good. It fails with
            `DeliveryFailed` when the batch is to be tried again, with `EventsRefused` when it has
            all but some that need not be tried again, with `ReceiverGone` when nothing is ever to
            be tried again. Cancelling it leaves it open whether the batch came through.
        """


class IMetering(Interface):
    """The spool and its reporters, for administrators and metrics."""

    def spool_status() -> SpoolStatus:
        """Say how it goes with the spool."""

    def receiver_statuses() -> Sequence[ReceiverStatus]:
        """Say how it goes with each reporter, in the order of the configuration."""

    def whole_status() -> Awaitable[tuple[SpoolStatus, Sequence[ReceiverStatus]]]:
        """Say the same of every part of the spool, those of other processes too.

        What waits in those, and their size, is counted in; everything else is of this process.

        Returns:
            Awaitable; it fails with `OSError` when the spool cannot be read.
        """


class IResending(Interface):
    """What an administrator may have sent again."""

    def replay(name: str, since_s: float | None, until_s: float | None) -> None:
        """Send a reporter once more what it has and the spool still holds, as new deliveries.

        That is what stands in any part of the spool, also of processes that run or ran beside this
        one. It goes on aside, beside what is new; a stop of the daemon ends it.

        Args:
            name: The reporter.
            since_s: Only what was written then or later, seconds since the epoch; None: all.
            until_s: Only what was written before; None: all.

        Raises:
            KeyError: There is none of that name.
            ResendRefused: It is disabled, or is being sent something again already.
            OSError: The spool cannot be read.
        """

    def dead_letters(name: str, limit: int) -> Deferred[Sequence[DeadLetterSummary]]:
        """List a reporter's dead letters, oldest first.

        Args:
            name: The reporter.
            limit: How many, at most.

        Returns:
            A Deferred of them. It fails with `KeyError` when there is no such reporter, with
            `OSError` when they cannot be read. Cancelling it stops the waiting alone.
        """

    def resend_dead_letters(name: str) -> None:
        """Send a reporter its dead letters, as new deliveries; those that it takes are deleted.

        Raises:
            KeyError: There is none of that name.
            ResendRefused: It is disabled, or is being sent something again already, by another
                process perhaps.
            OSError: They cannot be read.
        """
