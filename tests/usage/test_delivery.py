"""Tests of `llmproxy.usage.delivery`, on a clock: when, in which order, what after a failure."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import attrs
import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from llmproxy.config.setting import Duration
from llmproxy.errors import DeliveryFailed, EventsRefused, ReceiverGone
from llmproxy.usage.delivery import FLUSH_S
from llmproxy.values import UsageRecord
from tests.stores.logged import Logged
from tests.usage.rig import POLICY, World, alert, ids_of, record


def started(folder: Path, **more: Any) -> World:
    """Give a world in which everything runs."""
    world = World(folder, **more)
    world.start()
    return world


def report(world: World, count: int, prefix: str = "r") -> list[str]:
    """Report so many records; give their ids."""
    names = [f"{prefix}{n}" for n in range(count)]
    for name in names:
        world.spool.report(record(name))
    return names


def test_a_batch_goes_when_it_is_full(tmp_path: Path) -> None:
    """What is not enough for another waits."""
    world = started(tmp_path)
    names = report(world, 250)
    world.pump(0.5)
    assert [len(batch.events) for batch in world.sink.taken] == [100, 100]
    assert world.cursor.backlog_records == 50
    world.pump(5)
    assert ids_of(world.sink.taken) == names
    assert len({batch.id for batch in world.sink.taken}) == 3
    world.stop()


def test_a_batch_goes_when_its_first_record_has_waited(tmp_path: Path) -> None:
    """As long as the interval, to a quarter of a second."""
    world = started(tmp_path)
    report(world, 1, "a")
    world.pump(3)
    report(world, 1, "b")
    world.pump(1.75)
    assert world.sink.taken == []
    world.pump(0.5)
    assert ids_of(world.sink.taken) == ["a0", "b0"]
    world.stop()


def test_alerts_and_records_keep_their_order(tmp_path: Path) -> None:
    """Each batch is of one kind."""
    world = started(tmp_path)
    report(world, 2, "a")
    world.spool.alert(alert("x"))
    report(world, 1, "b")
    world.pump(6)
    assert [batch.kind for batch in world.sink.taken] == ["usage", "alert", "usage"]
    assert ids_of(world.sink.taken) == ["a0", "a1", "x", "b0"]
    world.stop()


def test_one_at_a_time(tmp_path: Path) -> None:
    """The next one goes when the answer to the last has come."""
    world = started(tmp_path)
    world.sink.holds = True
    report(world, 300)
    world.pump(20)
    assert len(world.sink.tries) == 1
    assert world.delivery.state == "delivering"
    world.sink.held.pop().callback(None)
    world.pump(1)
    assert len(world.sink.tries) == 2
    world.sink.holds = False
    world.sink.held.pop().callback(None)
    world.pump(1)
    assert len(world.sink.taken) == 3
    assert "idle" in repr(world.delivery)
    world.stop()


def test_failures_are_spread_and_rarer_each_time(tmp_path: Path) -> None:
    """Full jitter up to a bound that doubles, up to the longest wait; the batch is the same."""
    world = started(tmp_path)
    world.sink.error = DeliveryFailed("it answered 500")
    report(world, 100)
    times = []
    for _ in range(2000):
        seen = len(world.sink.tries)
        world.pump(0.1, 0.1)
        if len(world.sink.tries) > seen:
            times.append(world.clock.seconds())
    waits = [round(b - a) for a, b in pairwise(times)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert len({batch.id for batch in world.sink.tries}) == 1
    assert world.delivery.state == "waiting"
    assert (world.receiver.last_error, world.receiver.failed_tries) == ("it answered 500", 9)
    world.sink.error = None
    world.pump(60)
    assert ids_of(world.sink.taken) == [f"r{n}" for n in range(100)]
    assert world.receiver.last_error == ""
    world.stop()


def test_the_wait_is_by_chance(tmp_path: Path) -> None:
    """Anything up to the bound."""
    world = World(tmp_path)
    world.delivery._random = Random(7)
    world.start()
    world.sink.error = DeliveryFailed("no")
    report(world, 100)
    world.pump(0.1, 0.01)
    (due, *_) = sorted(call.getTime() - world.clock.seconds() for call in world.clock.calls)
    assert 0 <= due <= 1
    world.stop()


@pytest.mark.parametrize(("asked_s", "waited_s"), [(30.0, 30), (7200.0, 60)])
def test_a_receiver_that_says_when(tmp_path: Path, asked_s: float, waited_s: int) -> None:
    """It is left alone for so long, within reason."""
    world = started(tmp_path)
    world.sink.error = DeliveryFailed("it answered 429", asked_s)
    report(world, 100)
    world.pump(waited_s - 1)
    assert len(world.sink.tries) == 1
    world.pump(2)
    assert len(world.sink.tries) == 2
    world.stop()


def test_a_receiver_that_says_when_says_it_to_all(tmp_path: Path) -> None:
    """Other deliveries leave it alone as well, and so does the last try at the end."""
    world = started(tmp_path)
    other = World(tmp_path, world.sink, clock=world.clock)
    waiting, later = (world.make_delivery(world.receiver, other.cursor) for _ in range(2))
    world.sink.holds = True
    report(world, 100)
    world.pump(1)
    names = report(other, 100, "o")
    waiting.startService()  # waits for its turn
    world.pump(1)
    world.sink.holds = False
    world.sink.held.pop().errback(DeliveryFailed("it answered 429", 30.0))
    world.pump(29)
    assert (len(world.sink.tries), waiting.state) == (1, "waiting")
    ends: list[Any] = []
    waiting.stopService().addCallback(ends.append)
    world.pump(0.1)
    assert (len(world.sink.tries), ends) == (1, [None])
    later.startService()
    world.pump(3)
    assert sorted(ids_of(world.sink.taken)) == sorted([*(f"r{n}" for n in range(100)), *names])
    later.stopService()
    other.kill()
    world.stop()


def test_an_error_that_nobody_expected(tmp_path: Path) -> None:
    """It is logged, and the batch is tried again like any other."""
    logged = Logged("Delivery")
    world = started(tmp_path)
    world.sink.error = ZeroDivisionError("oops")
    report(world, 100)
    world.pump(0.5)
    world.sink.error = None
    world.pump(2)
    logged.stop()
    assert len(world.sink.taken) == 1
    assert logged.lines == ["a delivery to reporter billing failed"]
    world.stop()


def test_a_receiver_that_is_gone(tmp_path: Path) -> None:
    """Nothing more is tried, and nothing is lost: after the next start it goes on."""
    logged = Logged("Receiver")
    world = started(tmp_path)
    world.sink.error = ReceiverGone("it answered 410")
    names = report(world, 150)
    world.pump(1000)
    assert len(world.sink.tries) == 1
    assert world.receiver.is_gone
    assert world.cursor.backlog_records == 150
    world.stop()
    logged.stop()
    assert len(world.sink.tries) == 1
    assert "disabled until the next start" in logged.lines[0]
    again = started(tmp_path, clock=world.clock)
    again.pump(10)
    assert ids_of(again.sink.taken) == names
    again.stop()


def test_gone_while_another_part_waits_its_turn(tmp_path: Path) -> None:
    """Deliveries from several parts of the spool share what the receiver said."""
    world = started(tmp_path)
    world.sink.holds = True
    report(world, 100)
    world.pump(1)
    other = World(tmp_path, world.sink, clock=world.clock)
    report(other, 100)
    second = world.make_delivery(world.receiver, other.cursor)
    second.startService()
    world.pump(1)
    assert len(world.sink.tries) == 1
    assert second.state == "delivering"
    world.sink.held.pop().errback(ReceiverGone("it answered 410"))
    world.pump(10)
    assert len(world.sink.tries) == 1
    assert other.cursor.backlog_records == 100
    second.stopService()
    world.stop()


def test_a_delivery_that_is_hopeless(tmp_path: Path) -> None:
    """After so long it is a dead letter; those behind it have their own time."""
    world = started(tmp_path, policy=attrs.evolve(POLICY, give_up_after_s=600.0))
    world.sink.error = DeliveryFailed("it answered 400")
    report(world, 150)
    world.pump(599)
    assert world.receiver.dead_letters == 0
    world.pump(62)
    assert world.receiver.dead_letters == 1
    found: list[Any] = []
    world.dead_letters.oldest("billing", 10).addCallback(found.extend)
    (letter,) = found
    assert (letter.id, letter.events) == (world.sink.tries[0].id, 100)
    resent = world.dead_letters.claim("billing", world.clock.seconds)
    assert (sent := resent.take(1)) is not None
    assert sent.batch.events == world.sink.tries[0].events
    resent.close()
    assert letter.reason == "it answered 400"
    assert letter.given_up_at_s - letter.first_try_at_s >= 600
    assert letter.tries > 10
    world.sink.error = None
    world.pump(60)
    assert ids_of(world.sink.taken) == [f"r{n}" for n in range(100, 150)]
    world.stop()


def test_events_that_are_refused(tmp_path: Path) -> None:
    """They alone are a dead letter, at once; the others are delivered."""
    world = started(tmp_path)
    names = report(world, 100)
    event = b'{"id":"r7"}'
    world.sink.error = EventsRefused("the table does not take them", (event,))
    world.pump(1)
    assert (world.receiver.dead_letters, world.receiver.delivered_records) == (1, 99)
    assert world.delivery.delivered_records == 99
    resent = world.dead_letters.claim("billing", world.clock.seconds)
    assert (sent := resent.take(1)) is not None
    assert sent.batch.events == (event,)
    resent.close()
    world.sink.error = EventsRefused("nor these", world.sink.tries[0].events)
    report(world, 100, "s")
    world.pump(1)
    assert (world.receiver.dead_letters, world.receiver.delivered_records) == (2, 99)
    assert len(world.sink.tries) == 2
    assert ids_of(world.sink.tries)[:100] == names
    world.stop()


@pytest.mark.parametrize("killed", [False, True])
def test_the_time_without_a_daemon_is_no_time_of_failing(tmp_path: Path, killed: bool) -> None:
    """However long it was: what is left of the time to give up is what was left at its end."""
    policy = attrs.evolve(POLICY, give_up_after_s=600.0)
    world = started(tmp_path, policy=policy)
    world.sink.error = DeliveryFailed("it answered 503")
    report(world, 100)
    world.pump(300)
    end_s = world.clock.seconds()
    if killed:
        world.kill()
    else:
        world.stop()
    for _ in range(2):  # one that is killed before it could try
        clock = Clock()
        clock.advance(end_s + 100_000)
        again = World(tmp_path, world.sink, policy=policy, clock=clock)
        again.kill()
    again = started(tmp_path, sink=world.sink, policy=policy, clock=clock)
    again.pump(200)
    assert again.receiver.dead_letters == 0
    again.pump(250)
    assert again.receiver.dead_letters == 1
    found: list[Any] = []
    again.dead_letters.oldest("billing", 10).addCallback(found.extend)
    assert found[0].given_up_at_s - found[0].first_try_at_s > 100_000
    again.stop()


def test_no_place_for_dead_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is tried on: nothing is dropped."""
    world = started(tmp_path, policy=attrs.evolve(POLICY, give_up_after_s=1.0))

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmproxy.usage.dead_letters.append", refuse)
    world.sink.error = DeliveryFailed("no")
    report(world, 100)
    world.pump(200)
    assert world.receiver.dead_letters == 0
    world.sink.error = None
    world.pump(60)
    assert len(world.sink.taken) == 1
    world.stop()


def test_never_giving_up(tmp_path: Path) -> None:
    """Where the configuration says 0."""
    world = started(tmp_path, policy=attrs.evolve(POLICY, give_up_after_s=0.0))
    world.sink.error = DeliveryFailed("no")
    report(world, 100)
    world.pump(5 * 86400, 30)
    assert world.receiver.dead_letters == 0
    assert len(world.sink.tries) > 5000
    world.sink.error = None
    world.stop()
    assert len(world.sink.taken) == 1


def test_a_spool_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of, and tried again with the next round."""
    logged = Logged("Delivery")
    world = started(tmp_path)
    report(world, 100)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(world.slot.reader, "read", refuse)
        world.pump(1)
    assert world.sink.taken == []
    world.pump(1)
    logged.stop()
    assert len(world.sink.taken) == 1
    (line,) = logged.lines
    assert "the spool cannot be read for reporter billing: [Errno 24]" in line
    world.stop()


def test_stopping_delivers_what_is_left(tmp_path: Path) -> None:
    """Without waiting for a batch to be full, or for its time."""
    world = started(tmp_path)
    names = report(world, 130)
    world.stop()
    assert ids_of(world.sink.taken) == names


def test_stopping_tries_once_more(tmp_path: Path) -> None:
    """Though it was waiting; after that the next start goes on, with the same batch."""
    world = started(tmp_path)
    world.sink.error = DeliveryFailed("no")
    report(world, 100)
    world.pump(40)
    tries = len(world.sink.tries)
    assert world.delivery.state == "waiting"
    world.stop()
    assert len(world.sink.tries) == tries + 1
    again = started(tmp_path, clock=world.clock)
    again.pump(1)
    assert again.sink.taken == [world.sink.tries[0]]
    again.stop()


def test_stopping_does_not_wait_for_ever(tmp_path: Path) -> None:
    """A receiver that does not answer has a few seconds."""
    logged = Logged("Delivery")
    world = started(tmp_path)
    world.sink.holds = True
    report(world, 100)
    world.pump(1)
    (held,) = world.sink.held
    held.addErrback(lambda failure: failure.trap(CancelledError))
    ends: list[Any] = []
    world.delivery.stopService().addCallback(ends.append)
    world.pump(FLUSH_S - 1)
    assert ends == []
    world.pump(2)
    assert ends == [None]
    assert "it is sent after the next start" in logged.lines[0]
    logged.stop()
    assert held.called
    world.slot.close()


@pytest.mark.parametrize("already_ends", [False, True])
def test_stopping_in_a_hurry(tmp_path: Path, already_ends: bool) -> None:
    """There is no last try, or it is broken off; what is left comes after the next start."""
    world = started(tmp_path)
    world.sink.holds = True
    report(world, 100)
    world.pump(1)
    for held in world.sink.held:
        held.addErrback(lambda failure: failure.trap(CancelledError))
    ends: list[Any] = []
    if not already_ends:
        world.delivery.hurry()
    world.delivery.stopService().addCallback(ends.append)
    world.delivery.hurry()
    world.pump(0.1)
    assert ends == [None]
    world.slot.close()
    again = started(tmp_path)
    again.pump(1)
    assert len(again.sink.taken) == 1
    again.stop()


@pytest.mark.slow
def test_a_receiver_that_is_dead_for_an_hour(tmp_path: Path) -> None:
    """A hundred requests a second: nothing is lost, nothing held, all of it comes in order.

    The records are in the spool alone. Afterwards they are drained as fast as the receiver takes
    them, a batch in each turn of the reactor.
    """
    world = started(
        tmp_path,
        policy=attrs.evolve(POLICY, max_backoff_s=300.0),
        spool_sync_interval=Duration(0.0),  # the rig does in the reactor's thread what threads do
    )
    world.sink.error = DeliveryFailed("Connection refused")
    count = 3600 * 100
    numbers = iter(range(count))
    for second in range(3600):
        if second == 3400:
            tracemalloc.start()
        for _ in range(100):
            world.spool.report(
                UsageRecord(
                    id=f"r{next(numbers)}",
                    time=0.0,
                    request_id="",
                    endpoint="/v1/chat/completions",
                    outcome="ok",
                    status=200,
                )
            )
        world.clock.advance(1)
    held_bytes, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held_bytes < 200_000  # of ten megabytes that were reported meanwhile
    assert world.cursor.backlog_records == count
    assert world.delivery.source is world.cursor
    assert len(world.sink.tries) < 60
    world.sink.tries.clear()
    world.sink.error = None
    expected = 0
    end_s = world.clock.seconds() + 400
    while world.cursor.backlog_records and world.clock.seconds() < end_s:
        world.pump(1)
        for batch in world.sink.taken:
            for event in batch.events:
                assert event.startswith(b'{"id":"r%d",' % expected)
                expected += 1
        world.sink.taken.clear()
        world.sink.tries.clear()
    assert expected == count
    assert world.spool.lost_records == 0
    world.stop()
