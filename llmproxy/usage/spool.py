"""The spool: every record and alert is on the disk before its request is over.

It takes them, and keeps them until every reporter has them. It knows nothing of reporters.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from errno import EDQUOT, ENOSPC
from itertools import islice
from typing import Any, Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from llmproxy.config.model_usage import Usage
from llmproxy.deliveries import EventKind
from llmproxy.interfaces import IAlerts, IReporter
from llmproxy.rounds import Rounds
from llmproxy.usage.retention import Retention
from llmproxy.usage.segment_writer import SegmentWriter
from llmproxy.usage.slot import Slot
from llmproxy.usage.spool_sync import SpoolSync
from llmproxy.values import StreamAlert, UsageRecord
from llmproxy.wire.spool_line import encode_line
from llmproxy.wire.usage_record import encode_alert, encode_record

EVENT_BYTES: Final = 1 << 20
"""The longest event; a longer record loses its body, then the ends of its texts."""

SEGMENT_BYTES: Final = 8 << 20
"""The size of a file; smaller where the whole spool is small."""

WAITING_BYTES: Final = 8 << 20
"""How much waits in memory while nothing can be written."""

UPKEEP_S: Final = 1.0
"""How often waiting records are tried again, and old files looked for."""

_NO_ROOM: Final = frozenset((ENOSPC, EDQUOT))
_LEAST_FILES: Final = 8
_BLOCK_BYTES: Final = 1 << 16
_TEXT_LENGTH: Final = 256


@implementer(IReporter, IAlerts)
class Spool(Service):
    """Writes each event at once, in a system call of its own.

    On a full disk what is delivered goes before its time, the oldest first. When an event cannot be
    written all the same, it waits in memory, and is written in its order once that is possible
    again; what does not fit there either is lost, counted, and told of once. No failure reaches who
    reports.

    Args:
        slot: The part of the spool to write to; it is closed by its owner.
        settings: The section ``usage``.
        clock: The reactor's time.
        now: Seconds since the epoch.
        in_thread: Runs something in a thread.
        write: Writes to a descriptor and says how much; for tests.

    Attributes:
        max_bytes: How large it may be.
        written_records: Events that were written.
        lost_records: Events that found no room anywhere.
    """

    _log = Logger()

    def __init__(
        self,
        slot: Slot,
        settings: Usage,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
        in_thread: Callable[..., Deferred[Any]],
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        self._slot = slot
        self._now = now
        self.max_bytes = settings.spool_max_size
        segment_bytes = min(SEGMENT_BYTES, self.max_bytes // _LEAST_FILES)
        self._block_bytes = min(_BLOCK_BYTES, segment_bytes)
        self._writer = SegmentWriter(
            slot.segments, segment_bytes=segment_bytes, write=write, restore=slot.restore
        )
        self._retention = Retention(
            slot, max_bytes=self.max_bytes, keep_s=settings.spool_retention, now=now
        )
        self._sync = SpoolSync(
            self._writer,
            slot.directory,
            interval_s=settings.spool_sync_interval,
            clock=clock,
            in_thread=in_thread,
        )
        self._upkeep = Rounds(self._tidy, clock=clock, interval_s=UPKEEP_S, log=self._log)
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._has_lost = False  # since it could be written last
        self.written_records = 0
        self.lost_records = 0

    def __repr__(self) -> str:
        return (
            f"<Spool {self._slot!r} written={self.written_records} "
            f"waiting={self.waiting_records} lost={self.lost_records}>"
        )

    @property
    def waiting_records(self) -> int:
        """How many events wait in memory."""
        return len(self._waiting)

    def startService(self) -> None:
        """Begin to look after what waits, and what is old."""
        super().startService()
        self._upkeep.start()

    def stopService(self) -> Deferred[None]:
        """Write what waits, if that can be done, and force everything to the disk."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._upkeep.stop()
        self._write_waiting()
        if self._waiting:
            self._lose(self.waiting_records, "they could not be written before the end")
        await self._sync.stop()

    def report(self, record: UsageRecord) -> None:
        """Take a record; see `IReporter`."""
        try:
            self._take("usage", _within_limit(record))
        except Exception:  # noqa: BLE001 - no request is to fail for its record
            self._log.failure("a usage record cannot be kept")
            self._lose(1, "see above")

    def alert(self, alert: StreamAlert) -> None:
        """Take an alert; see `IAlerts`."""
        try:
            self._take("alert", encode_alert(alert))
        except Exception:  # noqa: BLE001 - no stream is to fail for it
            self._log.failure("an alert cannot be kept")
            self._lose(1, "see above")

    def _take(self, kind: EventKind, event: bytes) -> None:
        line = encode_line(kind, self._now(), event)
        if not self._waiting:
            try:
                self._append(line, 1)
            except OSError as error:
                self._log.error(
                    "the spool cannot be written, records wait in memory: {error}", error=error
                )
            else:
                return
        if self._waiting_bytes + len(line) > WAITING_BYTES:
            self._lose(1, "the spool cannot be written, and what may wait in memory does already")
            return
        self._waiting.append(line)
        self._waiting_bytes += len(line)

    def _append(self, block: bytes, lines: int) -> None:
        if not self._retention.has_room(len(block)):
            raise OSError(ENOSPC, "it has reached usage.spool_max_size")
        while True:
            try:
                self._writer.append(block, lines, self._now())
            except OSError as error:
                if error.errno not in _NO_ROOM or not self._retention.give_way():
                    raise
            else:
                break
        self.written_records += lines
        self._sync.written()

    async def _tidy(self) -> None:
        self._write_waiting()
        self._retention.trim()

    def _write_waiting(self) -> None:
        """Write what waits, as far as that is possible."""
        if not self._waiting:
            return
        while self._waiting:
            block, size_bytes = [self._waiting[0]], len(self._waiting[0])
            for line in islice(self._waiting, 1, None):
                size_bytes += len(line)
                if size_bytes > self._block_bytes:
                    break
                block.append(line)
            joined = b"".join(block)
            try:
                self._append(joined, len(block))
            except OSError:
                return  # it was told of when it began
            for _ in block:
                self._waiting.popleft()
            self._waiting_bytes -= len(joined)
        self._has_lost = False
        self._log.info("the spool is written again; nothing waits any more")

    def _lose(self, records: int, reason: str) -> None:
        self.lost_records += records
        if not self._has_lost:
            self._has_lost = True
            self._log.critical("usage records are lost: {reason}", reason=reason)


def _within_limit(record: UsageRecord) -> bytes:
    """Encode a record; one that is too long, without what makes it so."""
    if record.request_body is not None and len(record.request_body) > EVENT_BYTES:
        record = attrs.evolve(record, request_body=None)
    event = encode_record(record)
    if len(event) > EVENT_BYTES and record.request_body is not None:
        record = attrs.evolve(record, request_body=None)
        event = encode_record(record)
    if len(event) > EVENT_BYTES:
        event = encode_record(_shortened(record))
    return event


def _shortened(record: UsageRecord) -> UsageRecord:
    """Cut the texts of a record; what clients or backends wrote has no other bound than theirs."""
    texts: dict[str, Any] = {
        field.name: value[:_TEXT_LENGTH]
        for field in attrs.fields(UsageRecord)
        if isinstance(value := getattr(record, field.name), str)
    }
    calls = {name[:_TEXT_LENGTH]: count for name, count in [*record.tool_calls.items()][:256]}
    return attrs.evolve(record, **texts, tool_calls=calls, tried=record.tried[:_TEXT_LENGTH])
