"""Tests of `llmproxy.usage.segment_writer`, over real files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from errno import ENOSPC
from pathlib import Path

import pytest

from llmproxy.usage.segment_writer import SegmentWriter
from llmproxy.usage.segments import Segments


class Disk:
    """Writes as much as the test wants.

    Attributes:
        room_bytes: How much there is; None: enough.
        most_bytes: At one time.
    """

    def __init__(self) -> None:
        self.room_bytes: int | None = None
        self.most_bytes = 1 << 30

    def write(self, descriptor: int, block: bytes) -> int:
        """Write, in part perhaps."""
        size = min(len(block), self.most_bytes)
        if self.room_bytes is not None:
            size = min(size, self.room_bytes)
            if not size:
                raise OSError(ENOSPC, "No space left on device")
            self.room_bytes -= size
        return os.write(descriptor, block[:size])


Make = Callable[..., SegmentWriter]


@pytest.fixture
def disk() -> Disk:
    """Give a disk."""
    return Disk()


@pytest.fixture
def make(tmp_path: Path, disk: Disk) -> Iterator[Make]:
    """Give what opens a writer on the test's directory."""
    writers: list[SegmentWriter] = []

    def make_writer(segment_bytes: int = 1000) -> SegmentWriter:
        writers.append(
            SegmentWriter(Segments(str(tmp_path)), segment_bytes=segment_bytes, write=disk.write)
        )
        return writers[-1]

    yield make_writer
    for writer in writers:
        writer.close()


def files(folder: Path) -> dict[str, bytes]:
    """Give what stands in the files, by their numbers."""
    return {path.stem.lstrip("0") or "0": path.read_bytes() for path in sorted(folder.iterdir())}


def test_it_is_there_at_once(make: Make, tmp_path: Path) -> None:
    """Nothing stays in the process; only the owner may read it."""
    writer = make()
    assert files(tmp_path) == {}
    writer.append(b"a\n", 1, 0.0)
    writer.append(b"b\nc\n", 2, 0.0)
    assert files(tmp_path) == {"0": b"a\nb\nc\n"}
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_full_files(make: Make, tmp_path: Path) -> None:
    """Another begins, with the number of its first line; the full one is forced to the disk."""
    writer = make(4)
    for line in (b"aa\n", b"bb\n", b"cc\n"):
        writer.append(line, 1, 0.0)
    assert files(tmp_path) == {"0": b"aa\nbb\n", "2": b"cc\n"}
    unsynced = writer.unsynced()
    assert len(unsynced) == 2
    writer.synced(unsynced)
    assert writer.unsynced() == unsynced[1:]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(unsynced[0])


def test_after_a_restart(make: Make, tmp_path: Path) -> None:
    """A new file: what a crash left at the end of the old one stays apart; an empty one is used."""
    make().append(b"a\n", 1, 0.0)
    with (tmp_path / "0000000000000000.log").open("ab") as file:
        file.write(b"half")
    make().append(b"b\n", 1, 0.0)
    assert files(tmp_path) == {"0": b"a\nhalf", "2": b"b\n"}
    (tmp_path / "0000000000000003.log").touch()
    make().append(b"c\n", 1, 0.0)
    assert files(tmp_path) == {"0": b"a\nhalf", "2": b"b\n", "3": b"c\n"}


def test_short_writes(make: Make, tmp_path: Path, disk: Disk) -> None:
    """The rest follows."""
    disk.most_bytes = 3
    make().append(b"abcdefgh\n", 1, 0.0)
    assert files(tmp_path) == {"0": b"abcdefgh\n"}


@pytest.mark.parametrize("room_bytes", range(6))
def test_a_full_disk_leaves_no_half_line(
    make: Make, tmp_path: Path, disk: Disk, room_bytes: int
) -> None:
    """What did not fit is taken back, and the next one that fits follows the last whole one."""
    writer = make()
    writer.append(b"first\n", 1, 0.0)
    disk.room_bytes = room_bytes
    with pytest.raises(OSError, match="No space"):
        writer.append(b"second\n", 1, 0.0)
    assert files(tmp_path) == {"0": b"first\n"}
    disk.room_bytes = None
    writer.append(b"third\n", 1, 0.0)
    assert files(tmp_path) == {"0": b"first\nthird\n"}


def test_half_a_line_that_cannot_be_taken_back(
    make: Make, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends its file, and the next line begins another one."""
    writer = make()
    writer.append(b"first\n", 1, 0.0)
    disk.room_bytes = 3

    def refuse(descriptor: int, size: int) -> None:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(OSError, match="No space"):
        writer.append(b"second\n", 1, 0.0)
    disk.room_bytes = None
    writer.append(b"third\n", 1, 0.0)
    assert files(tmp_path) == {"0": b"first\nsec", "1": b"third\n"}


def test_a_new_file_that_cannot_be_made(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full one is written on."""
    writer = make(4)
    writer.append(b"aaaa\n", 1, 0.0)

    def refuse(*arguments: object) -> int:
        raise OSError("Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        writer.append(b"b\n", 1, 0.0)
    assert files(tmp_path) == {"0": b"aaaa\nb\n"}
    writer.append(b"c\n", 1, 0.0)
    assert files(tmp_path) == {"0": b"aaaa\nb\n", "2": b"c\n"}


def test_a_file_that_is_gone(make: Make, tmp_path: Path) -> None:
    """Deleted, moved away or replaced: nothing more is written to it, and another one begins."""
    writer = make()
    writer.append(b"a\n", 1, 0.0)
    (tmp_path / "0000000000000000.log").unlink()
    writer.append(b"b\n", 1, 0.0)
    (tmp_path / "0000000000000001.log").rename(tmp_path / "away")
    writer.append(b"c\n", 1, 0.0)
    (tmp_path / "0000000000000002.log").unlink()
    (tmp_path / "0000000000000002.log").write_bytes(b"of somebody\n")
    writer.append(b"d\n", 1, 0.0)
    assert files(tmp_path) == {"2": b"of somebody\n", "3": b"d\n", "away": b"b\n"}
    writer.synced(writer.unsynced())
    assert len(writer.unsynced()) == 1
