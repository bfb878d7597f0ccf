"""Tests of `llmproxy.usage.part`."""

from __future__ import annotations

from pathlib import Path

from llmproxy.usage.damage import Damage
from llmproxy.usage.part import Part
from tests.usage.rig import World, record


def test_the_part_of_another(tmp_path: Path) -> None:
    """Its files are seen as they were when it was made; it is not held, and nobody is pinned."""
    world = World(tmp_path)
    world.spool.report(record("a"))
    part = Part(world.slot.directory, Damage(str(tmp_path / "damaged")))
    world.spool.report(record("b"))
    segments = part.segments
    reading = part.reader.read(segments.start, segments.end, kinds={"usage"}, limit=9)
    assert [b'"id":"a"' in event for event in reading.events] == [True]
    assert part.pins == []
    assert part.cursor_path("billing") == world.slot.cursor_path("billing")
    assert repr(part).startswith("<Part 0: <Segments 1 files, ")
    world.kill()
