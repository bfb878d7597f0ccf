"""Tests of `llmproxy.usage.damage`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmproxy.usage.damage import KEPT_BYTES, Damage
from tests.stores.logged import Logged


@pytest.fixture
def logged() -> Iterator[Logged]:
    """Give what is logged of damage."""
    logged = Logged("Damage")
    yield logged
    logged.stop()


def test_it_is_counted_kept_and_told_of_once(tmp_path: Path, logged: Logged) -> None:
    """However many reporters come across it."""
    path = tmp_path / "damaged"
    damage = Damage(str(path))
    damage.note(0, 10, b"garbage\n")
    damage.note(0, 10, b"garbage\n")
    damage.note(0, 20, b"more\n")
    damage.note(5, 10, b"half")
    assert damage.records == 3
    assert path.read_bytes() == b"garbage\nmore\nhalf\n"
    assert len(logged.lines) == 2  # one for each file
    assert "file 5 at byte 10" in logged.lines[1]
    assert repr(damage) == "<Damage 3 records>"


def test_half_a_record_is_not_counted(tmp_path: Path, logged: Logged) -> None:
    """It is kept and told of, once."""
    path = tmp_path / "damaged"
    damage = Damage(str(path))
    damage.note_half(3, 10, b"hal")
    damage.note_half(3, 10, b"hal")
    assert damage.records == 0
    assert path.read_bytes() == b"hal\n"
    (said,) = logged.lines
    assert "at byte 10, was cut off" in said


def test_only_so_much_is_kept(tmp_path: Path, logged: Logged) -> None:
    """All of it is counted."""
    path = tmp_path / "damaged"
    damage = Damage(str(path))
    for number in range(5):
        damage.note(0, number, b"x" * (KEPT_BYTES // 3) + b"\n")
    assert damage.records == 5
    assert path.stat().st_size <= KEPT_BYTES


def test_a_place_that_cannot_be_written(tmp_path: Path, logged: Logged) -> None:
    """It is counted and told of all the same."""
    damage = Damage(str(tmp_path / "missing" / "damaged"))
    damage.note(0, 0, b"x\n")
    assert damage.records == 1
    assert "cannot be kept" in logged.lines[1]
