"""Tests of `llmproxy.usage.cursor_file`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmproxy.usage.cursor_file import Begun, CursorDamaged, CursorFile, Place
from llmproxy.usage.segments import Position
from llmproxy.wire.spool_line import encode_line

PLACE = Place(
    Position(5, 100, 7), Begun("msg_" + "f" * 32, Position(9, 3, 11), 1.5, 4, 60.5), 1_800_000_000.5
)
OLDER = Place(Position(5, 50, 6))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the file's name."""
    return tmp_path / "c"


def loaded(path: Path) -> Place | None:
    """Read the file as another process would."""
    return CursorFile(str(path)).load()


@pytest.mark.parametrize("times", range(4))
def test_what_was_written_last_is_read(path: Path, times: int) -> None:
    """However often it was written; by the process before, too."""
    for number in range(times):
        file = CursorFile(str(path))
        file.load()
        file.save(Place(Position(number)))
    file = CursorFile(str(path))
    file.load()
    for place in (OLDER, PLACE, OLDER, PLACE):
        file.save(place)
        assert loaded(path) == place
    assert path.stat().st_size == 1024
    assert path.read_bytes().count(b"\n") == 2


def test_large_numbers_fit(path: Path) -> None:
    """A line is never longer than its half of the file."""
    huge = Position(10**15, 10**12, 10**15)
    place = Place(huge, Begun("msg_" + "f" * 32, huge, 1_800_000_000.123456, 10**9, 1e9 / 7), 4e9)
    file = CursorFile(str(path))
    file.save(place)
    file.save(place)
    assert loaded(path) == place
    assert path.stat().st_size == 1024


def test_no_file(path: Path) -> None:
    """A reporter that is new."""
    assert loaded(path) is None


def test_any_damage_leaves_the_place_before(path: Path) -> None:
    """Cut or flipped at any byte: what comes twice is better than what never comes."""
    file = CursorFile(str(path))
    file.save(OLDER)
    file.save(PLACE)  # in the first half
    whole = path.read_bytes()
    for place in range(0, 1024, 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert loaded(path) == (OLDER if place < 511 else PLACE) or whole[place] == 0x0A
    for cut in (*range(0, 1024, 7), 510, 511, 512, 1023):
        path.write_bytes(whole[:cut])
        if cut < 511:
            with pytest.raises(CursorDamaged):
                loaded(path)
        else:
            assert loaded(path) == PLACE


def test_nothing_that_can_be_understood(path: Path) -> None:
    """Not even a whole line of something else; nor an empty file."""
    for content in (b"garbage", b"", encode_line("cursor", 0.0, b'{"segment":"x"}')):
        path.write_bytes(content)
        with pytest.raises(CursorDamaged):
            loaded(path)


def test_half_a_write_leaves_the_place_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails, and the next one is written to the same half."""
    file = CursorFile(str(path))
    file.save(OLDER)
    file.save(PLACE)
    pwrite = os.pwrite
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", lambda fd, line, offset: pwrite(fd, line[:60], offset))
        with pytest.raises(OSError, match="not written whole"):
            file.save(Place(Position(9, 999, 9999)))
    assert loaded(path) == PLACE
    file.save(OLDER)
    assert loaded(path) == OLDER
