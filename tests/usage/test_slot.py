"""Tests of `llmproxy.usage.slot`."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llmproxy.usage.slot import slot_directories, take_slot, try_slot

HOLD = """
import sys
from llmproxy.usage.slot import take_slot
slot = take_slot(sys.argv[1])
print(slot.directory, flush=True)
sys.stdin.read()
"""


def test_the_first_that_is_free(tmp_path: Path) -> None:
    """It is made; nobody else can look into it; another holder takes the next."""
    spool_dir = tmp_path / "data" / "spool"
    first = take_slot(str(spool_dir))
    second = take_slot(str(spool_dir))
    assert [slot.directory for slot in (first, second)] == [
        str(spool_dir / "0"),
        str(spool_dir / "1"),
    ]
    assert stat.S_IMODE((spool_dir / "0").stat().st_mode) == 0o700
    first.close()
    again = take_slot(str(spool_dir))
    assert again.directory == first.directory
    assert repr(again) == "<Slot 0: <Segments 0 files, 0 bytes>>"
    again.close()
    second.close()


def test_its_files(tmp_path: Path) -> None:
    """Those of reporters are told apart by their names."""
    slot = take_slot(str(tmp_path))
    assert slot.cursor_path("billing") == str(tmp_path / "0" / "billing.cursor")
    slot.close()


def test_it_is_free_when_its_process_is_killed(tmp_path: Path) -> None:
    """However it ends; until then nobody else gets it."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == str(tmp_path / "0")
        assert try_slot(str(tmp_path / "0")) is None
        other = take_slot(str(tmp_path))
        assert other.directory == str(tmp_path / "1")
        other.close()
    finally:
        holder.kill()
        holder.communicate()
    slot = try_slot(str(tmp_path / "0"))
    assert slot is not None
    slot.close()


def test_one_that_cannot_be_used_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is given back."""
    (tmp_path / "0").mkdir()

    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", refuse)
        with pytest.raises(PermissionError):
            try_slot(str(tmp_path / "0"))
    slot = try_slot(str(tmp_path / "0"))
    assert slot is not None
    slot.close()


def test_all_parts_in_order(tmp_path: Path) -> None:
    """As numbers, not as texts; what is no part is left alone."""
    for name in ("10", "2", "0", "dead-letters"):
        (tmp_path / name).mkdir()
    assert list(slot_directories(str(tmp_path))) == [str(tmp_path / n) for n in ("0", "2", "10")]


def test_one_that_somebody_has_deleted(tmp_path: Path) -> None:
    """It is made again, and still taken; what is there is left as it is."""
    slot = take_slot(str(tmp_path))
    slot.restore()
    assert [path.name for path in (tmp_path / "0").iterdir()] == ["lock"]
    shutil.rmtree(tmp_path / "0")
    slot.restore()
    assert try_slot(str(tmp_path / "0")) is None
    os.unlink(tmp_path / "0" / "lock")
    other = try_slot(str(tmp_path / "0"))
    assert other is not None
    with pytest.raises(OSError, match="another process has taken it"):
        slot.restore()
    other.close()
    slot.restore()
    assert try_slot(str(tmp_path / "0")) is None
    slot.close()
