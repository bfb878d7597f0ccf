"""What was written to the spool is forced to the disk, aside, many lines at once.

Nobody waits for it: what the system has survives the end of the process, and this is for the end of
the machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmproxy.usage.segment_writer import SegmentWriter


class SpoolSync:
    """Forces a writer's files to the disk, in a thread, never twice at once.

    Args:
        writer: Whose files.
        directory: Where new files appear.
        interval_s: How long after the first line; 0: the system decides.
        clock: Keeps the time.
        in_thread: Runs something in a thread.
        force: Forces a descriptor's bytes to the disk; for tests.
    """

    _log = Logger()

    def __init__(
        self,
        writer: SegmentWriter,
        directory: str,
        *,
        interval_s: float,
        clock: IReactorTime,
        in_thread: Callable[..., Deferred[Any]],
        force: Callable[[int], None] = os.fdatasync,
    ) -> None:
        self._writer = writer
        self._directory = directory
        self._interval_s = interval_s
        self._clock = clock
        self._in_thread = in_thread
        self._force = force
        self._due: IDelayedCall | None = None
        self._running: Deferred[None] | None = None
        self._is_dirty = False
        self._is_failing = False
        self._files_forced = 0

    def written(self) -> None:
        """Note that something was written."""
        self._is_dirty = True
        if self._due is None and self._running is None:
            if self._interval_s:
                self._due = self._clock.callLater(self._interval_s, self._begin)
            else:
                self._writer.synced(self._writer.unsynced())

    async def stop(self) -> None:
        """Return when all that was written is on the disk, or could not be forced there."""
        while self._running is not None or (self._is_dirty and self._interval_s):
            if self._due is not None:
                self._due.cancel()
                self._begin()
            assert self._running is not None
            await self._running
        self._writer.close()

    def _begin(self) -> None:
        self._due = None
        self._is_dirty = False
        descriptors = self._writer.unsynced()
        files_made = self._writer.files_made
        # A new file is lost with its name, if that is not on the disk.
        directory = self._directory if files_made > self._files_forced else ""
        over: Deferred[None] = Deferred()
        self._running = over

        def ended(_: None) -> None:
            self._running = None
            self._writer.synced(descriptors)
            if self._is_dirty:
                self.written()
            over.callback(None)

        def succeeded(_: None) -> None:
            self._is_failing = False
            self._files_forced = files_made

        done = self._in_thread(_force_all, descriptors, directory, self._force)
        done.addCallbacks(succeeded, self._failed).addCallback(ended)

    def _failed(self, failure: Failure) -> None:
        if not self._is_failing:
            self._log.error("the spool cannot be forced to the disk: {error}", error=failure.value)
        self._is_failing = True


def _force_all(descriptors: list[int], directory: str, force: Callable[[int], None]) -> None:
    for descriptor in descriptors:
        force(descriptor)
    if not directory:
        return
    own = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(own)
    finally:
        os.close(own)
