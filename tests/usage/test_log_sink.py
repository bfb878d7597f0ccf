"""Tests of `llmproxy.usage.log_sink`."""

from __future__ import annotations

from llmproxy.deliveries import Batch
from llmproxy.usage.log_sink import LogSink
from llmproxy.wire.usage_record import encode_record
from tests.stores.logged import Logged
from tests.usage.rig import record


def test_a_line_for_each_record() -> None:
    """As it is, whatever is in its texts."""
    logged = Logged("LogSink")
    events = tuple(encode_record(record(name, user_agent="{x}\n")) for name in "ab")
    sink = LogSink()
    ends: list[None] = []
    sink.deliver(Batch("msg_1", "usage", events)).addCallback(ends.append)
    logged.stop()
    assert logged.lines == [f"usage {event.decode()}" for event in events]
    assert ends == [None]
    assert sink.kinds == {"usage"}
