"""The operations on the spool: how it stands, to send again, and what was given up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from llmproxy.deliveries import DeadLetterSummary, ReceiverStatus, SpoolStatus
from llmproxy.errors import ResendRefused
from llmproxy.interfaces import IMetering, IResending
from llmproxy.resources.admin import operations
from llmproxy.resources.admin.envelope import Refusal
from llmproxy.resources.admin.operations import Done, Note, Operation, Run
from llmproxy.wire.admin_spool import (
    AskDeadLetters,
    DeadLetterList,
    DeadLetterShown,
    ReplaySpool,
    ShowSpool,
    SpoolReplayed,
    dead_letter_shown,
    spool_shown,
)

MOST_LETTERS: Final = 1000
"""Shown of each reporter: to write more would hold up the requests of others."""


class SpoolOperations:
    """Shows the spool, and has it deliver again.

    Args:
        metering: The spool; None: there is none, as nobody reports.
        resending: Sends again; None with the spool.
    """

    def __init__(self, metering: IMetering | None, resending: IResending | None) -> None:
        self._metering = metering
        self._resending = resending

    def runs(self) -> Mapping[Operation, Run]:
        """Give what does each operation."""
        return {
            operations.SHOW_SPOOL: self._show,
            operations.REPLAY_SPOOL: self._replay,
            operations.DEAD_LETTERS: self._dead_letters,
        }

    async def _show(self, request: ShowSpool, note: Note) -> Done:
        del request, note
        status = SpoolStatus()
        statuses: Sequence[ReceiverStatus] = ()
        if self._metering is not None:
            try:
                status, statuses = await self._metering.whole_status()
            except OSError as error:
                raise _unreadable(error) from error
        shown = [
            # What is there now: the count since the start is for metrics.
            attrs.evolve(one, dead_letters=len(await self._letters(one.name)))
            for one in statuses
        ]
        return Done("This is how the spool stands.", spool_shown(status, shown))

    async def _replay(self, request: ReplaySpool, note: Note) -> Done:
        since_s = request.since.timestamp()
        until_s = None if request.until is None else request.until.timestamp()

        def replay(resending: IResending, name: str) -> None:
            resending.replay(name, since_s, until_s)
            note(f"had usage records sent to reporter {name} again")

        reporters, refused = self._begin(request.reporter, replay)
        replayed = SpoolReplayed(reporters=tuple(reporters), refused=refused)
        return Done("They are being sent again.", replayed)

    async def _dead_letters(self, request: AskDeadLetters, note: Note) -> Done:
        letters: list[DeadLetterShown] = []
        redelivered: Sequence[str] = ()
        refused: Mapping[str, str] = {}
        if request.redeliver:

            def redeliver(resending: IResending, name: str) -> None:
                resending.resend_dead_letters(name)
                note(f"had the dead letters of reporter {name} tried again")

            redelivered, refused = self._begin(request.reporter, redeliver)
        else:
            for name in self._chosen(request.reporter):
                found = await self._letters(name)
                letters += [dead_letter_shown(name, letter) for letter in found]
        return Done(
            "They are being tried again." if request.redeliver else "These are the dead letters.",
            DeadLetterList(
                dead_letters=tuple(letters), redelivered=tuple(redelivered), refused=refused
            ),
        )

    def _begin(
        self, wanted: str | None, begin: Callable[[IResending, str], None]
    ) -> tuple[Sequence[str], Mapping[str, str]]:
        """Begin something for one reporter, or for each that is free.

        Returns:
            Those for which it was begun, and why it was not for the others.

        Raises:
            Refusal: It cannot be begun for the one that was named.
        """
        begun: list[str] = []
        refused: dict[str, str] = {}
        for name in self._chosen(wanted):
            assert self._resending is not None  # where there are reporters there is it
            try:
                begin(self._resending, name)
            except ResendRefused as error:
                if wanted is not None:
                    raise Refusal(409, f"{name}: {error}", param="reporter") from error
                refused[name] = str(error)
            except OSError as error:
                raise _unreadable(error) from error
            else:
                begun.append(name)
        return begun, refused

    def _statuses(self) -> Sequence[ReceiverStatus]:
        return () if self._metering is None else self._metering.receiver_statuses()

    async def _letters(self, name: str) -> Sequence[DeadLetterSummary]:
        """Give the dead letters of a reporter, the oldest of very many."""
        assert self._resending is not None
        try:
            return await self._resending.dead_letters(name, MOST_LETTERS)
        except OSError as error:
            raise _unreadable(error) from error

    def _chosen(self, wanted: str | None) -> Sequence[str]:
        """Give the names of the reporters that are meant."""
        names = [one.name for one in self._statuses()]
        if wanted is not None and wanted not in names:
            raise Refusal(404, "There is no reporter of that name.", param="reporter")
        return [one for one in names if wanted in (None, one)]


def _unreadable(error: OSError) -> Refusal:
    return Refusal(503, f"The spool cannot be read: {error.strerror or error}.")
