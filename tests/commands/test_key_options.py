"""Tests of `llmproxy.commands.key_options`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from llmproxy.commands.key_options import fields_of, key_options, labelled, read_key


def fields(*words: str) -> dict[str, Any]:
    """Give the fields that options come to."""
    found: dict[str, Any] = {}

    def take(**options: Any) -> None:
        found.update(fields_of(options))

    command: Callable[..., None] = key_options(take)
    result = CliRunner().invoke(click.command()(command), words)
    assert result.exit_code == 0, result.output
    return found


def test_nothing_given_is_nothing_said() -> None:
    """The API's own defaults hold."""
    assert fields() == {}


def test_all_of_them() -> None:
    """Under the API's names, as its types."""
    described = (
        "--name alice --user alice@example.org --quota 20M --reset monthly --model qwen-* "
        "--model coder --allow-ip 10.0.0.0/8 --deny-ip 10.9.0.0/16 --deny-ip ::1 "
        "--starts 2027-01-01 --expires 2027-06-30T12:00:00+02:00"
    )
    limited = (
        "--requests-per-second 5 --requests-per-minute 1k --tokens-per-minute none "
        "--max-concurrent default --burst 20"
    )
    assert fields(*described.split(), *limited.split()) == {
        "name": "alice",
        "user_id": "alice@example.org",
        "total_quota": 20_000_000,
        "quota_reset_period": "monthly",
        "allowed_models": ["qwen-*", "coder"],
        "allowed_ips": ["10.0.0.0/8"],
        "denied_ips": ["10.9.0.0/16", "::1"],
        "starts_at": "2027-01-01T00:00:00Z",
        "expires_at": "2027-06-30T10:00:00Z",
        "rate_limit": {
            "requests_per_second": 5,
            "requests_per_minute": 1000,
            "tokens_per_minute": 0,
            "max_concurrent": None,
            "burst_size": 20,
        },
    }


def test_a_span_begins_now() -> None:
    """To the second."""
    expires = datetime.fromisoformat(fields("--expires", "90d")["expires_at"]).timestamp()
    assert abs(expires - time.time() - 90 * 86400) < 60


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--quota", "lots"), "'lots': want a number such as"),
        (("--reset", "yearly"), "monthly"),
        (("--expires", "soon"), "want a date or time such as"),
        (("--max-concurrent", "many"), "or none, or default"),
        (("--metadata", "team"), "'team': want NAME=VALUE"),
        (("--metadata", "=core"), "want NAME=VALUE"),
    ],
)
def test_what_cannot_be_read_is_told(words: tuple[str, ...], wanted: str) -> None:
    """With the option and what is wanted; the status is that of a wrong use."""
    command = click.command()(key_options(lambda **_: None))
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 2
    assert words[0] in result.stderr
    assert wanted in " ".join(result.stderr.split())


def test_labels_are_put_in_and_taken_out() -> None:
    """Others stay as they are, also those that are no text."""
    before = {"team": "core", "room": 7, "old": ""}
    after = labelled(before, [("team", "edge"), ("floor", "2"), ("room", "")])
    assert after == {"team": "edge", "floor": "2", "old": ""}
    assert labelled({}, [("a", "b=c")]) == {"a": "b=c"}


def test_a_key_in_a_file(tmp_path: Path) -> None:
    """One line, without what surrounds it; what else is there is not shown."""
    file = tmp_path / "key"
    file.write_text("  sk-secret-1\n")
    assert read_key(str(file)) == "sk-secret-1"
    file.write_text("tls:CN=Alice Smith\n")
    assert read_key(str(file)) == "tls:CN=Alice Smith"
    for text in ("", "\n", "sk-secret-1\nsk-secret-2\n", "sk-secret 1"):
        file.write_text(text)
        with pytest.raises(click.UsageError, match="not exactly one key") as caught:
            read_key(str(file))
        assert "sk-" not in caught.value.message


def test_a_key_is_typed_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal it is asked for as a password is."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(click.termui, "hidden_prompt_func", lambda _: "sk-secret-1 ")
    assert read_key("-") == "sk-secret-1"
