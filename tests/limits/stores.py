"""Stores of counters for tests: one that takes its time, and one that fails as it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from llmproxy.errors import StoreUnavailable
from llmproxy.interfaces import ICounterStore

Counts = Mapping[str, tuple[int, int]]


@implementer(ICounterStore)
class FakeCounterStore:
    """Counts quotas in a dictionary.

    Attributes:
        counts: By key id, the period that stands and its tokens.
        calls: What it was asked, by method.
        fails: Says of each call whether it fails, nothing done; None: none does.
        holds: Whether answers wait until `answer`; what is asked is done at once.
    """

    def __init__(self) -> None:
        self.counts: dict[str, tuple[int, int]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.fails: Callable[[], bool] | None = None
        self.holds = False
        self.waiting: list[tuple[Deferred[Any], Any]] = []

    def begin_quota_use(self, starts: Counts) -> Deferred[Counts]:
        """Begin counters."""

        def work() -> Counts:
            return {key: self.counts.setdefault(key, start) for key, start in starts.items()}

        return self._do("begin", starts, work)

    def add_quota_use(self, uses: Counts) -> Deferred[Counts]:
        """Add to counters."""

        def work() -> Counts:
            for key, (starts_s, tokens) in uses.items():
                stands_s, used = self.counts.get(key, (starts_s, 0))
                if starts_s > stands_s:
                    stands_s, used = starts_s, 0
                if starts_s == stands_s:
                    used += tokens
                self.counts[key] = (stands_s, used)
            return {key: self.counts[key] for key in uses}

        return self._do("add", uses, work)

    def set_quota_use(self, key_id: str, period_start_s: int, tokens: int) -> Deferred[None]:
        """Set a counter."""

        def work() -> None:
            self.counts[key_id] = (period_start_s, tokens)

        return self._do("set", key_id, work)

    def add_usage(self, totals: Any) -> Deferred[None]:
        """Of no use here."""
        raise NotImplementedError

    def usage(self, wanted: Any) -> Deferred[Any]:
        """Of no use here."""
        raise NotImplementedError

    def answer(self) -> None:
        """Give all answers that wait."""
        waiting, self.waiting = self.waiting, []
        for deferred, result in waiting:
            if isinstance(result, StoreUnavailable):
                deferred.errback(result)
            elif not deferred.called:  # else it was cancelled
                deferred.callback(result)

    def _do(self, name: str, given: Any, work: Callable[[], Any]) -> Deferred[Any]:
        self.calls.append((name, dict(given) if isinstance(given, Mapping) else given))
        result: Any
        if self.fails is not None and self.fails():
            result = StoreUnavailable("the disk is full")
            if not self.holds:
                return fail(result)
        else:
            result = work()
            if not self.holds:
                return succeed(result)
        deferred: Deferred[Any] = Deferred()
        self.waiting.append((deferred, result))
        return deferred
