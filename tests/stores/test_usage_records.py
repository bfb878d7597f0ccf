"""Tests of `llmproxy.stores.usage_records`, over real files."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from llmproxy.errors import StoreUnavailable
from llmproxy.interfaces import IRecordStore
from llmproxy.stores.sqlite import SqliteFile
from llmproxy.stores.usage_records import SWEEP_INTERVAL_S, SWEEP_STEP, SqliteRecords
from llmproxy.values import RecordFilter, SessionFilter
from tests.stores.sqlite_case import SqliteTestCase, run_python
from tests.usage.samples import START_S, as_json

DAY_S = 86_400

CHILD = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from llmproxy.stores.sqlite import SqliteFile
from llmproxy.stores.usage_records import SqliteRecords
from tests.usage.samples import START_S, as_json

async def run():
    file = SqliteFile(sys.argv[1], reactor=reactor, busy_timeout_s=30)
    store = SqliteRecords(file, retention_days=0, clock=reactor, now=lambda: START_S)
    for start in range(0, 400, 20):
        await store.add([as_json(number) for number in range(start, start + 60)])
    await file.stopService()

def begin():
    done = Deferred.fromCoroutine(run())
    done.addErrback(lambda failure: failure.printTraceback())
    done.addBoth(lambda _: reactor.stop())

reactor.callWhenRunning(begin)
reactor.run()
"""


class RecordsTestCase(SqliteTestCase):
    """Makes stores of records."""

    def setUp(self) -> None:
        """Let time stand still."""
        self.now_s = START_S
        self.clock = Clock()

    def make(self, retention_days: int = 30, file: SqliteFile | None = None) -> SqliteRecords:
        """Make a store, which deletes nothing until it is started."""
        return SqliteRecords(
            file or self.open(),
            retention_days=retention_days,
            clock=self.clock,
            now=lambda: self.now_s,
        )

    async def ids(self, store: SqliteRecords, **wanted: Any) -> list[int]:
        """Give the numbers of the records that fit, and of no more than one page."""
        page, _ = await store.records(RecordFilter(**wanted))
        return [int(record.id.rpartition("-")[2]) for record in page]


class RecordsTests(RecordsTestCase):
    """One process."""

    async def test_a_record_is_kept_whole(self) -> None:
        """But for the request's body."""
        store = self.make()
        assert verifyObject(IRecordStore, store)
        record = as_json(1, request_body=b"secret prompt")
        assert await store.add([record, as_json(2, model="\0'\N{SNOWMAN}")]) == 2
        page, cursor = await store.records(RecordFilter())
        assert cursor == ""
        assert page[1] == msgspec.structs.replace(record, request_body=msgspec.UNSET)
        assert page[0].model == "\0'\N{SNOWMAN}"
        assert b"secret prompt" not in self.all_bytes()

    async def test_filters(self) -> None:
        """Each alone and together; odd texts mean nothing but themselves."""
        store = self.make()
        await store.add(
            [
                as_json(1),
                as_json(2, key_id="k2", outcome="rejected"),
                as_json(3, user_id="bob", backend="gpu-2"),
                as_json(4, model="m2", session_id=""),
                as_json(5, session_id="s2", outcome="timeout", key_id="k2"),
            ]
        )
        for wanted, found in (
            ({}, [5, 4, 3, 2, 1]),
            ({"key_id": "k2"}, [5, 2]),
            ({"user_id": "bob"}, [3]),
            ({"model": "m2"}, [4]),
            ({"backend": "gpu-2"}, [3]),
            ({"session_id": "s2"}, [5]),
            ({"outcome": "ok"}, [4, 3, 1]),
            ({"outcome": "rejected"}, [2]),
            ({"key_id": "k2", "outcome": "timeout"}, [5]),
            ({"request_id": "req-4"}, [4]),
            ({"since_s": START_S + 2, "until_s": START_S + 4}, [3, 2]),
            ({"since_s": 1e30}, []),
            ({"key_id": "' OR 1=1 --"}, []),
            ({"model": "\ud800"}, []),
        ):
            assert await self.ids(store, **wanted) == found, wanted

    async def test_questions_use_indexes(self) -> None:
        """None reads all rows, or sorts them."""
        file: Any = self.open()
        store = self.make(file=file)
        plans: list[str] = []
        read = file.read

        def explained(work: Any) -> Any:
            def explain(connection: Any) -> Any:
                class Explaining:
                    def execute(self, statement: str, values: Any) -> Any:
                        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)
                        plans.extend(row[3] for row in plan.fetchall())
                        return connection.execute(statement, values)

                return work(Explaining())

            return read(explain)

        file.read = explained
        for name in ("key_id", "user_id", "model", "backend", "session_id", "outcome"):
            named: Any = {name: "x"}
            await store.records(RecordFilter(**named, cursor="5.x"))
            assert "USING INDEX" in plans[-1], plans[-1]
            assert "(time_ms,id)<(?,?)" in plans[-1] or "time_ms<?" in plans[-1], plans[-1]
        await store.records(RecordFilter())
        await store.records(RecordFilter(request_id="x"))
        for name in ("key_id", "user_id", "parent_session_id"):
            named = {name: "x"}
            await store.sessions(SessionFilter(**named, cursor="5.6"))
        await store.sessions(SessionFilter())
        assert all("USING INDEX" in plan for plan in plans if "TEMP B-TREE" not in plan), plans
        assert sum("TEMP B-TREE" in plan for plan in plans) == 1, plans  # the few of one request

    async def test_pages(self) -> None:
        """Each record once, those of one moment too, though others come meanwhile."""
        store = self.make()
        await store.add([as_json(n, time=START_S + n // 10) for n in range(95)])
        seen: list[str] = []
        cursor = ""
        while True:
            page, cursor = await store.records(RecordFilter(limit=10, cursor=cursor))
            seen += [record.id for record in page]
            await store.add([as_json(len(seen) + 1000)])
            if not cursor:
                break
        assert seen == [f"rec-{n:06d}" for n in reversed(range(95))]

    async def test_the_same_again(self) -> None:
        """Sessions count what is new, whatever comes again and beside what."""
        store = self.make()
        assert await store.add([as_json(n) for n in range(10)]) == 10
        assert await store.add([as_json(n) for n in range(5, 15)]) == 5
        assert await store.add([as_json(20), as_json(20), as_json(3)]) == 1
        assert await store.add([]) == 0
        ((session,), _) = await store.sessions(SessionFilter())
        assert (session.requests, session.total_tokens) == (16, 16 * 110)

    async def test_sessions(self) -> None:
        """One by its id, children by their parent, the last seen first, page by page."""
        store = self.make()
        await store.add([as_json(n, session_id=f"s{n}", user_id=f"u{n % 2}") for n in range(7)])
        await store.add([as_json(50, session_id="s2"), as_json(8, session_id="s9", key_id="k2")])
        await store.add([as_json(9, session_id="child", parent_session_id="s1")])

        async def names(**wanted: Any) -> list[str]:
            found: list[str] = []
            cursor = ""
            while True:
                page, cursor = await store.sessions(SessionFilter(cursor=cursor, **wanted))
                found += [one.session_id for one in page]
                if not cursor:
                    return found

        for limit in (1, 3, 50):
            assert await names(limit=limit) == [
                "s2", "child", "s9", "s6", "s5", "s4", "s3", "s1", "s0",
            ]  # fmt: skip
        assert await names(session_id="s4") == ["s4"]
        assert await names(parent_session_id="s1") == ["child"]
        assert await names(key_id="k2") == ["s9"]
        assert await names(user_id="u1") == ["s5", "s3", "s1"]
        assert await names(since_s=START_S + 5, until_s=START_S + 9) == ["s9", "s6", "s5"]

    async def test_outages_and_leaving(self) -> None:
        """What nobody waits for is stored all the same; a closed file is unavailable."""
        file = self.open()
        store = self.make(file=file)
        waiting = store.add([as_json(1)])
        failed = self.assertFailure(waiting, CancelledError)
        waiting.cancel()
        await failed
        asked: Any = store.records(RecordFilter())
        failed = self.assertFailure(asked, CancelledError)
        asked.cancel()
        await failed
        await store.add([])  # writes stand in a queue
        assert await self.ids(store) == [1]
        await file.stopService()
        for ask in (
            store.add([as_json(2)]),
            store.records(RecordFilter()),
            store.sessions(SessionFilter()),
        ):
            with self.assertRaises(StoreUnavailable):
                await ask


class RetentionTests(RecordsTestCase):
    """What is too old."""

    async def test_old_records_and_sessions_go(self) -> None:
        """After their days, within a minute; a session that goes on keeps what it was."""
        store = self.make(retention_days=2)
        await store.add([as_json(1), as_json(2, session_id="s2")])
        self.now_s += DAY_S
        await store.add([as_json(DAY_S)])
        store.startService()
        self.now_s += DAY_S + 60
        self.clock.advance(SWEEP_INTERVAL_S)
        await store.sweep()
        assert await self.ids(store) == [DAY_S]
        ((session,), _) = await store.sessions(SessionFilter())
        assert (session.session_id, session.requests) == ("ses_1", 2)
        store.stopService()
        assert self.clock.getDelayedCalls() == []

    async def test_what_comes_too_late_is_not_kept(self) -> None:
        """It could have been there before: then it would be counted twice."""
        store = self.make(retention_days=1)
        assert await store.add([as_json(0)]) == 1
        self.now_s += DAY_S + 1
        store.startService()
        await store.sweep()
        assert await store.add([as_json(0), as_json(2)]) == 1
        assert await self.ids(store) == [2]
        store.stopService()

    async def test_for_ever(self) -> None:
        """Nothing is deleted, nor looked for."""
        store = self.make(retention_days=0)
        await store.add([as_json(0, time=5.0)])
        store.startService()
        assert self.clock.getDelayedCalls() == []
        await store.sweep()
        assert await self.ids(store) == [0]
        store.stopService()

    async def test_small_steps(self) -> None:
        """Other writes have their turn between them."""
        file: Any = self.open()
        store = self.make(retention_days=1, file=file)
        await store.add([as_json(n, session_id=f"s{n}") for n in range(SWEEP_STEP * 3)])
        self.now_s += 3 * DAY_S
        deleted: list[int] = []
        write = file.write

        def counting(work: Any, *more: Any) -> Any:
            def note(count: int) -> int:
                deleted.append(count)
                return count

            return write(work, *more).addCallback(note)

        file.write = counting
        store.startService()
        await store.sweep()
        await self.until(lambda: sum(deleted) == SWEEP_STEP * 6)
        assert max(deleted) == SWEEP_STEP
        store.stopService()

    async def test_an_outage_does_not_end_it(self) -> None:
        """Nor does a fault: it is tried again."""
        file: Any = self.open()
        store = self.make(retention_days=1, file=file)
        await store.add([as_json(0)])
        self.now_s += 3 * DAY_S
        write, file.write = file.write, self._fails
        store.startService()
        assert len(self.flushLoggedErrors(RuntimeError)) == 1
        file.write = write
        self.clock.advance(SWEEP_INTERVAL_S)
        await store.sweep()
        assert await self.ids(store) == []
        store.stopService()

    def _fails(self, *_: Any) -> Any:
        raise RuntimeError("a fault")


class ProcessTests(RecordsTestCase):
    """Several processes on one file."""

    async def test_two_daemons(self) -> None:
        """Overlapping batches from both: each record is there and counted once."""
        self.open()
        children = [self.aside(lambda: run_python(CHILD, str(self.path))) for _ in range(2)]
        for child in await gatherResults([Deferred.fromCoroutine(child) for child in children]):
            assert (child.returncode, child.stderr) == (0, "")
        store = self.make(retention_days=0)
        assert len(await self.ids(store, limit=1000)) == 440
        ((session,), _) = await store.sessions(SessionFilter())
        assert session.requests == 440
