"""Tests of `llmproxy.commands.connection`, by way of one of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmproxy.commands.connection import echo_json, terminal_cells
from tests.commands.admin_server import TOKEN
from tests.commands.conftest import Operator
from tests.daemon import free_port


def test_the_configuration_may_be_named(operator: Operator, tmp_path: Path) -> None:
    """By the option rather than the environment."""
    other = tmp_path / "other.yaml"
    other.write_text(operator.config.read_text())
    operator.config.write_text("admin: {enabled: false}\n")
    assert operator.gives("backends", "--config", str(other))["backends"][0]["name"] == "gpu-1"


def test_the_address_may_be_named(operator: Operator, tmp_path: Path) -> None:
    """With a token beside it, and no configuration at all."""
    url = operator.config.read_text().partition("127.0.0.1:")[2].partition('"')[0]
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    operator.config.unlink()
    words = ("backends", "--url", f"http://127.0.0.1:{url}", "--token-file", str(token_file))
    assert "gpu-1" in operator.does(*words)


def test_every_kind_of_failure_has_its_status(operator: Operator) -> None:
    """1: refused; 2: used wrongly; 3: nobody there, or not enabled."""
    assert operator.fails(1, "backends", "drain", "none").startswith("Error: There is no")
    assert "No such option" in operator.fails(2, "backends", "--nothing")
    text = operator.config.read_text()
    operator.config.write_text(text.replace(TOKEN, "another-token-of-ours"))
    assert "the token that of the running daemon" in operator.fails(1, "backends")
    operator.config.write_text(f"admin: {{enabled: true, token: t, listen: ':{free_port()}'}}")
    assert "connection refused. Does the daemon run" in operator.fails(3, "backends")
    operator.config.write_text("{}")
    assert "the admin API is not enabled" in operator.fails(3, "backends")
    operator.config.unlink()
    assert "cannot be read: No such file" in operator.fails(2, "backends")


def test_json_is_plain_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """So that no terminal obeys anything in it, and every program reads it."""
    echo_json({"name": "日\x9b\ud800"})
    assert capsys.readouterr().out == '{\n  "name": "\\u65e5\\u009b\\ud800"\n}\n'


def test_the_width_may_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variable that terminals set."""
    monkeypatch.setenv("COLUMNS", "99")
    assert terminal_cells() == 99
