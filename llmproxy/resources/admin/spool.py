"""The operations on the spool: how it stands, to send again, and what was given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from llmproxy.interfaces import ISpoolControl
from llmproxy.resources.admin import operations
from llmproxy.resources.admin.envelope import Refusal
from llmproxy.resources.admin.operations import Done, Note, Operation, Run
from llmproxy.values import SpoolStatus
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

_LAST_S: Final = 253_402_300_800.0
"""After all times that can be written: year 10000."""


class SpoolOperations:
    """Shows the spool, and has it deliver again.

    Args:
        control: The spool; None: there is none, as nobody reports.
    """

    def __init__(self, control: ISpoolControl | None) -> None:
        self._control = control

    def runs(self) -> Mapping[Operation, Run]:
        """Give what does each operation."""
        return {
            operations.SHOW_SPOOL: self._show,
            operations.REPLAY_SPOOL: self._replay,
            operations.DEAD_LETTERS: self._dead_letters,
        }

    async def _show(self, request: ShowSpool, note: Note) -> Done:
        del request, note
        return Done("This is how the spool stands.", spool_shown(self._status()))

    async def _replay(self, request: ReplaySpool, note: Note) -> Done:
        until_s = _LAST_S if request.until is None else request.until.timestamp()
        records: dict[str, int] = {}
        for control, name in self._chosen(request.reporter):
            records[name] = await control.replay(name, request.since.timestamp(), until_s)
            note(f"had {records[name]} usage records sent to reporter {name} again")
        return Done("They are going to be sent again.", SpoolReplayed(records=records))

    async def _dead_letters(self, request: AskDeadLetters, note: Note) -> Done:
        letters: list[DeadLetterShown] = []
        total = redelivered = 0
        for control, name in self._chosen(request.reporter):
            if request.redeliver:
                count = await control.redeliver(name)
                note(f"had {count} dead letters of reporter {name} tried again")
                redelivered += count
            else:
                found = await control.dead_letters(name)
                total += len(found)
                letters += [dead_letter_shown(name, letter) for letter in found[:MOST_LETTERS]]
        return Done(
            "They are tried again." if request.redeliver else "These are the dead letters.",
            DeadLetterList(dead_letters=tuple(letters), total=total, redelivered=redelivered),
        )

    def _status(self) -> SpoolStatus:
        return SpoolStatus() if self._control is None else self._control.status()

    def _chosen(self, name: str | None) -> Sequence[tuple[ISpoolControl, str]]:
        """Give the reporters that are meant, with what knows them."""
        control = self._control
        names = [one.name for one in self._status().reporters]
        if name is not None and name not in names:
            raise Refusal(404, "There is no reporter of that name.", param="reporter")
        if control is None:
            return ()
        return [(control, one) for one in names if name in (None, one)]
