"""Tests of `llmproxy.stores.memory_counters`."""

from __future__ import annotations

from typing import cast

from llmproxy.interfaces import ICounterStore
from llmproxy.stores.memory_counters import KEPT_DAYS, MemoryCounters
from llmproxy.values import UsageFilter
from tests.stores.counter_contract import ONE, CounterContract

START_S = 1_772_323_200.0  # 2026-03-01


class MemoryTests(CounterContract):
    """What every counter store does, and what only this one."""

    __test__ = True

    def make(self) -> ICounterStore:
        """Make counters whose time the test sets."""
        self.now_s = START_S
        return cast(ICounterStore, MemoryCounters(lambda: self.now_s))

    async def test_old_days_go(self) -> None:
        """Memory is no archive."""
        counters = self.make()
        await counters.add_usage({("2026-03-01", "a", "u", "m"): ONE})
        self.now_s += (KEPT_DAYS - 1) * 86400
        await counters.add_usage({("2026-05-01", "a", "u", "m"): ONE})
        by_day = UsageFilter(group_by=("day",))
        assert len(await counters.usage(by_day)) == 2
        self.now_s += 2 * 86400
        await counters.add_usage({("2026-05-04", "a", "u", "m"): ONE})
        days = [values["day"] for values, _ in await counters.usage(by_day)]
        assert days == ["2026-05-01", "2026-05-04"]
