"""The JSON of the spool in the admin API: how it stands, what is sent again, and dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

import attrs
from msgspec import Meta, Struct

from llmproxy.errors import InvalidBody
from llmproxy.values import DeadLetter, EventKind, ReporterState, SpoolStatus
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
    """How a reporter stands."""

    name: str
    type: Literal["builtin", "webhook", "database", "log"]
    state: ReporterState
    backlog_records: Count
    backlog_bytes: Count
    oldest_s: float
    delivered: Count
    failed: Count
    dead_letters: Count
    last_error: str


class SpoolShown(Struct, kw_only=True):
    """``/admin/spool/status``."""

    size_bytes: Count
    lost: Count
    damaged: Count
    reporters: tuple[ReporterShown, ...]


class SpoolReplayed(Struct, kw_only=True):
    """``/admin/spool/replay``: how many records each reporter is going to be given again."""

    records: Mapping[str, Count]


class DeadLetterShown(Struct, kw_only=True):
    """A batch that was given up."""

    reporter: str
    id: str
    kind: EventKind
    events: Count
    size_bytes: Count
    given_up: datetime
    error: str


class DeadLetterList(Struct, kw_only=True):
    """``/admin/spool/dead-letters``: those there are, or how many are tried again.

    Of very many the oldest of each reporter are shown; ``total`` counts them all.
    """

    dead_letters: tuple[DeadLetterShown, ...]
    total: Count
    redelivered: Count


def spool_shown(status: SpoolStatus) -> SpoolShown:
    """Give the spool as the answer shows it."""
    return SpoolShown(
        size_bytes=status.size_bytes,
        lost=status.lost,
        damaged=status.damaged,
        reporters=tuple(
            ReporterShown(**attrs.asdict(attrs.evolve(one, oldest_s=round(one.oldest_s, 3))))
            for one in status.reporters
        ),
    )


def dead_letter_shown(reporter: str, letter: DeadLetter) -> DeadLetterShown:
    """Give a dead letter as the answer shows it."""
    return DeadLetterShown(
        reporter=reporter,
        id=letter.id,
        kind=letter.kind,
        events=letter.events,
        size_bytes=letter.size_bytes,
        given_up=datetime.fromtimestamp(letter.given_up_s, UTC),
        error=letter.error,
    )
