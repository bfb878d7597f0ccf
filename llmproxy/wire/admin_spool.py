"""The JSON of the spool in the admin API: how it stands, what is sent again, and dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import attrs
from msgspec import Meta, Struct

from llmproxy.deliveries import (
    DeadLetterSummary,
    EventKind,
    ReceiverStatus,
    ReporterState,
    SpoolStatus,
)
from llmproxy.errors import InvalidBody
from llmproxy.wire.admin import Count, Request
from llmproxy.wire.admin_keys import Flag
from llmproxy.wire.admin_sessions import Moment

ReporterName = Annotated[
    str, Meta(min_length=1, max_length=64, description="the name of a reporter")
]


class ShowSpool(Request, kw_only=True, forbid_unknown_fields=True):
    """``/admin/spool/status``: nothing is to be said."""


class ReplaySpool(Request, kw_only=True, forbid_unknown_fields=True):
    """``/admin/spool/replay``: what was spooled when, and which reporter; null: each of them."""

    since: Moment
    until: Moment | None = None
    reporter: ReporterName | None = None

    def check(self, at: str) -> None:
        """Check what types cannot say; see `Request.check`."""
        if self.until and self.until < self.since:
            raise InvalidBody(f"{at}until must not be before {at}since.", param=f"{at}until")


class AskDeadLetters(Request, kw_only=True, forbid_unknown_fields=True):
    """``/admin/spool/dead-letters``: whose, null: all; and whether they are to be tried again."""

    reporter: ReporterName | None = None
    redeliver: Flag = False


class ReporterShown(Struct, kw_only=True):
    """How a reporter stands; ``resending``: events sent again so far, null: none are."""

    name: str
    type: Literal["builtin", "webhook", "database", "log"]
    state: ReporterState
    backlog_records: Count
    backlog_bytes: Count
    oldest_s: float
    delivered_batches: Count
    delivered_records: Count
    failed_tries: Count
    dead_letters: Count
    dead_letter_bytes: Count
    skipped_records: Count
    last_error: str
    resending: Count | None


class SpoolShown(Struct, kw_only=True):
    """``/admin/spool/status``."""

    size_bytes: Count
    max_bytes: Count
    written_records: Count
    waiting_records: Count
    lost_records: Count
    damaged_records: Count
    reporters: tuple[ReporterShown, ...]


class SpoolReplayed(Struct, kw_only=True):
    """``/admin/spool/replay``: the reporters that are sent it again; why others are not."""

    reporters: tuple[str, ...]
    refused: Mapping[str, str]


class DeadLetterShown(Struct, kw_only=True):
    """A batch that was given up."""

    reporter: str
    id: str
    kind: EventKind
    events: Count
    size_bytes: Count
    first_try: datetime
    given_up: datetime
    tries: Count
    reason: str


class DeadLetterList(Struct, kw_only=True):
    """``/admin/spool/dead-letters``: those there are, or whose are tried again.

    Of very many the oldest of each reporter are shown. ``redelivered`` are the reporters whose are
    tried again, and ``refused`` says why others' are not.
    """

    dead_letters: tuple[DeadLetterShown, ...]
    redelivered: tuple[str, ...]
    refused: Mapping[str, str]


def spool_shown(status: SpoolStatus, reporters: Sequence[ReceiverStatus]) -> SpoolShown:
    """Give the spool and its reporters as the answer shows them."""
    return SpoolShown(
        **attrs.asdict(status),
        reporters=tuple(
            ReporterShown(**attrs.asdict(attrs.evolve(one, oldest_s=round(one.oldest_s, 3))))
            for one in reporters
        ),
    )


def dead_letter_shown(reporter: str, letter: DeadLetterSummary) -> DeadLetterShown:
    """Give a dead letter as the answer shows it."""
    return DeadLetterShown(
        reporter=reporter,
        id=letter.id,
        kind=letter.kind,
        events=letter.events,
        size_bytes=letter.size_bytes,
        first_try=datetime.fromtimestamp(letter.first_try_at_s, UTC),
        given_up=datetime.fromtimestamp(letter.given_up_at_s, UTC),
        tries=letter.tries,
        reason=letter.reason,
    )
