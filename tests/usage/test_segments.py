"""Tests of `llmproxy.usage.segments`, over real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmproxy.usage.segments import Position, Segment, Segments


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a directory with three files, of 2, 3 and 1 lines, and something else."""
    (tmp_path / "0000000000000000.log").write_bytes(b"a\nb\n")
    (tmp_path / "0000000000000002.log").write_bytes(b"ccc\nd\ne\n")
    (tmp_path / "0000000000000005.log").write_bytes(b"f\n")
    (tmp_path / "lock").touch()
    (tmp_path / "7.log").touch()
    return tmp_path


def test_an_empty_directory(tmp_path: Path) -> None:
    """It begins and ends at the same place."""
    segments = Segments(str(tmp_path))
    assert (segments.start, segments.end) == (Position(), Position())
    assert segments.last is None
    assert segments.next_path() == (0, str(tmp_path / "0000000000000000.log"))


def test_what_is_there(folder: Path) -> None:
    """In order, with the lines of each; only the last had to be read for that."""
    segments = Segments(str(folder))
    assert [(one.first, one.size_bytes, one.lines) for one in segments] == [
        (0, 4, 2),
        (2, 8, 3),
        (5, 2, 1),
    ]
    assert segments.total_bytes == 14
    assert segments.end == Position(5, 2, 6)
    assert segments.next_path()[0] == 6


def test_half_a_line_counts(folder: Path) -> None:
    """So that the next file never has the number of this one."""
    (folder / "0000000000000005.log").write_bytes(b"f\nhal")
    assert Segments(str(folder)).next_path()[0] == 7
    (folder / "0000000000000005.log").write_bytes(b"hal")
    assert Segments(str(folder)).next_path()[0] == 6


def test_places(folder: Path) -> None:
    """One that is gone becomes the next that is there; how much lies behind it is known."""
    segments = Segments(str(folder))
    here = Position(2, 4, 3)
    assert segments.nearest(here) == here
    assert segments.bytes_after(here) == 4 + 2
    assert segments.nearest(Position(1, 1, 1)) == Position(2, 0, 2)
    assert segments.nearest(Position(2, 99, 9)) == Position(2, 8, 5)
    assert segments.nearest(Position(9, 0, 9)) == segments.end
    assert segments.bytes_after(Position()) == 14
    assert segments.bytes_after(Position(3, 7, 4)) == 2
    assert segments.bytes_after(segments.end) == 0


def test_growing_and_shrinking(folder: Path) -> None:
    """Sizes are kept without looking at the disk."""
    segments = Segments(str(folder))
    segments.grow(10, 2, 5.0)
    assert segments.end == Position(5, 12, 8)
    segments.add(Segment(8, str(folder / "0000000000000008.log")))
    segments.grow(3, 1, 6.0)
    assert segments.total_bytes == 14 + 13
    segments.remove_oldest()
    assert segments.start == Position(2, 0, 2)
    assert not (folder / "0000000000000000.log").exists()
    assert segments.total_bytes == 10 + 13
    assert repr(segments) == "<Segments 3 files, 23 bytes>"
