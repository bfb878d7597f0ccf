"""A memory limiter on clocks of the test's own."""

from __future__ import annotations

from twisted.internet.task import Clock

from llmproxy.config.model_stores import RateLimit
from llmproxy.interfaces import ICounterStore
from llmproxy.limits.memory_limiter import MemoryLimiter
from tests.limits.rig import START_S


class MemoryRig:
    """A limiter and its clocks: they only move when the test says so.

    Args:
        settings: The section ``rate_limit``.
        now_s: The wall clock's time at the beginning, seconds since the epoch.
        store: Where quotas are kept; None: nowhere.
    """

    def __init__(
        self, settings: RateLimit, now_s: float = START_S, store: ICounterStore | None = None
    ) -> None:
        self.clock = Clock()
        self.passed_us = 0
        self.start_us = round(now_s * 1_000_000)
        self.limiter = MemoryLimiter(
            settings,
            clock=self.clock,
            monotonic_ns=lambda: self.passed_us * 1_000,
            now=self.now_s,
            counters=store,
        )

    def now_s(self) -> float:
        """Give the wall clock's time."""
        return (self.start_us + self.passed_us) / 1_000_000

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.passed_us += round(seconds * 1_000_000)
        self.clock.advance(seconds)

    async def rest(self) -> None:
        """All is counted at once."""
