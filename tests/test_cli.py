"""Tests of `llmproxy.cli`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import llmproxy
from llmproxy.cli import main

GOOD = """\
server: {listen: [":8000", "[::1]:9000"]}
backends:
  - {name: one, url: "http://h:1", models: [a, b], api_key: s3cret-up}
  - {name: two, url: "demo:"}
models: [{id: a}, {id: b}]
auth:
  storage: file
api_keys: [{key: s3cret-1}, {key: "${LLMPROXY_TEST_KEY}"}]
"""


def check(file: object, **environ: str) -> Result:
    """Run ``llmproxy check-config``."""
    return CliRunner().invoke(main, ["check-config", str(file)], env=environ)


def test_a_good_file_is_summed_up_without_secrets(tmp_path: Path) -> None:
    """Listeners, backends, models and the number of keys."""
    file = tmp_path / "x.yaml"
    file.write_text(GOOD)
    result = check(file, LLMPROXY_TEST_KEY="s3cret-2")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        f"{file}: ok",
        "  listens on :8000, [::1]:9000",
        "  backend one: http://h:1 (models: a, b)",
        "  backend two: demo: (models: by its own list)",
        "  models: a, b",
        "  authentication: 2 keys",
    ]


def test_an_open_door_is_said_to_be_one(tmp_path: Path) -> None:
    """Who turned authentication off should see it."""
    file = tmp_path / "x.yaml"
    file.write_text("backends: [{name: a, url: 'demo:'}]\nauth: {enabled: false}\n")
    assert check(file).stdout.splitlines()[-2:] == [
        "  models: as the backends list them",
        "  authentication: off, everybody may use it",
    ]


def test_all_problems_of_a_bad_file(tmp_path: Path) -> None:
    """One per line, then how many; the exit status is 1."""
    file = tmp_path / "x.yaml"
    file.write_text(GOOD.replace("name: two", "nme: two").replace("[a, b]", "5"))
    result = check(file, LLMPROXY_TEST_KEY="s3cret-2")
    assert result.exit_code == 1
    assert result.stdout == ""
    first, second, count = result.stderr.splitlines()
    assert first.startswith(f"{file}:3: backends[0].models: 5 is not a list")
    assert second == f'{file}:4: backends[1].nme: is an unknown key; did you mean "name"?'
    assert count == "2 problems"


def test_one_problem_is_counted_as_one(tmp_path: Path) -> None:
    """A file that does not exist has no more."""
    result = check(tmp_path / "none")
    assert result.exit_code == 1
    assert result.stderr == f"{tmp_path}/none: does not exist; want a YAML file\n1 problem\n"


def test_what_nobody_expected_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes out as it is, for its traceback."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("llmproxy.cli.load_config", broken)
    assert isinstance(check(tmp_path).exception, ZeroDivisionError)


def test_version_and_help() -> None:
    """``--version`` names the program, ``-h`` its commands."""
    assert CliRunner().invoke(main, ["--version"]).stdout == (
        f"llmproxy, version {llmproxy.__version__}\n"
    )
    assert "check-config" in CliRunner().invoke(main, ["-h"]).stdout
