"""Tests of `llmproxy.stores.key_secret`."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llmproxy.config.model_stores import Admin
from llmproxy.config.setting import Secret
from llmproxy.stores.key_secret import load_key_secret
from tests.stores.logged import Logged

SCRIPT = """
import sys
from llmproxy.config.model_stores import Admin
from llmproxy.stores.key_secret import load_key_secret
print(load_key_secret(Admin(db_path=sys.argv[1])).decode())
"""


def admin(tmp_path: Path, secret: str = "") -> Admin:
    """Make the settings."""
    return Admin(db_path=str(tmp_path / "new" / "keys.db"), key_secret=Secret(secret))


def test_given_secret(tmp_path: Path) -> None:
    """It is taken as it is, and no file is made."""
    assert load_key_secret(admin(tmp_path, "schlüssel")) == "schlüssel".encode()
    assert not list(tmp_path.iterdir())


def test_secret_is_made_once(tmp_path: Path) -> None:
    """The first start makes it, later ones find it; nobody else may read it."""
    secret = load_key_secret(admin(tmp_path))
    assert re.fullmatch(rb"[0-9a-f]{64}", secret)
    assert load_key_secret(admin(tmp_path)) == secret
    (path,) = (tmp_path / "new").iterdir()
    assert path.name == "keys.db.secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_secret_of_the_file_may_be_configured(tmp_path: Path) -> None:
    """Its text as ``admin.key_secret`` is the same secret."""
    secret = load_key_secret(admin(tmp_path))
    text = (tmp_path / "new" / "keys.db.secret").read_text().rstrip("\n")
    assert load_key_secret(admin(tmp_path, text)) == secret


def test_secrets_differ(tmp_path: Path) -> None:
    """Each database has its own."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert load_key_secret(admin(tmp_path / "a")) != load_key_secret(admin(tmp_path / "b"))


@pytest.mark.parametrize("content", [b"", b"\n", b"canary\n", b" " * 100])
def test_file_without_secret(tmp_path: Path, content: bytes) -> None:
    """It is not replaced, for the keys would be lost; the error does not show what is in it."""
    settings = admin(tmp_path)
    path = tmp_path / "new" / "keys.db.secret"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"keys\.db\.secret does not hold") as raised:
        load_key_secret(settings)
    assert "canary" not in str(raised.value)
    assert path.read_bytes() == content


def test_no_place_for_it(tmp_path: Path) -> None:
    """A directory that cannot be made is an error that names it."""
    with pytest.raises(OSError, match="missing"):
        load_key_secret(Admin(db_path=str(tmp_path / "missing" / "new" / "keys.db")))


def test_exposed_file_is_warned_of(tmp_path: Path) -> None:
    """It is used all the same; the warning does not show it."""
    secret = load_key_secret(admin(tmp_path)).decode()
    (tmp_path / "new" / "keys.db.secret").chmod(0o644)
    logged = Logged("private_files")
    try:
        assert load_key_secret(admin(tmp_path)).decode() == secret
    finally:
        logged.stop()
    (line,) = logged.lines
    assert "0644" in line
    assert secret not in line


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    """All of them print the same, and leave one file."""
    path = str(tmp_path / "keys.db")
    started = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, path], stdout=subprocess.PIPE)
        for _ in range(6)
    ]
    printed = {process.communicate(timeout=60)[0] for process in started}
    assert len(printed) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["keys.db.secret"]
    assert printed == {(tmp_path / "keys.db.secret").read_bytes()}
