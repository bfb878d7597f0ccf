"""Frozen records of what the spool delivers, and how; they cross floors as `values` do."""

from __future__ import annotations

from typing import Literal

import attrs

EventKind = Literal["usage", "alert"]
"""What receivers are told: a usage record, or an alert."""


@attrs.frozen
class Batch:
    """Events that a receiver is given together.

    Attributes:
        id: The same at every try, also after a restart; of no other batch of that receiver.
        kind: What they are, all of them.
        events: One JSON object each, oldest first; at least one.
    """

    id: str
    kind: EventKind
    events: tuple[bytes, ...] = attrs.field(repr=False)


ReporterType = Literal["builtin", "webhook", "database", "log"]
"""The kinds of receivers of usage."""

ReporterState = Literal["idle", "delivering", "waiting", "disabled"]
"""How it goes with a reporter, as `ReceiverStatus` tells."""


@attrs.frozen(kw_only=True)
class ReceiverStatus:
    """How it goes with one reporter; counts are since the start of the process.

    Attributes:
        name: Its name.
        type: Its type.
        state: ``idle``: it has everything that is due; ``delivering``; ``waiting``: the next try
            comes later; ``disabled``: it wants nothing more, until the next start.
        backlog_records: Events that it does not have yet.
        backlog_bytes: Their size in the spool.
        oldest_s: How long the oldest of them has been waiting; 0: there is none.
        delivered_batches: Deliveries that it took.
        delivered_records: Events in them.
        failed_tries: Deliveries that it did not take, each try counted.
        dead_letters: Deliveries that were given up.
        dead_letter_bytes: The size of those, and of earlier ones, that were not sent again.
        skipped_records: Events that were deleted before it had them.
        last_error: Why the last try failed; empty when the last one did not.
        resending: Events of a replay, or of dead letters, that it was sent so far; None: there is
            none under way.
    """

    name: str
    type: ReporterType
    state: ReporterState
    backlog_records: int = 0
    backlog_bytes: int = 0
    oldest_s: float = 0.0
    delivered_batches: int = 0
    delivered_records: int = 0
    failed_tries: int = 0
    dead_letters: int = 0
    dead_letter_bytes: int = 0
    skipped_records: int = 0
    last_error: str = ""
    resending: int | None = None


@attrs.frozen(kw_only=True)
class SpoolStatus:
    """How it goes with the spool; counts are since the start of the process.

    Attributes:
        size_bytes: What it has on the disk, delivered or not.
        max_bytes: How much that may be.
        written_records: Events that were written.
        waiting_records: Events that wait in memory for room on the disk.
        lost_records: Events that found no room there either.
        damaged_records: Events that were found damaged, and are not delivered.
    """

    size_bytes: int = 0
    max_bytes: int = 0
    written_records: int = 0
    waiting_records: int = 0
    lost_records: int = 0
    damaged_records: int = 0


@attrs.frozen(kw_only=True)
class DeadLetter:
    """A delivery that was given up.

    Attributes:
        batch: What was to be delivered.
        given_up_at_s: When, seconds since the epoch.
        first_try_at_s: When it was tried first.
        tries: How often it was tried.
        reason: Why the last try failed.
    """

    batch: Batch
    given_up_at_s: float
    first_try_at_s: float
    tries: int
    reason: str


@attrs.frozen(kw_only=True)
class DeadLetterSummary:
    """A dead letter without what stands in it, which may be megabytes.

    Attributes:
        id: Of its batch.
        kind: Of its events.
        events: How many there are.
        size_bytes: How long they are together.
        given_up_at_s: As in `DeadLetter`.
        first_try_at_s: As in `DeadLetter`.
        tries: As in `DeadLetter`.
        reason: As in `DeadLetter`.
    """

    id: str
    kind: EventKind
    events: int
    size_bytes: int
    given_up_at_s: float
    first_try_at_s: float
    tries: int
    reason: str
