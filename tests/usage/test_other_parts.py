"""Tests of `llmproxy.usage.other_parts`."""

from __future__ import annotations

import os
from math import inf
from pathlib import Path

import pytest

from llmproxy.errors import DeliveryFailed
from llmproxy.usage.other_parts import (
    Backlog,
    Elsewhere,
    look_elsewhere,
    other_parts,
    place_in,
    waiting_strangers,
)
from tests.usage.rig import World, record

KINDS = {"billing": frozenset(("usage", "alert")), "other": frozenset(("usage",))}


def spool_dir(folder: Path) -> str:
    """Give the spool of a test."""
    return str(folder / "spool")


def delivering(folder: Path) -> World:
    """Give a daemon that has delivered two records."""
    world = World(folder)
    world.start()
    world.spool.report(record("a"))
    world.spool.report(record("b"))
    world.pump(10)
    assert world.cursor.backlog_records == 0
    return world


def test_places(tmp_path: Path) -> None:
    """What was delivered, and nothing else; what its owner will send again whole has no place."""
    world = delivering(tmp_path)
    (part,) = other_parts(spool_dir(tmp_path), ())
    assert place_in(part, "billing") == part.segments.end == world.cursor.position
    assert place_in(part, "other") is None
    assert [*other_parts(spool_dir(tmp_path), {world.slot.directory})] == []
    Path(world.slot.cursor_path("billing")).write_bytes(b"x" * 1024)
    assert place_in(part, "billing") is None
    world.stop()


def test_a_place_behind_what_was_seen(tmp_path: Path) -> None:
    """The owner goes on between the two looks: it ends with what was seen."""
    world = delivering(tmp_path)
    (part,) = other_parts(spool_dir(tmp_path), ())
    world.spool.report(record("c"))
    world.pump(10)
    assert place_in(part, "billing") == part.segments.end < world.cursor.position
    world.stop()


def test_what_waits_elsewhere(tmp_path: Path) -> None:
    """In each part that is not held here; a reporter that never was there waits for nothing."""
    first, second = delivering(tmp_path), delivering(tmp_path)
    delivered_bytes = first.slot.segments.total_bytes
    nothing = look_elsewhere(spool_dir(tmp_path), {second.slot.directory}, KINDS)
    assert nothing == Elsewhere(delivered_bytes, {"billing": Backlog(), "other": Backlog()})
    since_s = first.clock.seconds()
    for world, names in ((first, "cd"), (second, "e")):
        world.sink.error = DeliveryFailed("no")
        for name in names:
            world.spool.report(record(name))
        world.pump(6)
    waiting_bytes = first.slot.segments.total_bytes - delivered_bytes
    found = look_elsewhere(spool_dir(tmp_path), {second.slot.directory}, KINDS)
    assert found.backlogs == {"billing": Backlog(2, waiting_bytes, since_s), "other": Backlog()}
    both = look_elsewhere(spool_dir(tmp_path), (), KINDS)
    assert both.backlogs["billing"].records == 3
    assert both.size_bytes == sum(world.slot.segments.total_bytes for world in (first, second))
    for world in (first, second):
        world.stop()


def test_files_that_go_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner deletes what is delivered, before it is looked at or after: that is no damage."""
    world = World(tmp_path, spool_max_size=8 * 1000)
    for number in range(12):
        world.spool.report(record(f"r{number}"))
    paths = [segment.path for segment in world.slot.segments]
    assert len(paths) > 3
    listed = os.listdir(world.slot.directory)
    os.unlink(paths[0])
    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", lambda path: listed if path.endswith("/0") else ["0"])
        (part,) = other_parts(spool_dir(tmp_path), ())
    assert [segment.path for segment in part.segments] == paths[1:]
    os.unlink(paths[1])
    start, end = part.segments.start, part.segments.end
    seen: list[bytes] = []
    while start < end:
        reading = part.reader.read(start, end, kinds={"usage"}, limit=100)
        seen.extend(reading.events)
        start = reading.end
    first = world.slot.segments.from_number(int(Path(paths[2]).stem))
    assert first is not None
    assert len(seen) == 12 - first.first
    assert not (Path(world.slot.directory) / "damaged").exists()
    world.kill()


def test_half_a_line_of_another(tmp_path: Path) -> None:
    """It is passed over, and left to its owner to tell of."""
    world = World(tmp_path)
    world.spool.report(record("a"))
    with open(next(iter(world.slot.segments)).path, "ab") as file:
        file.write(b"half")
    (part,) = other_parts(spool_dir(tmp_path), ())
    reading = part.reader.read(part.segments.start, part.segments.end, kinds={"usage"}, limit=9)
    assert (len(reading.events), reading.end.offset_bytes) == (1, part.segments.end.offset_bytes)
    assert not (Path(world.slot.directory) / "damaged").exists()
    world.kill()


def test_strangers_that_wait(tmp_path: Path) -> None:
    """Those that do not have all, or of whom that is not known; not those that have."""
    world = delivering(tmp_path)
    (part,) = other_parts(spool_dir(tmp_path), ())
    assert [*waiting_strangers(part, ())] == []
    Path(part.cursor_path("odd.name")).write_bytes(b"x")
    assert [*waiting_strangers(part, ())] == ["odd.name"]
    world.sink.error = DeliveryFailed("no")
    world.spool.report(record("c"))
    (part,) = other_parts(spool_dir(tmp_path), ())
    assert [*waiting_strangers(part, ())] == ["billing", "odd.name"]
    assert [*waiting_strangers(part, {"billing", "odd.name"})] == []
    world.stop()


def test_backlogs_add_up() -> None:
    """The oldest is that of all."""
    assert Backlog(1, 10, 5.0) + Backlog(2, 20, inf) == Backlog(3, 30, 5.0)
