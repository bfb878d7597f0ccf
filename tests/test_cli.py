"""Tests of `llmproxy.cli`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import llmproxy
from llmproxy.cli import main
from llmproxy.config.load import load_file

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
    environ = {"LLMPROXY_TEST_KEY": "s3cret-2"}
    assert result.stdout.splitlines() == [
        f"{file}: ok",
        "  listens on :8000, [::1]:9000",
        "  backend one: http://h:1 (models: a, b)",
        "  backend two: demo: (models: by its own list)",
        "  models: a, b",
        "  authentication: static: 2 keys",
        "  limits: none but those of keys (counted in memory)",
        "  usage: counted, and kept by nobody",
        "  admin API: off",
        f"  digest: {load_file(str(file), environ).digest}",
    ]


def test_a_key_that_everybody_knows(tmp_path: Path) -> None:
    """Where other machines reach the gateway, it is said beside the addresses."""
    file = tmp_path / "x.yaml"
    file.write_text(GOOD)
    lines = check(file, LLMPROXY_TEST_KEY="sk-demo").stdout.splitlines()
    assert (
        lines[2] == "  beware: the key sk-demo, which everybody knows, opens it to other machines"
    )


def test_who_gets_the_records(tmp_path: Path) -> None:
    """The reporters by name and type; nobody, where usage is off."""
    reporters = "[{name: local, type: builtin}, {name: log, type: log}]"
    file = tmp_path / "x.yaml"
    for settings, said in (
        (f"reporters: {reporters}", "local (builtin), log (log)"),
        (f"enabled: false, reporters: {reporters}", "counted, and kept by nobody"),
    ):
        file.write_text(GOOD + f"usage: {{{settings}}}\n")
        lines = check(file, LLMPROXY_TEST_KEY="s3cret-2").stdout.splitlines()
        assert f"  usage: {said}" in lines


def test_how_users_of_opencode_log_in(tmp_path: Path) -> None:
    """The command that they type, where it is of use."""
    file = tmp_path / "x.yaml"
    file.write_text(GOOD + "opencode: {enabled: true, url: 'https://gw.example'}\n")
    lines = check(file, LLMPROXY_TEST_KEY="s3cret-2").stdout.splitlines()
    assert lines[-2] == "  OpenCode: users type: opencode auth login https://gw.example"


SOURCES = """\
backends: [{name: one, url: "demo:"}]
auth:
  pipeline:
    - {name: s, type: static, static: {keys: [{key: s3cret-1}]}}
    - {name: local, type: builtin}
    - {name: iam, type: webhook, webhook: {url: "https://iam/?s3cret-2", headers: {X: s3cret-3}}}
rate_limit:
  storage: redis
  redis: main
  global: {max_concurrent: 100}
  per_key: {requests_per_minute: 60, burst_size: 20}
  per_model: {qwen: {tokens_per_minute: 5000}, other: {}}
storage: {caches: [{name: main, password: s3cret-4}]}
admin: {enabled: true, token: "x7s3cret!Qh2mPz9", listen: "127.0.0.1:8011", db_path: DB}
"""


def test_sources_of_keys_limits_and_the_admin_listener(tmp_path: Path) -> None:
    """Static keys are counted, other sources named; each scope with limits has a line."""
    file = tmp_path / "x.yaml"
    file.write_text(SOURCES.replace("DB", str(tmp_path / "x.db")))
    result = check(file)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "s3cret" not in result.stdout
    assert result.stdout.splitlines()[4:-1] == [
        "  authentication: static: 1 key, local (builtin), iam (webhook)",
        "  limits of all requests (counted in redis main): max_concurrent 100",
        "  limits of each key (counted in redis main): requests_per_minute 60, burst_size 20",
        "  limits of qwen (counted in redis main): tokens_per_minute 5000",
        "  usage: counted, and kept by nobody",
        "  admin API: listens on 127.0.0.1:8011",
    ]


def test_all_sources_together_and_no_limits(tmp_path: Path) -> None:
    """With ``mode: all`` it is said that they must agree; limits that are off are said to be."""
    file = tmp_path / "x.yaml"
    text = SOURCES.replace("DB", str(tmp_path / "x.db"))
    text = text.replace("auth:\n", "auth:\n  mode: all\n")
    file.write_text(text.replace("rate_limit:\n", "rate_limit:\n  enabled: false\n"))
    assert check(file).stdout.splitlines()[4:6] == [
        "  authentication: all of static: 1 key, local (builtin), iam (webhook)",
        "  limits: off (quotas are counted in redis main)",
    ]


def test_an_open_door_is_said_to_be_one(tmp_path: Path) -> None:
    """Who turned authentication off should see it."""
    file = tmp_path / "x.yaml"
    file.write_text("backends: [{name: a, url: 'demo:'}]\nauth: {enabled: false}\n")
    assert check(file).stdout.splitlines()[3:5] == [
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

    monkeypatch.setattr("llmproxy.cli.load_file", broken)
    assert isinstance(check(tmp_path).exception, ZeroDivisionError)


def test_version_and_help() -> None:
    """``--version`` names the program, ``-h`` its commands."""
    assert CliRunner().invoke(main, ["--version"]).stdout == (
        f"llmproxy, version {llmproxy.__version__}\n"
    )
    assert "check-config" in CliRunner().invoke(main, ["-h"]).stdout
