"""Tests of `llmproxy.stores.counters`, over real files."""

from __future__ import annotations

from threading import Event
from time import gmtime, strftime
from typing import Any, cast

from twisted.internet.defer import CancelledError, gatherResults
from twisted.internet.threads import deferToThread

from llmproxy.errors import StoreUnavailable
from llmproxy.interfaces import ICounterStore
from llmproxy.stores.counters import KEPT_DAYS, MOST_TOKENS, SqliteCounters
from llmproxy.values import UsageFilter, UsageTotal
from tests.stores.counter_contract import ONE, CounterContract
from tests.stores.reactor_case import reactor
from tests.stores.sqlite_case import SqliteTestCase, run_python

DAY_S = 86400
START_S = 1_772_323_200.0  # 2026-03-01

CHILD = """
import sys, time
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from llmproxy.stores.counters import SqliteCounters
from llmproxy.stores.sqlite import SqliteFile
from llmproxy.values import UsageTotal

async def run():
    file = SqliteFile(sys.argv[1], reactor=reactor)
    counters = SqliteCounters(file, now=lambda: float(sys.argv[2]))
    for _ in range(100):
        await counters.add_quota_use({"a": (0, 1)})
        await counters.add_usage({("2026-03-01", "a", "u", "m"): UsageTotal(1, 2, 3, 5, 0)})
    await file.stopService()

def begin():
    done = Deferred.fromCoroutine(run())
    done.addErrback(lambda failure: failure.printTraceback())
    done.addBoth(lambda _: reactor.stop())

reactor.callWhenRunning(begin)
reactor.run()
"""


class CounterTestCase(SqliteTestCase):
    """Makes counters."""

    def setUp(self) -> None:
        """Let time stand still."""
        self.now_s = START_S

    def make(self, **options: Any) -> ICounterStore:
        """Make counters, in a pool of their own."""
        counters = SqliteCounters(self.open(**options), now=lambda: self.now_s)
        return cast(ICounterStore, counters)

    def day(self) -> str:
        """Give today."""
        return strftime("%Y-%m-%d", gmtime(self.now_s))


class ContractTests(CounterTestCase, CounterContract):
    """What `ICounterStore` says."""

    __test__ = True


class SqliteCountersTests(CounterTestCase):
    """What is of the file."""

    async def test_counters_outlive_the_process(self) -> None:
        """They go on where they were."""
        file = self.open()
        counters = SqliteCounters(file, now=lambda: self.now_s)
        await counters.add_quota_use({"a": (0, 5)})
        await counters.add_usage({(self.day(), "a", "", "m"): ONE})
        await file.stopService()
        again = self.make()
        assert await again.add_quota_use({"a": (0, 1)}) == {"a": (0, 6)}
        assert await again.usage(UsageFilter()) == [({}, ONE)]

    async def test_processes_count_together(self) -> None:
        """Exactly, while all of them write."""
        counters = self.make()
        others = [
            deferToThread(run_python, CHILD, str(self.path), str(self.now_s)) for _ in range(2)
        ]
        ends = gatherResults(others)
        mine = 0
        while not ends.called:
            await counters.add_quota_use({"a": (0, 1)})
            mine += 1
            await self.sleep(0.005)
        for end in await ends:
            assert (end.returncode, end.stderr) == (0, "")
        assert await counters.add_quota_use({"a": (0, 0)}) == {"a": (0, mine + 200)}
        assert await counters.usage(UsageFilter()) == [({}, UsageTotal(200, 400, 600, 1000, 0))]

    async def test_old_rows_go(self) -> None:
        """With the first change of a day; lifetime budgets stay spent, and so do touched ones."""
        counters = self.make()
        await counters.add_quota_use({"old": (100, 5), "asked": (100, 5), "never": (0, 5)})
        await counters.add_usage({(self.day(), "old", "", "m"): ONE})
        self.now_s += KEPT_DAYS * DAY_S
        await counters.add_quota_use({"asked": (100, 0)})
        assert len(await counters.usage(UsageFilter(group_by=("day",)))) == 1
        self.now_s += DAY_S
        await counters.add_usage({(self.day(), "new", "", "m"): ONE})
        assert await counters.usage(UsageFilter(group_by=("key",))) == [({"key_id": "new"}, ONE)]
        assert await counters.begin_quota_use(
            {"old": (50, 0), "asked": (50, 0), "never": (0, 0)}
        ) == {"old": (50, 0), "asked": (100, 5), "never": (0, 5)}

    async def test_rows_go_once_a_day(self) -> None:
        """Not with every change: what is added late for an old day stays until tomorrow."""
        counters = self.make()
        await counters.add_usage({(self.day(), "a", "", "m"): ONE})
        await counters.add_usage({("2001-01-01", "a", "", "m"): ONE})
        assert len(await counters.usage(UsageFilter(group_by=("day",)))) == 2
        self.now_s += DAY_S
        await counters.add_quota_use({"a": (0, 1)})
        assert len(await counters.usage(UsageFilter(group_by=("day",)))) == 1

    async def test_nonsense_counts(self) -> None:
        """What a broken backend says does not break the sums of all the others."""
        counters = self.make()
        place = (self.day(), "a", "", "m")
        for _ in range(3):
            await counters.add_usage({place: UsageTotal(1, 10**40, -5, 7, 0)})
            await counters.add_quota_use({"a": (0, 10**40)})
        assert await counters.usage(UsageFilter()) == [
            ({}, UsageTotal(3, 3 * MOST_TOKENS, 0, 21, 0))
        ]
        assert await counters.add_quota_use({"a": (0, -(10**40))}) == {"a": (0, 0)}

    async def test_odd_texts(self) -> None:
        """Names of any kind mean nothing but themselves."""
        counters = self.make()
        for text in ("'; DROP TABLE quota_use; --", "a\x00b", "a\x00c", "\ud800", "x" * 1_000_000):
            assert await counters.add_quota_use({text: (0, 3)}) == {text: (0, 3)}
            assert await counters.add_quota_use({text: (0, 1)}) == {text: (0, 4)}
            await counters.add_usage({(self.day(), text, text, text): ONE})
            wanted = UsageFilter(key_id=text, user_id=text, model=text)
            assert await counters.usage(wanted) == [({}, ONE)]

    async def test_all_or_nothing(self) -> None:
        """A change that fails in the middle has counted nothing."""
        counters = self.make()
        await counters.add_quota_use({"a": (0, 1)})
        uses: Any = {"a": (0, 5), "b": (10**40, 5)}
        with self.assertRaises(OverflowError):
            await counters.add_quota_use(uses)
        assert await counters.add_quota_use({"a": (0, 0)}) == {"a": (0, 1)}

    async def test_counters_that_are_there_wait_for_no_write(self) -> None:
        """The first request of a key does not wait for a long synchronisation of others."""
        file = self.open()
        counters = SqliteCounters(file, now=lambda: self.now_s)
        await counters.begin_quota_use({"a": (0, 5)})
        held, free = Event(), Event()

        def hold(_: object) -> None:
            held.set()
            free.wait(10)

        writing = file.write(hold)
        await deferToThread(held.wait, 10)
        try:
            began = counters.begin_quota_use({"a": (0, 7)})
            began.addTimeout(5, reactor)
            assert await began == {"a": (0, 5)}
        finally:
            free.set()
        await writing

    async def test_cancelled_change_is_counted(self) -> None:
        """Only the waiting ends."""
        counters = self.make()
        waiting = counters.add_quota_use({"a": (0, 1)})
        failures: list[Any] = []
        waiting.addErrback(failures.append)
        waiting.cancel()
        failures[0].trap(CancelledError)
        assert await counters.add_quota_use({"a": (0, 0)}) == {"a": (0, 1)}

    async def test_closed_file(self) -> None:
        """All of it is unavailable."""
        file = self.open()
        counters = SqliteCounters(file, now=lambda: self.now_s)
        await file.stopService()
        for ask in (
            counters.begin_quota_use({"a": (0, 1)}),
            counters.add_quota_use({"a": (0, 1)}),
            counters.set_quota_use("a", 0, 1),
            counters.add_usage({(self.day(), "a", "", "m"): ONE}),
            counters.usage(UsageFilter()),
        ):
            with self.assertRaises(StoreUnavailable):
                await ask

    async def test_repr(self) -> None:
        """It says where."""
        assert repr(self.make()) == f"<SqliteCounters {self.path}>"
