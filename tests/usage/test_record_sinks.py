"""Tests of `llmproxy.usage.record_sinks`."""

from __future__ import annotations

from typing import Any, cast

from llmproxy.config.model_usage import DatabaseReporter, Reporter
from llmproxy.interfaces import IRecordStore
from llmproxy.usage.record_sinks import make_record_sink
from tests.auth.fakes import MemoryDatabase


def test_each_type() -> None:
    """With the stores that the configuration names; others keep no records."""
    databases: Any = {"main": MemoryDatabase()}
    store = cast(IRecordStore, object())
    own = make_record_sink(Reporter(name="own", type="builtin"), store, {})
    assert repr(own).startswith("<BuiltinSink own ")
    settings = DatabaseReporter(storage="main", table="a.b")
    sql = make_record_sink(
        Reporter(name="sql", type="database", database=settings), None, databases
    )
    assert repr(sql) == "<DatabaseSink sql table=a.b ready=False>"
    for kind in ("webhook", "log"):
        other: Any = kind
        assert make_record_sink(Reporter(name="x", type=other), store, databases) is None
