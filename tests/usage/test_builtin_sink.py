"""Tests of `llmproxy.usage.builtin_sink`, over the real store."""

from __future__ import annotations

from zope.interface.verify import verifyObject

from llmproxy.deliveries import Batch
from llmproxy.errors import DeliveryFailed
from llmproxy.interfaces import IUsageSink
from llmproxy.stores.usage_records import SqliteRecords
from llmproxy.usage.builtin_sink import BuiltinSink
from llmproxy.values import RecordFilter, SessionFilter
from tests.stores.reactor_case import reactor
from tests.stores.sqlite_case import SqliteTestCase
from tests.usage.samples import START_S, batch, record


class BuiltinSinkTests(SqliteTestCase):
    """A sink over a file."""

    async def test_what_is_delivered_can_be_asked_for(self) -> None:
        """Once, however often it comes; what is no record keeps nothing out."""
        file = self.open()
        store = SqliteRecords(file, retention_days=0, clock=reactor, now=lambda: START_S)
        sink = BuiltinSink("local", store)
        assert verifyObject(IUsageSink, sink)
        first = batch([record(1), record(2)])
        for one in (first, first, Batch("b", "usage", (*batch([record(3)]).events, b"{"))):
            await sink.deliver(one)
        page, _ = await store.records(RecordFilter())
        assert [one.request_id for one in page] == ["req-3", "req-2", "req-1"]
        ((session,), _) = await store.sessions(SessionFilter())
        assert session.requests == 3
        await file.stopService()
        await self.assertFailure(sink.deliver(first), DeliveryFailed)
