"""Tests of `llmproxy.usage.replay`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmproxy.usage.replay import Replay
from llmproxy.usage.segments import Position
from llmproxy.wire.spool_line import SpoolLine
from tests.usage.rig import World, ids_of, record


def filled(folder: Path, **more: Any) -> World:
    """Give a world with ten records, ten seconds between them."""
    world = World(folder, **more)
    for n in range(10):
        world.spool.report(record(f"r{n}"))
        world.clock.advance(10)
    return world


def replay(world: World, stop: Position, wanted: Callable[[SpoolLine], bool]) -> Replay:
    """Make one."""
    return Replay(
        world.slot,
        stop,
        wanted,
        frozenset(("usage",)),
        now=world.clock.seconds,
        new_id=world.new_id,
    )


def drain(source: Replay, limit: int = 3) -> list[str]:
    """Take all that it gives."""
    sent: list[str] = []
    while source.is_due(limit, 0.0):
        pending = source.take(limit)
        if pending is not None:
            assert len(pending.batch.events) <= limit
            sent += ids_of([pending.batch])
            source.done()
    return sent


def test_everything_up_to_a_place(tmp_path: Path) -> None:
    """As new batches; a failed one comes again."""
    world = filled(tmp_path)
    world.cursor.take(7)
    world.cursor.done()
    source = replay(world, world.cursor.position, lambda _: True)
    first = source.take(3)
    assert first is not None
    source.failed()
    assert source.take(3) is first
    assert first.tries == 1
    source.done()
    assert drain(source) == [f"r{n}" for n in range(3, 7)]
    source.close()
    assert world.slot.pins == [world.cursor]


def test_only_of_a_time(tmp_path: Path) -> None:
    """When it was written counts."""
    world = filled(tmp_path)
    start_s = world.clock.seconds() - 100
    end = world.slot.segments.end
    source = replay(world, end, lambda line: start_s + 20 <= line.time_s < start_s + 50)
    assert drain(source) == ["r2", "r3", "r4"]
    assert drain(replay(world, end, lambda _: False)) == []


def test_what_is_deleted_meanwhile(tmp_path: Path) -> None:
    """It goes on with what is left; the batch under way is not disturbed."""
    world = filled(tmp_path, spool_max_size=8000)
    world.cursor.take(10)
    world.cursor.done()
    source = replay(world, world.cursor.position, lambda _: True)
    assert source.is_given_up
    first = source.take(2)
    assert first is not None
    while len(world.slot.segments) > 2:
        world.slot.segments.remove_oldest()
        source.skip_to(world.slot.segments.start)
    left = world.slot.segments.start.ordinal
    source.failed()
    source.done()
    assert drain(source) == [f"r{n}" for n in range(left, 10)]


def test_an_end_that_is_gone(tmp_path: Path) -> None:
    """Everything that it wanted was deleted."""
    world = filled(tmp_path, spool_max_size=8000)
    source = replay(world, Position(2, 10, 3), lambda _: True)
    while len(world.slot.segments) > 1:
        world.slot.segments.remove_oldest()
    source.skip_to(world.slot.segments.start)
    assert drain(source) == []
