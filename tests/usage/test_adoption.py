"""Tests of `llmproxy.usage.adoption`: nothing that a daemon left behind is forgotten."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmproxy.errors import DeliveryFailed
from llmproxy.usage.adoption import ADOPTION_S, Adoption
from llmproxy.usage.retention import Retention
from llmproxy.usage.slot import Slot, try_slot
from llmproxy.usage.slot_deliveries import SlotDeliveries
from tests.stores.logged import Logged
from tests.usage.rig import World, ids_of, record


class Home:
    """A daemon that adopts: the second part of the spool is its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.adoption = Adoption(
            world.settings.spool_dir,
            deliver=self.deliver,
            make_retention=lambda slot: Retention(
                slot, max_bytes=1 << 30, keep_s=1000.0, now=world.clock.seconds
            ),
            clock=world.clock,
        )

    def deliver(self, slot: Slot) -> SlotDeliveries:
        """Make the deliveries from a part."""
        world = self.world
        return SlotDeliveries(
            slot,
            [world.receiver],
            make_delivery=world.make_delivery,
            now=world.clock.seconds,
            new_id=world.new_id,
        )

    def stop(self) -> None:
        """Stop it."""
        ends: list[Any] = []
        self.adoption.stopService().addBoth(ends.append)
        self.world.pump(10)
        assert ends == [None]


@pytest.fixture
def left(tmp_path: Path) -> World:
    """Give a daemon that is still there; it has reported ten records."""
    world = World(tmp_path)
    for n in range(10):
        world.spool.report(record(f"left-{n}"))
    return world


@pytest.fixture
def home(tmp_path: Path, left: World) -> Home:
    """Give a second daemon."""
    world = World(tmp_path, clock=left.clock)
    world.start()
    home = Home(world)
    home.adoption.startService()
    return home


def is_free(directory: str) -> bool:
    """Say whether nobody holds a part."""
    slot = try_slot(directory)
    if slot is not None:
        slot.close()
    return slot is not None


def test_only_what_nobody_holds(left: World, home: Home) -> None:
    """It is delivered within seconds, then anybody may have it."""
    home.world.pump(3 * ADOPTION_S)
    assert home.adoption.adopted == []
    left.kill()
    logged = Logged("Adoption")
    home.world.pump(ADOPTION_S)
    assert len(home.adoption.adopted) == 1
    assert not is_free(left.slot.directory)
    home.world.pump(2 * ADOPTION_S)
    logged.stop()
    assert ids_of(home.world.sink.taken) == [f"left-{n}" for n in range(10)]
    assert home.adoption.adopted == []
    assert is_free(left.slot.directory)
    assert len(logged.lines) == 1
    home.stop()


def test_the_end_comes_first(left: World, home: Home) -> None:
    """What is not delivered stays for the next one, under the same ids; nothing is deleted."""
    left.kill()
    home.world.sink.error = DeliveryFailed("no")
    home.world.pump(2 * ADOPTION_S)
    home.world.clock.advance(2000)
    home.world.pump()
    assert len(home.adoption.adopted) == 1
    home.stop()
    home.world.stop()
    assert is_free(left.slot.directory)
    tried = {batch.id for batch in home.world.sink.tries}
    again = World(left.folder, clock=left.clock)
    assert again.slot.directory == left.slot.directory
    again.start()
    again.pump(10)
    assert ids_of(again.sink.taken) == [f"left-{n}" for n in range(10)]
    assert {batch.id for batch in again.sink.taken} == tried
    again.stop()


def test_old_files_of_parts_that_nobody_holds(left: World, home: Home) -> None:
    """They are deleted in their time, but for the last, which keeps the count."""
    left.kill()
    for segment in left.slot.segments:
        os.utime(segment.path, (0, left.clock.seconds()))
    again = World(left.folder, clock=left.clock)  # begins a second file
    again.spool.report(record("left-10"))
    again.kill()
    home.world.pump(4 * ADOPTION_S)
    assert len(ids_of(home.world.sink.taken)) == 11
    assert len(list(Path(left.slot.directory).glob("*.log"))) == 2
    home.world.clock.advance(2000)
    home.world.pump(2 * ADOPTION_S)
    assert len(list(Path(left.slot.directory).glob("*.log"))) == 1
    home.stop()


def test_what_is_for_a_reporter_that_is_not_known_here(left: World, home: Home) -> None:
    """It stays, whatever its age, until its own daemon comes again or somebody says otherwise."""
    stranger = World(left.folder, name="audit", clock=left.clock)
    for path in (left.slot, stranger.slot):
        path.close()
    stranger = World(left.folder, name="audit", clock=left.clock)  # in the first part now
    assert stranger.slot.directory == left.slot.directory
    for n in range(2):  # two files
        stranger.spool.report(record(f"new-{n}"))
        stranger.kill()
        stranger = World(left.folder, name="audit", clock=left.clock)
    stranger.kill()
    files = len(list(Path(left.slot.directory).glob("*.log")))
    assert files > 1
    logged = Logged("Adoption")
    home.world.pump(2 * ADOPTION_S)
    home.world.clock.advance(2000)
    home.world.pump(3 * ADOPTION_S)
    assert len(list(Path(left.slot.directory).glob("*.log"))) == files
    assert sum("reporter audit, which is not configured here" in one for one in logged.lines) == 1
    logged.stop()
    os.unlink(left.slot.cursor_path("audit"))
    home.world.pump(2 * ADOPTION_S)
    assert len(list(Path(left.slot.directory).glob("*.log"))) == 1
    home.stop()


def test_damage_of_adopted_parts(left: World, home: Home) -> None:
    """It is counted, also when the part was given back."""
    left.kill()
    (path,) = Path(left.slot.directory).glob("*.log")
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    home.world.pump(3 * ADOPTION_S)
    assert len(ids_of(home.world.sink.taken)) == 9
    assert home.adoption.damaged_records == 1
    home.stop()


def test_a_part_that_cannot_be_used(
    left: World, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told of, and the others are delivered."""
    left.kill()
    bad = Path(left.slot.directory).parent / "5"
    bad.mkdir()
    real: Callable[..., Any] = home.deliver

    def refuse(slot: Slot) -> SlotDeliveries:
        if slot.directory.endswith("5"):
            raise PermissionError(13, "Permission denied")
        return real(slot)

    monkeypatch.setattr(home.adoption, "_deliver", refuse)
    logged = Logged("Adoption")
    home.world.pump(3 * ADOPTION_S)
    logged.stop()
    assert len(ids_of(home.world.sink.taken)) == 10
    assert any("Permission denied" in line for line in logged.lines)
    assert is_free(str(bad))
    home.stop()


def test_a_place_of_a_stranger_that_cannot_be_read(left: World, home: Home) -> None:
    """The part is given back all the same, and its old files go once that is possible."""
    left.kill()
    os.mkdir(path := os.path.join(left.slot.directory, "audit.cursor"))
    logged = Logged("Adoption")
    home.world.pump(3 * ADOPTION_S)
    logged.stop()
    assert any("cannot be tidied" in line for line in logged.lines)
    assert ids_of(home.world.sink.taken) == [f"left-{n}" for n in range(10)]
    assert home.adoption.adopted == []
    assert is_free(left.slot.directory)
    os.rmdir(path)
    home.stop()
