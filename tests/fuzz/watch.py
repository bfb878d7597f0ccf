"""What must not happen while the fuzzer runs: faults in the log, hangs, leaks, growing memory.

It must not know the targets.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from tests.fuzz.case import Difference

WATCHED = frozenset(
    f"llmproxy.{room}"
    for room in (
        "channel",
        "site",
        "stall",
        "upstream.connection",
        "upstream.response",
        "upstream.body",
        "proxy.relay",
        "proxy.meter",
        "wire.sse",
        "wire.withhold",
    )
)
"""Modules of whose objects none may be left when a connection is gone."""


class Hang(BaseException):
    """An input took too long; no ``except Exception`` on the way stops it."""


@contextmanager
def no_hang(limit_s: float) -> Iterator[None]:
    """Raise `Hang` when the block takes longer (on the main thread, where signals come)."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang(f"not done after {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@implementer(ILogObserver)
class LogWatch:
    """Sees every event of the log; errors are kept."""

    def __init__(self) -> None:
        self._faults: list[str] = []

    def __call__(self, event: dict[str, Any]) -> None:
        """Take an event."""
        failure = event.get("log_failure")
        if failure is not None or event.get("log_level", LogLevel.info) >= LogLevel.error:
            trace = "" if failure is None else f"\n{failure.getTraceback()}"
            self._faults.append(f"{formatEvent(event)}{trace}")
        # Where logging has not begun, Twisted keeps the events; they must not keep our objects.
        for key in ("log_source", "log_logger"):
            event.pop(key, None)

    @contextmanager
    def watching(self) -> Iterator[LogWatch]:
        """See the log's events within the block."""
        globalLogPublisher.addObserver(self)
        try:
            yield self
        finally:
            globalLogPublisher.removeObserver(self)

    def forget(self) -> None:
        """Begin anew."""
        self._faults = []

    def check(self) -> None:
        """Raise if there was an error since the last look."""
        faults, self._faults = self._faults, []
        if faults:
            raise Difference("an error in the log", "\n".join(faults))


def live_objects() -> dict[str, int]:
    """Count the objects of watched modules that nothing has let go of, by class."""
    gc.collect()
    counts: dict[str, int] = {}
    for one in gc.get_objects():
        module = getattr(type(one), "__module__", "")
        if isinstance(module, str) and module in WATCHED:
            name = type(one).__name__
            counts[name] = counts.get(name, 0) + 1
    return counts


def rss_bytes() -> int:
    """Give this process's resident memory; the most that it ever was where only that is known."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text("ascii").split()[1]) * os.sysconf("SC_PAGESIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@attrs.define
class Memory:
    """Watches that nothing is left over and that memory stays flat.

    Attributes:
        growth_limit_bytes: By how much resident memory may grow after `settled`.
    """

    growth_limit_bytes: int = 32 * 1024 * 1024
    _before: dict[str, int] = attrs.field(factory=live_objects, init=False)
    _settled_bytes: int = attrs.field(default=0, init=False)

    def settled(self) -> None:
        """Take what is used now for the measure: caches are warm."""
        if not self._settled_bytes:
            gc.collect()
            self._settled_bytes = rss_bytes()

    @property
    def growth_bytes(self) -> int:
        """By how much it has grown since then."""
        return rss_bytes() - self._settled_bytes if self._settled_bytes else 0

    def check(self) -> None:
        """Raise if something is left over, or too much memory is taken."""
        left = {
            name: count - self._before.get(name, 0)
            for name, count in live_objects().items()
            if count > self._before.get(name, 0)
        }
        if left:
            raise Difference("objects are left", str(left))
        if self.growth_bytes > self.growth_limit_bytes:
            raise Difference("memory grows", f"{self.growth_bytes >> 10} KiB since it was warm")
