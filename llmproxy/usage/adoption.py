"""Parts of the spool that nobody holds any more are delivered by a daemon that runs.

A daemon that was killed and not started again, or one of several workers that is gone, leaves
records behind. It knows nothing of how they are delivered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from llmproxy.rounds import Rounds
from llmproxy.usage.other_parts import waiting_strangers
from llmproxy.usage.retention import Retention
from llmproxy.usage.slot import Slot, slot_directories, try_slot
from llmproxy.usage.slot_deliveries import SlotDeliveries

ADOPTION_S: Final = 10.0
"""How often it is looked for parts that nobody holds."""


class Adoption(Service):
    """Takes such parts, and gives them back once they are delivered.

    What is delivered of them is kept for its time like everything else. A part with something for a
    reporter that is not known here stays as it is: a daemon with another configuration may come
    back for it.

    Args:
        spool_dir: Where the parts are.
        deliver: Makes the deliveries from a part; they are not started.
        make_retention: Makes what deletes the old files of a part.
        clock: The reactor's time.

    Attributes:
        adopted: What is delivered now.
        damaged_records: Damage in parts that were given back.
    """

    _log = Logger()

    def __init__(
        self,
        spool_dir: str,
        *,
        deliver: Callable[[Slot], SlotDeliveries],
        make_retention: Callable[[Slot], Retention],
        clock: IReactorTime,
    ) -> None:
        self._spool_dir = spool_dir
        self._deliver = deliver
        self._make_retention = make_retention
        self._rounds = Rounds(self._look, clock=clock, interval_s=ADOPTION_S, log=self._log)
        self.adopted: list[SlotDeliveries] = []
        self.damaged_records = 0
        self._told: set[tuple[str, str]] = set()  # parts, and whom they have something for

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        self._rounds.start()

    def stopService(self) -> Deferred[None]:
        """Give back every part, after a last try to deliver what is left."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._rounds.stop()
        for deliveries in tuple(self.adopted):
            await self._give_back(deliveries)

    async def _look(self) -> None:
        for deliveries in tuple(self.adopted):
            if deliveries.has_backlog:
                self._trim(deliveries)
            else:
                await self._give_back(deliveries)
        for directory in slot_directories(self._spool_dir):
            try:
                if slot := try_slot(directory):
                    await self._consider(slot)
            except OSError as error:
                self._log.error(
                    "what {slot} left behind cannot be delivered: {error}",
                    slot=directory,
                    error=error,
                )

    async def _consider(self, slot: Slot) -> None:
        try:
            deliveries = self._deliver(slot)
        except BaseException:
            slot.close()
            raise
        self.adopted.append(deliveries)
        if deliveries.has_backlog:
            self._log.info("records that {slot} left behind are delivered", slot=slot.directory)
            deliveries.startService()
        else:
            await self._give_back(deliveries)

    def _trim(self, deliveries: SlotDeliveries) -> None:
        slot = deliveries.slot
        try:
            stranger = next(waiting_strangers(slot, deliveries.cursors), None)
        except OSError as error:  # it is kept, and looked at again
            self._log.error("{slot} cannot be tidied: {error}", slot=slot.directory, error=error)
            return
        if stranger is None:
            self._make_retention(slot).trim()
        elif (slot.directory, stranger) not in self._told:
            self._told.add((slot.directory, stranger))
            self._log.warn(
                "{slot} is kept: it has records for reporter {stranger}, which is not configured "
                "here; delete its file {stranger}.cursor if nobody wants them",
                slot=slot.directory,
                stranger=stranger,
            )

    async def _give_back(self, deliveries: SlotDeliveries) -> None:
        self.adopted.remove(deliveries)
        slot = deliveries.slot
        self._trim(deliveries)  # while it is known who has still to read what
        if deliveries.running:
            await maybeDeferred(deliveries.stopService)
        else:
            for cursor in deliveries.cursors.values():
                cursor.close()
        self.damaged_records += slot.damage.records
        slot.close()
