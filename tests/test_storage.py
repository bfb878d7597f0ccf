"""Tests of `llmproxy.storage`: only what is used is made, and opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from twisted.internet.testing import MemoryReactorClock

from llmproxy.config.load import parse_config
from llmproxy.config.model import Config
from llmproxy.config.model_stores import Database
from llmproxy.errors import ConfigError
from llmproxy.storage import RETIRE_AFTER_S, Storage
from llmproxy.stores.counters import SqliteCounters
from llmproxy.stores.memory_counters import MemoryCounters

STORES = """
storage:
  caches: [{name: one, addr: "127.0.0.1:1"}, {name: other, addr: "127.0.0.1:2"}]
  databases: [{name: people, path: x}, {name: things, path: y}]
"""


def configured(folder: Path, sources: str, more: str = "") -> Config:
    """Make a configuration with these sources of keys."""
    text = f"""
backends: [{{name: a, url: "http://127.0.0.1:1"}}]
auth: {{pipeline: [{sources}]}}
admin: {{db_path: "{folder}/kept/own.db"}}
{STORES}{more}"""
    return parse_config(
        text,
        {},
        read_file=lambda path: Path(path).read_text(),
        is_directory=lambda path: Path(path).is_dir(),
    )


def made(config: Config) -> Storage:
    """Make the stores of a configuration, and start none."""
    return Storage(config, MemoryReactorClock(), lambda _: None)


STATIC = "{name: s, type: static, static: {keys: [{key: sk-123456}]}}"
BUILTIN = "{name: b, type: builtin}"
REDIS = "{name: r, type: redis, redis: {storage: one}}"
DATABASE = "{name: d, type: database, database: {storage: things, fields: [status]}}"
IN_REDIS = "rate_limit: {storage: redis, redis: other}\n"


def test_nothing_is_made_for_static_keys(tmp_path: Path) -> None:
    """No file, no connections: counters are in memory."""
    storage = made(configured(tmp_path, STATIC))
    assert (storage.redis, storage.databases, storage.keys) == ({}, {}, None)
    assert isinstance(storage.counters, MemoryCounters)
    assert list(storage) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sources", "more", "redis", "databases", "has_file"),
    [
        (BUILTIN, "", [], [], True),
        (REDIS, "", ["one"], [], True),
        (REDIS, IN_REDIS, ["one", "other"], [], False),
        (DATABASE, IN_REDIS, ["other"], ["things"], False),
        (f"{BUILTIN}, {REDIS}, {DATABASE}", IN_REDIS, ["one", "other"], ["things"], True),
    ],
)
def test_what_is_named_is_made(
    tmp_path: Path, sources: str, more: str, redis: list[str], databases: list[str], has_file: bool
) -> None:
    """By its name; what nobody names is left alone."""
    storage = made(configured(tmp_path, sources, more))
    assert sorted(storage.redis) == redis
    assert sorted(storage.databases) == databases
    assert {name: is_up() for name, is_up in storage.is_up.items()} == {
        **{f"redis {name}": False for name in redis},  # it has not been started
        **{f"database {name}": True for name in databases},
    }
    assert (storage.keys is not None) is has_file
    assert isinstance(storage.counters, SqliteCounters) is has_file
    assert (tmp_path / "kept" / "own.db").exists() is has_file
    assert "127.0.0.1" not in repr(storage)


REPORTERS = """
usage:
  reporters:
    - {name: own, type: builtin, builtin: {retention_days: 7}}
    - {name: sql, type: database, database: {storage: people}}
"""


def test_what_reporters_name_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store of records, the database, and its file, for the daemon's user alone."""
    monkeypatch.chdir(tmp_path)
    storage = made(configured(tmp_path, STATIC, REPORTERS))
    assert sorted(storage.databases) == ["people"]
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "kept" / "own.db").exists()
    assert "days=7" in repr(storage)
    off = configured(tmp_path / "other", STATIC, REPORTERS + "  enabled: false\n")
    storage = made(off)
    assert (storage.databases, storage.records, storage.keys) == ({}, None, None)
    config = configured(tmp_path, STATIC, REPORTERS)
    deep = Database(name="people", path=str(tmp_path / "no" / "such" / "x.db"))
    stores = attrs.evolve(config.storage, databases=(deep,))
    with pytest.raises(ConfigError, match=r"storage\.databases\[0\]\.path: .*No such file"):
        made(attrs.evolve(config, storage=stores))


def test_sources_of_an_open_gateway_are_not_asked(tmp_path: Path) -> None:
    """Where everybody is let in, nobody looks keys up."""
    config = configured(tmp_path, REDIS)
    opened = attrs.evolve(config, auth=attrs.evolve(config.auth, enabled=False))
    assert made(opened).redis == {}


def test_a_file_that_is_none_of_ours(tmp_path: Path) -> None:
    """It is refused in one line, and stays as it was."""
    (tmp_path / "kept").mkdir()
    file = tmp_path / "kept" / "own.db"
    file.write_text("something else, and long enough to be no empty database at all" * 20)
    before = file.read_bytes()
    with pytest.raises((ValueError, OSError)) as raised:
        made(configured(tmp_path, BUILTIN))
    assert "\n" not in str(raised.value)
    assert file.read_bytes() == before


def test_drivers_are_imported_by_those_who_use_them() -> None:
    """The default daemon does not have them in memory."""
    code = "import llmproxy.storage, sys; print([m for m in ('txredisapi', 'psycopg', 'pymysql', "
    code += "'sqlite3') if m in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert printed.stdout.strip() == "[]"


def test_another_configuration(tmp_path: Path) -> None:
    """Stores whose settings stay live on; what is gone is stopped when nobody waits for it."""
    reactor = MemoryReactorClock()
    before = configured(tmp_path, f"{REDIS}, {DATABASE}", "rate_limit: {enabled: false}")
    storage = Storage(before, reactor, lambda _: None)
    redis, database = storage.redis["one"], storage.databases["things"]
    keys = storage.keys
    after = configured(tmp_path, f"{DATABASE}, {REDIS}")
    changed = attrs.evolve(after.storage.caches[0], db=3)
    after = attrs.evolve(
        after, storage=attrs.evolve(after.storage, caches=(changed, *after.storage.caches[1:]))
    )
    named = storage.prepare(after)
    assert storage.redis["one"] is redis
    storage.adopt(named)
    assert storage.databases["things"] is database
    assert storage.keys is keys
    assert storage.redis["one"] is not redis
    assert redis in list(storage)
    reactor.advance(RETIRE_AFTER_S)
    assert redis not in list(storage)
    assert {storage.redis["one"], database} <= set(storage)
    assert reactor.getDelayedCalls() == []
    storage.adopt(storage.prepare(before))
    storage.stopService()
    assert reactor.getDelayedCalls() == []
