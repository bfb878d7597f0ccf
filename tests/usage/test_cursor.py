"""Tests of `llmproxy.usage.cursor`: what is new, before and after a restart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from llmproxy.usage.cursor import Cursor
from llmproxy.usage.segments import Position
from tests.stores.logged import Logged
from tests.usage.rig import FakeSink, World, alert, ids_of, record


def report(world: World, *names: str) -> None:
    """Report records."""
    for name in names:
        world.spool.report(record(name))


def take(cursor: Cursor, limit: int = 2) -> list[str]:
    """Take a batch, and say what is in it."""
    pending = cursor.take(limit)
    return [] if pending is None else ids_of([pending.batch])


def restarted(world: World, **more: Any) -> World:
    """Give the same spool after a kill."""
    world.kill()
    return World(
        world.folder, clock=world.clock, new_id=world.new_id, **{"sink": world.sink, **more}
    )


def test_a_new_reporter_begins_at_the_present_end(tmp_path: Path) -> None:
    """And that holds, whatever is reported before the next start."""
    first = World(tmp_path, name="other")
    report(first, "a")
    world = restarted(first, name="billing")
    assert world.cursor.backlog_records == 0
    report(world, "b")
    world = restarted(world, name="billing")
    assert take(world.cursor) == ["b"]


def test_batches_in_order(tmp_path: Path) -> None:
    """The next comes when one is done; a failed one is the same again."""
    world = World(tmp_path)
    assert take(world.cursor) == []
    report(world, "a", "b", "c")
    assert world.cursor.backlog_records == 3
    assert world.cursor.backlog_bytes == world.slot.segments.total_bytes
    first = world.cursor.take(2)
    assert first is not None
    world.cursor.failed()
    assert world.cursor.take(2) is first
    assert first.tries == 1
    world.cursor.done()
    assert world.cursor.backlog_records == 1
    assert take(world.cursor) == ["c"]
    world.cursor.done()
    assert (world.cursor.backlog_records, world.cursor.backlog_bytes) == (0, 0)
    assert repr(world.cursor).endswith("backlog=0>")


def test_when_a_batch_is_due(tmp_path: Path) -> None:
    """When it is full, or its first record has waited long enough."""
    world = World(tmp_path)
    assert not world.cursor.is_due(3, 5.0)
    report(world, "a")
    assert not world.cursor.is_due(3, 5.0)
    world.clock.advance(4.9)
    report(world, "b")
    assert not world.cursor.is_due(3, 5.0)
    assert world.cursor.oldest_s == pytest.approx(4.9, abs=0.01)
    report(world, "c")
    assert world.cursor.is_due(3, 5.0)
    assert not world.cursor.is_due(4, 5.0)
    world.clock.advance(0.2)
    assert world.cursor.is_due(4, 5.0)
    assert take(world.cursor, 3) == ["a", "b", "c"]
    world.cursor.done()
    assert world.cursor.oldest_s == 0.0


def test_a_clock_that_is_set_back(tmp_path: Path) -> None:
    """Nothing waits for the time to come again."""
    late = Clock()
    late.advance(1_900_000_000)
    first = World(tmp_path, clock=late)
    report(first, "a")
    first.kill()
    world = World(tmp_path)
    assert world.cursor.is_due(3, 5.0)
    assert world.cursor.oldest_s == 0.0


def test_after_a_kill_the_same_batch_has_the_same_id(tmp_path: Path) -> None:
    """Though more was reported meanwhile, and the limit is another; its tries go on."""
    world = World(tmp_path)
    report(world, "a", "b", "c")
    pending = world.cursor.take(2)
    assert pending is not None
    world.cursor.failed()
    began_s = world.clock.seconds()
    report(world, "d")
    world.clock.advance(100)
    world = restarted(world)
    assert world.cursor.is_due(99, 1e9)
    again = world.cursor.take(99)
    assert again is not None
    assert again.batch == pending.batch
    assert (again.first_try_s, again.tries) == (began_s, 1)
    world.cursor.done()
    world = restarted(world)
    assert take(world.cursor, 99) == ["c", "d"]


def test_kinds_that_are_not_taken(tmp_path: Path) -> None:
    """They count until they are looked at, and are passed over for good."""
    world = World(tmp_path, FakeSink("usage"))
    world.spool.alert(alert())
    assert not world.cursor.is_due(1, 0.0)
    assert world.cursor.backlog_records == 0
    world.cursor.close()
    world = restarted(world)
    assert world.cursor.backlog_records == 0


def test_a_batch_of_a_kind_that_is_not_taken_any_more(tmp_path: Path) -> None:
    """The configuration changed: what was begun is passed over."""
    world = World(tmp_path)
    world.spool.alert(alert())
    report(world, "a")
    assert take(world.cursor) == ["a0"]
    world = restarted(world, sink=FakeSink("usage"))
    assert world.cursor.is_due(1, 0.0)
    assert take(world.cursor) == []
    assert take(world.cursor) == ["a"]


def test_a_place_that_is_damaged(tmp_path: Path) -> None:
    """All that is there comes again: rather twice than never."""
    logged = Logged("Cursor")
    world = World(tmp_path)
    report(world, "a", "b")
    take(world.cursor)
    world.cursor.done()
    Path(world.slot.cursor_path("billing")).write_bytes(b"garbage")
    world = restarted(world)
    logged.stop()
    assert take(world.cursor) == ["a", "b"]
    assert "is damaged: it is sent again all that is there" in logged.lines[0]


def test_a_spool_that_lost_its_end(tmp_path: Path) -> None:
    """The machine went down before it was on the disk: what is new is delivered all the same."""
    world = World(tmp_path)
    report(world, "a", "b")
    take(world.cursor, 1)
    world.cursor.done()
    take(world.cursor, 1)
    world.cursor.done()
    last = world.slot.segments.last
    assert last is not None
    os.truncate(last.path, last.size_bytes // 2)
    logged = Logged("Cursor")
    world = restarted(world)
    logged.stop()
    assert "records were lost there" in logged.lines[0]
    report(world, "c")
    assert take(world.cursor) == ["c"]


def test_records_that_were_deleted(tmp_path: Path) -> None:
    """They are counted, and what is left is delivered."""
    world = World(tmp_path, spool_max_size=4000)
    report(world, *"abcdefgh")
    world.slot.segments.remove_oldest()
    start = world.slot.segments.start
    logged = Logged("Cursor")
    world = restarted(world, spool_max_size=4000)
    logged.stop()
    assert world.receiver.skipped_records == start.ordinal > 0
    assert "reporter billing" in logged.lines[0]
    assert take(world.cursor, 1) == ["abcdefgh"[start.ordinal]]
    world.cursor.skip_to(Position())
    assert world.cursor.position >= start


def test_a_batch_under_way_whose_records_are_deleted(tmp_path: Path) -> None:
    """It may still fail, wait and be taken; then what is left comes."""
    world = World(tmp_path, spool_max_size=4000)
    report(world, *"abcdefgh")
    assert take(world.cursor, 1) == ["a"]
    world.clock.advance(1000)
    world.slot.segments.remove_oldest()
    start = world.slot.segments.start
    world.cursor.skip_to(start)
    assert world.receiver.skipped_records == start.ordinal > 0
    assert world.cursor.oldest_s == 1000
    world.cursor.failed()
    assert world.cursor.is_due(100, 5.0)
    pending = world.cursor.take(1)
    assert pending is not None
    assert (ids_of([pending.batch]), pending.tries) == (["a"], 1)
    world.cursor.done()
    assert world.cursor.position == start
    world.cursor.skip_to(start)
    assert world.receiver.skipped_records == start.ordinal
    assert take(world.cursor, 1) == ["abcdefgh"[start.ordinal]]
    world = restarted(world, spool_max_size=4000)
    assert take(world.cursor, 1) == ["abcdefgh"[start.ordinal]]


def test_delivered_records_that_are_deleted(tmp_path: Path) -> None:
    """Who has all of a file, and nothing of the next one, loses nothing with it."""
    world = World(tmp_path, spool_max_size=4000)
    report(world, *"abcdefgh")
    start = [*world.slot.segments][1].first
    assert len(take(world.cursor, start)) == start
    world.cursor.done()
    assert world.cursor.position.ordinal == start
    logged = Logged("Cursor")
    world.slot.segments.remove_oldest()
    world.cursor.skip_to(world.slot.segments.start)
    logged.stop()
    assert logged.lines == []
    assert world.receiver.skipped_records == 0
    assert take(world.cursor, 1) == ["abcdefgh"[start]]


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of once; this process goes on, and the next one repeats what it must."""
    world = World(tmp_path)
    report(world, "a", "b", "c")
    logged = Logged("Cursor")
    with monkeypatch.context() as patched:
        patched.setattr("llmproxy.usage.cursor_file.os.pwrite", _refuse)
        for name in "ab":
            assert take(world.cursor, 1) == [name]
            world.cursor.done()
    logged.stop()
    assert len(logged.lines) == 1
    again = restarted(world)
    assert take(again.cursor, 3) == ["a", "b", "c"]
    again.cursor.done()
    last = restarted(again)
    assert last.cursor.backlog_records == 0


def _refuse(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_the_age_of_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts from when it was seen that there is something, until that can be read."""
    world = World(tmp_path)
    report(world, "a")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(world.slot.reader, "read", refuse)
        for _ in range(2):
            with pytest.raises(PermissionError):
                world.cursor.is_due(1, 5.0)
            world.clock.advance(100)
        assert world.cursor.oldest_s == 200
    assert take(world.cursor) == ["a"]
    world.cursor.done()
    assert world.cursor.oldest_s == 0
