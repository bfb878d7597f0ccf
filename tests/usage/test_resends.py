"""Tests of `llmproxy.usage.resends`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from llmproxy.deliveries import DeadLetterSummary
from llmproxy.errors import DeliveryFailed, ReceiverGone, ResendRefused
from llmproxy.usage.other_parts import other_parts
from llmproxy.usage.resends import Resends
from llmproxy.usage.slot_deliveries import SlotDeliveries
from tests.usage.rig import POLICY, World, ids_of, record


class Office:
    """A reporter with its deliveries, and what is sent again."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.world = world = World(folder, **more)
        world.cursor.close()
        world.spool.startService()
        self.part = SlotDeliveries(
            world.slot,
            [world.receiver],
            make_delivery=world.make_delivery,
            now=world.clock.seconds,
            new_id=world.new_id,
        )
        self.resends = Resends(
            {"billing": world.receiver},
            dead_letters=world.dead_letters,
            own=self.part,
            others=lambda: other_parts(world.settings.spool_dir, {world.slot.directory}),
            make_delivery=world.make_delivery,
            now=world.clock.seconds,
            new_id=world.new_id,
        )
        self.part.startService()
        self.resends.startService()

    def report(self, *names: str) -> None:
        """Report records."""
        for name in names:
            self.world.spool.report(record(name))

    def taken(self) -> list[str]:
        """Give what came since this was asked last."""
        found = ids_of(self.world.sink.taken)
        self.world.sink.taken.clear()
        return found

    def stop(self) -> None:
        """Stop everything."""
        ends: list[Any] = []
        for service in (self.resends, self.part, self.world.spool):
            service.stopService().addBoth(ends.append)
        self.world.pump(10)
        assert len(ends) == 3
        assert self.world.slot.pins == [self.world.cursor, self.part.cursors["billing"]]
        assert self.world.clock.getDelayedCalls() == []


def test_a_replay(tmp_path: Path) -> None:
    """What was delivered comes again as new deliveries; what is new comes as ever."""
    office = Office(tmp_path)
    world = office.world
    office.report("a", "b")
    world.pump(10)
    began_s = world.clock.seconds()
    office.report("c", "d")
    world.pump(10)
    ids = {batch.id for batch in world.sink.taken}
    assert office.taken() == list("abcd")
    office.resends.replay("billing", None, None)
    office.report("e")
    world.pump(10)
    assert sorted(office.taken()) == list("abcde")
    assert not ids & {batch.id for batch in world.sink.tries[2:]}
    assert office.resends.sent("billing") is None
    office.resends.replay("billing", began_s, None)
    world.pump(1)
    assert office.taken() == list("cde")
    office.resends.replay("billing", None, began_s)
    world.pump(1)
    assert office.taken() == list("ab")
    assert office.part.cursors["billing"].backlog_records == 0
    office.stop()


def test_a_replay_of_every_part(tmp_path: Path) -> None:
    """Also what other processes delivered, or those that are gone: no more than what was."""
    gone = Office(tmp_path)
    beside = Office(tmp_path)
    office = Office(tmp_path)
    for number, one in enumerate((gone, beside, office)):
        one.report(f"{number}-a", f"{number}-b")
        one.world.pump(10)
        assert one.taken() == [f"{number}-a", f"{number}-b"]
        one.world.sink.error = DeliveryFailed("no")
        one.report(f"{number}-c")
        one.world.pump(6)
    gone.world.kill()
    office.world.sink.error = None
    office.resends.replay("billing", None, None)
    office.world.pump(70)
    sent = office.taken()
    assert sorted(sent) == ["0-a", "0-b", "1-a", "1-b", "2-a", "2-b", "2-c"]
    assert office.part.slot.damage.records == 0
    office.stop()
    beside.stop()


def test_parts_are_looked_through_one_after_the_other(tmp_path: Path) -> None:
    """However many there are, one turn of the reactor has the work of one; the end ends all."""
    others = [Office(tmp_path), Office(tmp_path)]
    office = Office(tmp_path)
    for number, one in enumerate((*others, office)):
        one.report(f"{number}-a")
        one.world.pump(10)
        one.taken()
    office.world.sink.holds = True
    office.resends.replay("billing", None, None)
    for _ in others:
        office.world.pump(1)
        assert len(list(office.resends)) == 1
        office.world.sink.held.pop().callback(None)
    office.world.pump(1)
    assert office.taken() == ["2-a", "0-a"]
    assert office.resends.sent("billing") == 2
    for one in (office, *others):
        one.stop()


def test_a_replay_that_takes_its_time(tmp_path: Path) -> None:
    """It can be watched, is as patient as ever, and ends with the daemon; one at a time."""
    office = Office(tmp_path, policy=attrs.evolve(POLICY, batch_size=2))
    world = office.world
    office.report(*"abcdef")
    world.pump(10)
    assert office.taken() == list("abcdef")
    world.sink.holds = True
    office.resends.replay("billing", None, None)
    world.pump(1)
    assert office.resends.sent("billing") == 0
    with pytest.raises(ResendRefused, match="already"):
        office.resends.replay("billing", None, None)
    with pytest.raises(ResendRefused, match="already"):
        office.resends.resend_dead_letters("billing")
    world.sink.held.pop().callback(None)
    world.pump(1)
    assert office.resends.sent("billing") == 2
    world.sink.holds = False
    world.sink.error = DeliveryFailed("no")
    world.sink.held.pop().errback(DeliveryFailed("no"))
    world.pump(10)
    assert office.taken() == ["a", "b"]
    office.stop()
    assert office.taken() == []


def test_dead_letters(tmp_path: Path) -> None:
    """They are sent as new deliveries; what dies again is a dead letter again."""
    office = Office(tmp_path, policy=attrs.evolve(POLICY, batch_size=2, give_up_after_s=10.0))
    world = office.world
    world.sink.error = DeliveryFailed("it answered 400")
    office.report(*"abcd")
    world.pump(60)
    assert world.receiver.dead_letters == 2
    listed: list[Sequence[DeadLetterSummary]] = []
    office.resends.dead_letters("billing", 1).addCallback(listed.append)
    assert [(one.events, one.reason) for one in listed[0]] == [(2, "it answered 400")]
    office.resends.resend_dead_letters("billing")
    world.pump(60)
    assert world.receiver.dead_letters == 4
    world.sink.error = None
    old = {batch.id for batch in world.sink.tries}
    office.resends.resend_dead_letters("billing")
    world.pump(5)
    assert not old & {batch.id for batch in world.sink.taken}
    assert office.taken() == list("abcd")
    office.resends.dead_letters("billing", 9).addCallback(listed.append)
    assert listed[1] == []
    office.resends.resend_dead_letters("billing")
    world.pump(5)
    assert office.taken() == []
    assert office.resends.sent("billing") is None
    office.stop()


def test_who_is_not_sent_anything(tmp_path: Path) -> None:
    """A name that nobody has; a receiver that is gone, before or in the middle."""
    office = Office(tmp_path)
    world = office.world
    with pytest.raises(KeyError):
        office.resends.replay("other", None, None)
    with pytest.raises(KeyError):
        office.resends.resend_dead_letters("other")
    failures: list[Any] = []
    office.resends.dead_letters("other", 9).addErrback(
        lambda failure: failures.append(failure.check(KeyError))
    )
    assert failures == [KeyError]
    office.report("a")
    world.pump(10)
    world.sink.error = ReceiverGone("it answered 410")
    office.resends.replay("billing", None, None)
    world.pump(5)
    assert office.resends.sent("billing") is None
    with pytest.raises(ResendRefused, match="disabled"):
        office.resends.replay("billing", None, None)
    office.stop()
