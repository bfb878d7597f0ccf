"""Tests of `llmproxy.usage.retention`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from twisted.internet.task import Clock

from llmproxy.usage.retention import Retention
from llmproxy.usage.segment_writer import SegmentWriter
from llmproxy.usage.segments import Position
from llmproxy.usage.slot import Slot, take_slot
from tests.stores.logged import Logged
from tests.usage.rig import clock_of_tests

KEEP_S = 1000.0


@attrs.define
class FakePin:
    """Somebody who has still to read something."""

    position: Position
    is_given_up: bool = False

    def skip_to(self, position: Position) -> None:
        """Note a later place."""
        self.position = max(self.position, position)

    def keep_place(self) -> None:
        """Have none that is kept."""


@pytest.fixture
def clock() -> Clock:
    """Give the time."""
    return clock_of_tests()


@pytest.fixture
def slot(tmp_path: Path, clock: Clock) -> Iterator[Slot]:
    """Give five files of ten bytes, a hundred seconds between them."""
    slot = take_slot(str(tmp_path))
    writer = SegmentWriter(slot.segments, segment_bytes=10)
    for _ in range(5):
        writer.append(b"123456789\n", 1, clock.seconds())
        clock.advance(100)
    writer.close()
    yield slot
    slot.close()


def retention(slot: Slot, clock: Clock, max_bytes: int = 1000) -> Retention:
    """Make it."""
    return Retention(slot, max_bytes=max_bytes, keep_s=KEEP_S, now=clock.seconds)


def numbers(slot: Slot) -> list[int]:
    """Say which files are there."""
    found = [segment.first for segment in slot.segments]
    logs = (name for name in os.listdir(slot.directory) if name.endswith(".log"))
    assert sorted(int(name.split(".")[0]) for name in logs) == found
    return found


def test_delivered_files_have_their_time(slot: Slot, clock: Clock) -> None:
    """Since the last line of each; the last file stays."""
    slot.pins.append(FakePin(Position(4, 10, 5)))
    keeper = retention(slot, clock)
    clock.advance(KEEP_S - 500 + 1)
    keeper.trim()
    assert numbers(slot) == [1, 2, 3, 4]
    clock.advance(100)
    keeper.trim()
    assert numbers(slot) == [2, 3, 4]
    clock.advance(10 * KEEP_S)
    keeper.trim()
    assert numbers(slot) == [4]


def test_what_is_not_delivered_stays(slot: Slot, clock: Clock) -> None:
    """Whatever its age; the slowest reporter counts, and one that is gone as well."""
    slow, gone = FakePin(Position(2, 5, 2)), FakePin(Position(1, 0, 1), is_given_up=True)
    slot.pins.extend((FakePin(Position(4, 10, 5)), slow, gone))
    clock.advance(10 * KEEP_S)
    keeper = retention(slot, clock)
    keeper.trim()
    assert numbers(slot) == [1, 2, 3, 4]
    slot.pins.remove(gone)
    keeper.trim()
    assert numbers(slot) == [2, 3, 4]


def test_no_room(slot: Slot, clock: Clock) -> None:
    """The oldest delivered ones go, no more of them than needed; then there is none."""
    slot.pins.append(FakePin(Position(3, 0, 3)))
    keeper = retention(slot, clock, max_bytes=50)
    assert keeper.has_room(0)
    assert numbers(slot) == [0, 1, 2, 3, 4]
    assert keeper.has_room(1)
    assert numbers(slot) == [1, 2, 3, 4]
    assert keeper.has_room(30)
    assert numbers(slot) == [3, 4]
    assert not keeper.has_room(31)
    assert numbers(slot) == [3, 4]


def test_who_is_gone_loses_before_new_records_are_lost(slot: Slot, clock: Clock) -> None:
    """But not before what everybody has."""
    gone = FakePin(Position(1, 0, 1), is_given_up=True)
    slot.pins.extend((gone, FakePin(Position(3, 0, 3))))
    keeper = retention(slot, clock, max_bytes=50)
    assert keeper.has_room(10)
    assert numbers(slot) == [1, 2, 3, 4]
    assert gone.position == Position(1, 0, 1)
    assert keeper.has_room(30)
    assert numbers(slot) == [3, 4]
    assert gone.position == Position(3, 0, 3)
    assert not keeper.has_room(40)


def test_who_lags_behind_loses_before_everybody_does(slot: Slot, clock: Clock) -> None:
    """One receiver that is down costs no other one its records; what nobody has stays."""
    down, ahead = FakePin(Position(0, 5, 0)), FakePin(Position(2, 5, 2))
    replay = FakePin(Position(4, 10, 5), is_given_up=True)
    slot.pins.extend((down, ahead, replay))
    keeper = retention(slot, clock, max_bytes=50)
    assert keeper.has_room(10)
    assert (numbers(slot), down.position) == ([1, 2, 3, 4], Position(1, 0, 1))
    assert keeper.has_room(20)
    assert (numbers(slot), down.position) == ([2, 3, 4], Position(2, 0, 2))
    assert not keeper.has_room(30)
    assert not keeper.give_way()
    assert (numbers(slot), ahead.position) == ([2, 3, 4], Position(2, 5, 2))


def test_giving_way_to_a_full_disk(
    slot: Slot, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What everybody has goes before its time, a file at each call; the last file stays."""
    pin, gone = FakePin(Position(2, 5, 2)), FakePin(Position(1, 0, 1), is_given_up=True)
    slot.pins.extend((pin, gone))
    keeper = retention(slot, clock)
    logged = Logged("Retention")
    assert keeper.give_way()
    assert numbers(slot) == [1, 2, 3, 4]
    assert keeper.give_way()
    assert numbers(slot) == [2, 3, 4]
    assert gone.position == Position(2, 0, 2)
    assert not keeper.give_way()
    assert (numbers(slot), pin.position) == ([2, 3, 4], Position(2, 5, 2))
    pin.position = gone.position = Position(4, 10, 5)

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        assert not keeper.give_way()
    assert [keeper.give_way() for _ in range(3)] == [True, True, False]
    assert numbers(slot) == [4]
    logged.stop()
    assert sum("before its time" in line for line in logged.lines) == 4
    assert sum("cannot be tidied" in line for line in logged.lines) == 1


def test_files_that_cannot_be_deleted(
    slot: Slot, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told of once for each outage, and tried again."""
    logged = Logged("Retention")
    keeper = retention(slot, clock)
    clock.advance(10 * KEEP_S)

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        keeper.trim()
        keeper.trim()
    logged.stop()
    assert len(logged.lines) == 1
    keeper.trim()
    assert numbers(slot) == [4]


def test_after_a_restart(slot: Slot, clock: Clock) -> None:
    """The age of a file is that of its last change."""
    for age_s, segment in zip((2000, 500, 1, 1, 1), slot.segments, strict=True):
        os.utime(segment.path, (0, clock.seconds() - age_s))
    parent = os.path.dirname(slot.directory)
    slot.close()
    again = take_slot(parent)
    retention(again, clock).trim()
    assert numbers(again) == [1, 2, 3, 4]
    again.close()
    slot._lock = os.open(parent, os.O_RDONLY)  # what the fixture closes


def test_a_file_that_somebody_has_deleted(slot: Slot, clock: Clock) -> None:
    """It is no file of the spool any more, and keeps no other one from being tidied."""
    slot.pins.append(FakePin(Position(4, 10, 5)))
    (oldest, *_) = list(slot.segments)
    os.unlink(oldest.path)
    tidied = retention(slot, clock, max_bytes=20)
    assert tidied.has_room(10)
    assert numbers(slot) == [4]
    assert slot.segments.total_bytes == 10
