"""Tests of `llmproxy.stores.private_files`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmproxy.stores.private_files import make_directory_of, make_empty, warn_if_exposed
from tests.stores.logged import Logged


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Have a umask that takes nothing away."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Give what is logged."""
    logged = Logged("private_files")
    yield logged.lines
    logged.stop()


def mode_of(path: Path) -> int:
    """Give a file's permissions."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("open_umask")
def test_directory_is_made_for_its_owner(tmp_path: Path) -> None:
    """Nobody else may look into it; doing it again is fine."""
    make_directory_of(str(tmp_path / "new" / "file"))
    make_directory_of(str(tmp_path / "new" / "file"))
    assert mode_of(tmp_path / "new") == 0o700


def test_only_one_directory_is_made(tmp_path: Path) -> None:
    """A path that is wrong higher up is an error, not a tree of new directories."""
    with pytest.raises(FileNotFoundError):
        make_directory_of(str(tmp_path / "a" / "b" / "file"))


@pytest.mark.usefixtures("open_umask")
def test_file_is_made_once_for_its_owner(tmp_path: Path) -> None:
    """One that is there stays as it is."""
    path = tmp_path / "file"
    assert make_empty(str(path))
    assert mode_of(path) == 0o600
    path.write_text("x")
    assert not make_empty(str(path))
    assert path.read_text() == "x"


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o602, 1)])
def test_warning_when_others_may(tmp_path: Path, logged: list[str], mode: int, warned: int) -> None:
    """Whatever others may do with it is one warning that says where."""
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    warn_if_exposed(str(path))
    assert len(logged) == warned
    assert all(str(path) in line and f"{mode:04o}" in line for line in logged)
