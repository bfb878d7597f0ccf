"""Tests of `llmproxy.usage.segment_reader`: whatever was cut or flipped, the rest is read."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.usage import segment_reader
from llmproxy.usage.damage import Damage
from llmproxy.usage.segment_reader import SegmentReader
from llmproxy.usage.segments import Position, Segments
from llmproxy.wire.spool_line import encode_line

KINDS = ("usage", "alert")


def line(text: str, kind: str = "usage", time_s: float = 1.0) -> bytes:
    """Give a line with something in it that can be told apart."""
    return encode_line(kind, time_s, b'{"id":"%s"}' % text.encode())


class Files:
    """A directory of files, and their reader."""

    def __init__(self, folder: Path, *contents: bytes) -> None:
        first = 0
        for content in contents:
            (folder / f"{first:016d}.log").write_bytes(content)
            first += content.count(b"\n") + (not content.endswith(b"\n"))
        self.segments = Segments(str(folder))
        self.damage = Damage(str(folder / "damaged"))
        self.reader = SegmentReader(self.segments, self.damage)

    def read_all(self, limit: int = 3, **more: Any) -> list[bytes]:
        """Read to the end, a few at a time."""
        found: list[bytes] = []
        position = self.segments.start
        while position < self.segments.end:
            reading = self.reader.read(
                position, self.segments.end, **{"kinds": KINDS, "limit": limit, **more}
            )
            assert len(reading.events) <= limit
            assert reading.end > position
            found += reading.events
            position = reading.end
        return found


def texts(events: list[bytes]) -> list[str]:
    """Give what stands in the events."""
    return [event.decode().removeprefix('{"id":"').removesuffix('"}') for event in events]


def test_runs_over_several_files(tmp_path: Path) -> None:
    """In order, a limit at a time, with the time of the first and the place behind the last."""
    files = Files(tmp_path, line("a", time_s=7.0) + line("b"), line("c") + line("d"))
    first = files.reader.read(Position(), files.segments.end, kinds=KINDS, limit=3)
    assert texts(list(first.events)) == ["a", "b", "c"]
    assert (first.kind, first.oldest_s) == ("usage", 7.0)
    assert first.end == Position(2, len(line("c")), 3)
    rest = files.reader.read(first.end, files.segments.end, kinds=KINDS, limit=3)
    assert texts(list(rest.events)) == ["d"]
    assert rest.end == files.segments.end
    nothing = files.reader.read(rest.end, files.segments.end, kinds=KINDS, limit=3)
    assert (nothing.kind, nothing.events, nothing.end) == ("", (), rest.end)


def test_a_run_is_of_one_kind(tmp_path: Path) -> None:
    """The other kind begins the next; a kind that is not wanted does not end it."""
    content = line("a") + line("x", "alert") + line("b") + line("c")
    files = Files(tmp_path, content)
    end = files.segments.end
    first = files.reader.read(Position(), end, kinds=KINDS, limit=9)
    assert (first.kind, texts(list(first.events))) == ("usage", ["a"])
    second = files.reader.read(first.end, end, kinds=KINDS, limit=9)
    assert (second.kind, texts(list(second.events))) == ("alert", ["x"])
    one_kind = files.reader.read(Position(), end, kinds=("usage",), limit=9)
    assert texts(list(one_kind.events)) == ["a", "b", "c"]
    assert files.reader.read(Position(), end, kinds=("other",), limit=9).end == end


def test_only_what_is_wanted(tmp_path: Path) -> None:
    """Of a time, for example."""
    files = Files(tmp_path, b"".join(line(str(n), time_s=n) for n in range(6)))
    assert texts(files.read_all(wanted=lambda one: 2 <= one.time_s < 5)) == ["2", "3", "4"]


def test_it_stops_where_it_is_told(tmp_path: Path) -> None:
    """What is behind that place is not looked at."""
    content = line("a") + line("b")
    files = Files(tmp_path, content + b"half")
    stop = Position(0, len(content), 2)
    reading = files.reader.read(Position(), stop, kinds=KINDS, limit=9)
    assert (texts(list(reading.events)), reading.end) == (["a", "b"], stop)
    assert files.damage.records == 0


def test_batches_are_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One event alone may be longer; how much is looked at in one go is bounded, too."""
    monkeypatch.setattr(segment_reader, "BATCH_BYTES", 40)
    files = Files(tmp_path, line("a" * 20) + line("b" * 20) + line("c" * 50) + line("d"))
    end = files.segments.end
    sizes = []
    position = Position()
    while position < end:
        reading = files.reader.read(position, end, kinds=KINDS, limit=9)
        sizes.append(len(reading.events))
        position = reading.end
    assert sizes == [1, 1, 1, 1]
    monkeypatch.setattr(segment_reader, "SCAN_BYTES", 60)
    reading = files.reader.read(Position(), end, kinds=("other",), limit=9)
    assert reading.events == ()
    assert Position() < reading.end < end


CONTENT = line("first") + line("second", "alert") + line("third") + line("x" * 30)
TEXTS = ["first", "second", "third", "x" * 30]


@pytest.mark.parametrize("cut", range(len(CONTENT) + 1))
def test_a_cut_at_any_byte(tmp_path: Path, cut: int) -> None:
    """The whole lines before it, and those of the file that was begun afterwards."""
    files = Files(tmp_path, CONTENT[:cut], line("after"))
    whole = CONTENT[:cut].count(b"\n")
    # A line without nothing but its end is whole.
    ends = [len(b"".join(CONTENT.splitlines(True)[: n + 1])) - 1 for n in range(4)]
    whole += cut in ends
    assert texts(files.read_all()) == [*TEXTS[:whole], "after"]
    is_torn = cut > 0 and CONTENT[cut - 1 : cut] != b"\n" and cut not in ends
    assert files.damage.records == 0
    kept = tmp_path / "damaged"
    assert (kept.read_bytes() if kept.exists() else b"") == (
        CONTENT[:cut].splitlines()[-1] + b"\n" if is_torn else b""
    )


@pytest.mark.parametrize("place", range(len(CONTENT)))
@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_a_flipped_byte_anywhere(tmp_path: Path, place: int, mask: int) -> None:
    """It costs the line that it is in, and no other; one that hits a line's end costs none."""
    content = bytearray(CONTENT)
    content[place] ^= mask
    files = Files(tmp_path, bytes(content), line("after"))
    hit = CONTENT[:place].count(b"\n")
    is_end = CONTENT[place : place + 1] == b"\n"
    expected = TEXTS if is_end else TEXTS[:hit] + TEXTS[hit + 1 :]
    assert texts(files.read_all()) == [*expected, "after"]
    assert (files.damage.records > 0) == (expected != TEXTS)


@given(data=st.data())
@settings(max_examples=200)
def test_any_damage_to_many_files(data: st.DataObject) -> None:
    """Nothing is read that was not written, and nothing is lost that was not hit."""
    names = [f"r{n}" for n in range(data.draw(st.integers(1, 30)))]
    lines = [line(name) for name in names]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(lines)), max_size=3)))
    groups = [lines[a:b] for a, b in zip([0, *cuts], [*cuts, len(lines)], strict=True)]
    contents, intact = [], []
    number = 0
    for group in groups:
        content = bytearray(b"".join(group))
        hits = data.draw(st.sets(st.integers(0, max(0, len(content) - 1)), max_size=3))
        if content:
            for hit in hits:
                content[hit] ^= data.draw(st.integers(1, 255))
        start = 0
        for one in group:
            # The end of the line before is what tells where it begins; it may be lost alone.
            if not any(start <= hit < start + len(one) for hit in hits):
                intact.append(names[number])
            start += len(one)
            number += 1
        if content:
            contents.append(bytes(content))
    with TemporaryDirectory() as folder:
        files = Files(Path(folder), *contents)
        found = texts(files.read_all(limit=data.draw(st.integers(1, 5))))
    assert set(found) <= set(names)
    assert sorted(found, key=names.index) == found
    assert set(intact) <= set(found)


def test_lines_that_are_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are passed over without being held."""
    monkeypatch.setattr(segment_reader, "LINE_BYTES", 64)
    files = Files(tmp_path, line("a") + line("y" * 500) + line("b"), b"z" * 300)
    assert texts(files.read_all()) == ["a", "b"]
    assert files.damage.records == 2
    kept = (tmp_path / "damaged").read_bytes().splitlines()
    assert [len(one) for one in kept] == [64, 64]


def test_half_a_record_in_the_middle_is_damage(tmp_path: Path) -> None:
    """Only what ends a file was cut off with its process."""
    whole = line("second")
    files = Files(tmp_path, line("first") + whole[: len(whole) // 2] + b"\n" + line("third"))
    assert texts(files.read_all()) == ["first", "third"]
    assert files.damage.records == 1


def test_files_that_somebody_took_away(tmp_path: Path) -> None:
    """One that is gone and one that was cut are damage; the others are read."""
    files = Files(tmp_path, line("a"), line("b"), line("c") + line("d"), line("e"))
    (tmp_path / "0000000000000001.log").unlink()
    with (tmp_path / "0000000000000002.log").open("r+b") as file:
        file.truncate(len(line("c")))
    assert texts(files.read_all()) == ["a", "c", "e"]
    assert files.damage.records == 2
