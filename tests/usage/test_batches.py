"""Tests of `llmproxy.usage.batches`."""

from __future__ import annotations

import pytest
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import provider

from llmproxy.deliveries import Batch
from llmproxy.usage.batches import records_of
from llmproxy.wire.usage_record import encode_record
from tests.usage.samples import as_json, record


@pytest.mark.parametrize("bad", [b"", b"{", b"[]", b'{"id": 5}', b"{}", b"\xff"])
def test_what_is_no_record_is_told_and_left_out(bad: bytes) -> None:
    """The others are there, in their order."""
    logged: list[str] = []

    @provider(ILogObserver)
    def note(event: LogEvent) -> None:
        logged.append(formatEvent(event))

    globalLogPublisher.addObserver(note)
    try:
        good = [encode_record(record(number)) for number in (1, 2)]
        batch = Batch("b7", "usage", (good[0], bad, good[1]))
        assert records_of(batch, "reporter x") == [as_json(1), as_json(2)]
    finally:
        globalLogPublisher.removeObserver(note)
    assert [line for line in logged if "reporter x: event 1 of batch b7" in line]
