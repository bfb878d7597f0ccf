"""Tests of `llmproxy.usage.dead_letter_file`."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmproxy.deliveries import Batch, DeadLetter
from llmproxy.usage.dead_letter_file import append, encode_letter, read_letters, rename
from llmproxy.wire.spool_line import encode_line
from tests.usage.rig import START_S


def letter(name: str) -> DeadLetter:
    """Give a letter."""
    return DeadLetter(
        batch=Batch(name, "usage", (b'{"id":"a","n":1.10}', b'{"id":"b"}')),
        given_up_at_s=START_S,
        first_try_at_s=START_S - 10,
        tries=7,
        reason='it said "no"\n',
    )


def read(path: Path) -> tuple[list[DeadLetter], list[str]]:
    """Read a file: its letters, and a name for each damaged one."""
    damaged: list[str] = []
    with path.open("rb") as file:
        return list(read_letters(file, damaged.append)), damaged


def test_what_is_kept_is_read(tmp_path: Path) -> None:
    """Byte for byte; one line for each."""
    path = tmp_path / "made" / "x.dead"
    for name in ("1", "2"):
        append(str(path), encode_letter(letter(name)))
    assert read(path) == ([letter("1"), letter("2")], [])
    assert path.read_bytes().count(b"\n") == 2


def test_damage_costs_its_letter_only(tmp_path: Path) -> None:
    """Wherever it is."""
    path = tmp_path / "x.dead"
    lines = [encode_letter(letter(name)) for name in "123"]
    for place in range(0, len(lines[1]) - 1, 7):
        broken = lines[1][:place] + b"~" + lines[1][place + 1 :]
        path.write_bytes(lines[0] + broken + lines[2])
        assert read(path) == ([letter("1"), letter("3")], [str(path)])
    path.write_bytes(lines[0] + encode_line("dead", 0.0, b'{"id":5}') + lines[2])
    assert read(path) == ([letter("1"), letter("3")], [str(path)])
    path.write_bytes(lines[0] + lines[1][:20])
    assert read(path) == ([letter("1")], [str(path)])


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The half that was written is taken back."""
    path = tmp_path / "x.dead"
    append(str(path), encode_letter(letter("1")))
    write = os.write
    room = [30]

    def fill(descriptor: int, block: bytes) -> int:
        if not room:
            raise OSError(28, "No space left on device")
        return write(descriptor, block[: room.pop()])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fill)
        with pytest.raises(OSError, match="No space"):
            append(str(path), encode_letter(letter("2")))
    append(str(path), encode_letter(letter("3")))
    assert read(path) == ([letter("1"), letter("3")], [])


def test_many_at_once_while_it_is_taken_away(tmp_path: Path) -> None:
    """No letter is lost or torn: it is in the file that was taken, or in the new one."""
    path = tmp_path / "x.dead"

    def add(first: int) -> None:
        for n in range(30):
            append(str(path), encode_letter(letter(f"{first}-{n}")))

    with ThreadPoolExecutor(3) as pool:
        adding = [pool.submit(add, first) for first in range(3)]
        turn = 0
        while not all(one.done() for one in adding):
            rename(str(path), str(tmp_path / f"taken.{turn}"))
            turn += 1
    for one in adding:
        one.result()
    rename(str(path), str(tmp_path / "taken.last"))
    rename(str(path), str(tmp_path / "taken.never"))
    assert not (tmp_path / "taken.never").exists()
    found = [read(one) for one in tmp_path.iterdir()]
    assert all(not damaged for _, damaged in found)
    names = {one.batch.id for letters, _ in found for one in letters}
    assert names == {f"{first}-{n}" for first in range(3) for n in range(30)}
