"""Tests of `llmproxy.config.checks_restart`."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from llmproxy.config.load import load_file
from llmproxy.errors import ConfigError, Problem

BASE = """\
backends: [{name: a, url: "http://127.0.0.1:1"}]
auth: {pipeline: [{name: b, type: builtin}]}
admin: {db_path: DB, key_secret: 0123456789abcdef0123456789abcdef}
rate_limit: {storage: redis, redis: one}
storage: {caches: [{name: one}, {name: two}]}
metrics: {path: /metrics}
usage: {spool_dir: data}
"""
PLAIN = BASE.replace("builtin", "static, static: {keys: [{key: sk-123456}]}").replace(
    "storage: redis, redis: one", ""
)


def told(folder: Path, before: str, after: str) -> list[str]:
    """Say which lines and keys of a file cannot be taken over from another one."""
    file = folder / "x.yaml"
    file.write_text(before.replace("DB", str(folder / "own.db")))
    in_force = load_file(str(file), {}).config
    file.write_text(after.replace("DB", str(folder / "own.db")))
    problems: tuple[Problem, ...] = ()
    try:
        load_file(str(file), {}, in_force)
    except ConfigError as error:
        problems = error.problems
    assert all(one.file == str(file) for one in problems)
    assert all("restart" in one.message for one in problems)
    assert "0123456789abcdef" not in str(problems)
    return [f"{one.line} {one.path}" for one in problems]


@pytest.mark.parametrize(
    ("old", "new", "problems"),
    [
        ("", "", []),
        ("127.0.0.1:1", "127.0.0.1:2", []),
        ("redis: one", "redis: two", ["4 rate_limit.redis"]),
        ("storage: redis, redis: one", "", ["4 rate_limit.storage", "4 rate_limit.redis"]),
        ("{name: one}", "{name: one, db: 3}", ["5 storage.caches[0]"]),
        ("{name: two}", "{name: two, db: 3}", []),
        ("own.db", "other.db", ["3 admin.db_path"]),
        ("key_secret: 0", "key_secret: 1", ["3 admin.key_secret"]),
        ("/metrics}", "/figures}", ["6 metrics"]),
        ("spool_dir: data", "spool_dir: other", ["7 usage"]),
    ],
)
def test_what_wants_a_restart(tmp_path: Path, old: str, new: str, problems: list[str]) -> None:
    """Few keys, each told with its line; others of the same sections may change."""
    base = BASE.replace("DB", "FOLDER/own.db").replace("FOLDER", str(tmp_path))
    assert told(tmp_path, base, base.replace(old, new, 1) if old else base) == problems


def test_databases_that_are_written(tmp_path: Path) -> None:
    """Whose records are on their way there; others may change."""
    reporter = "{name: d, type: database, database: {storage: w}}"
    databases = f"[{{name: r, path: {tmp_path}/r.db}}, {{name: w, path: {tmp_path}/w.db}}]"
    base = PLAIN.replace("{spool_dir: data}", f"{{reporters: [{reporter}]}}")
    base = base.replace("{caches", f"{{databases: {databases}, caches")
    assert told(tmp_path, base, base.replace("r.db", "other.db")) == []
    assert told(tmp_path, base, base.replace("w.db", "other.db")) == ["5 storage.databases[1]"]


def test_the_own_file_is_opened_at_the_start_only(tmp_path: Path) -> None:
    """What needs it cannot be added where nothing did; where it is open, its users may go."""
    with_store = PLAIN.replace("b, type", "c, type: builtin}, {name: b, type")
    assert told(tmp_path, PLAIN, with_store) == ["3 admin.db_path"]
    assert told(tmp_path, with_store, PLAIN) == []


def test_a_secret_in_a_file(tmp_path: Path) -> None:
    """The key that stands there is named."""
    secret = tmp_path / "secret"
    secret.write_text("another secret, which is 32 long")
    after = BASE.replace(
        "key_secret: 0123456789abcdef0123456789abcdef", f"key_secret_file: {secret}"
    )
    assert told(tmp_path, BASE, after) == ["3 admin.key_secret_file"]


def test_where_things_stand(tmp_path: Path) -> None:
    """What was found elsewhere is told with its line, or that of the part that it belongs to."""
    file = tmp_path / "x.yaml"
    file.write_text(PLAIN.replace("DB", str(tmp_path / "own.db")))
    loaded = load_file(str(file), {})
    paths = ("server.tls", "backends[0].tls", "backends[0].url", "admin.db_path", "")
    located = loaded.located(Problem(path, "x") for path in paths)
    assert [one.line for one in located] == [1, 1, 1, 3, 1]
    assert {one.file for one in located} == {str(file)}
    assert attrs.evolve(located[1], line=0, file="") == Problem("backends[0].tls", "x")


def test_the_sockets_of_workers(tmp_path: Path) -> None:
    """They were handed them at their start; one process alone opens what it needs."""
    several = PLAIN + "server: {workers: 2, listen: ':8001'}\n"
    assert told(tmp_path, several, several.replace("8001", "8002")) == ["8 server.listen"]
    alone = several.replace("workers: 2", "workers: 1")
    assert told(tmp_path, alone, alone.replace("8001", "8002")) == []
