"""Tests of `llmproxy.usage.slot_deliveries`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmproxy.errors import DeliveryFailed
from llmproxy.usage.receiver import Receiver
from llmproxy.usage.slot_deliveries import SlotDeliveries
from tests.usage.rig import POLICY, FakeSink, World, ids_of, record


def test_each_reporter_at_its_own_pace(tmp_path: Path) -> None:
    """One that is down holds nobody up; one that is gone loses before new records are lost."""
    world = World(tmp_path)
    world.spool.startService()
    sinks = {name: FakeSink() for name in ("one", "two")}
    receivers = [Receiver(name, "webhook", sink, POLICY) for name, sink in sinks.items()]
    deliveries = SlotDeliveries(
        world.slot,
        receivers,
        make_delivery=world.make_delivery,
        now=world.clock.seconds,
        new_id=world.new_id,
    )
    assert not deliveries.has_backlog
    deliveries.startService()
    sinks["two"].error = DeliveryFailed("no")
    names = [f"r{n}" for n in range(150)]
    for name in names:
        world.spool.report(record(name))
    world.pump(10)
    assert ids_of(sinks["one"].taken) == names
    assert sinks["two"].taken == []
    assert deliveries.has_backlog
    assert deliveries.cursors["one"].backlog_records == 0
    assert deliveries.cursors["two"].backlog_records == 150
    assert "Delivery to two: waiting" in repr(deliveries)
    receivers[1].is_gone = True
    assert [deliveries.cursors[name].is_given_up for name in ("one", "two")] == [False, True]
    ends: list[Any] = []
    deliveries.stopService().addBoth(ends.append)
    world.pump(10)
    assert len(ends) == 1
    # What is not delivered is not to be deleted either, until the slot is closed.
    assert world.slot.pins == [world.cursor, *deliveries.cursors.values()]
