"""Tests of `llmproxy.logbooks`: files of logs, opened anew at each reload."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel
from zope.interface.verify import verifyObject

from llmproxy.config.model import AccessLog, Backend, Config, Log, LogFile, Logging
from llmproxy.config.setting import Secret
from llmproxy.errors import ConfigError
from llmproxy.interfaces import IReporter
from llmproxy.logbooks import Logbooks
from llmproxy.logs.access import FLUSH_AFTER_S
from llmproxy.values import UsageRecord

BASE = Config(backends=(Backend(name="a", url="http://a:1"),))


def config(log: str = "", access: str = "", **more: object) -> Config:
    """Make a configuration with these files; an empty name is standard output."""
    return attrs.evolve(
        BASE,
        log=Log(output="file", file=LogFile(path=log), **more) if log else Log(**more),  # type: ignore[arg-type]
        logging=Logging(
            access=AccessLog(output="file", path=access, format="json")
            if access
            else AccessLog(format="json")
        ),
    )


def event(text: str) -> LogEvent:
    """Make an event."""
    return {
        "log_level": LogLevel.info,
        "log_format": text,
        "log_namespace": "n",
        "log_time": 0.0,
    }


def record(record_id: str) -> UsageRecord:
    """Make a record."""
    return UsageRecord(
        id=record_id, time=0.0, request_id="r", endpoint="/x", outcome="ok", status=200
    )


def ids_in(path: Path) -> list[str]:
    """Give the ids of the records in a file."""
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_a_file_that_was_moved_away_is_let_go(tmp_path: Path) -> None:
    """After a reload of the same configuration, all goes to a new one of its name."""
    log, access = tmp_path / "daemon.log", tmp_path / "access.log"
    same, clock = config(str(log), str(access)), Clock()
    logbooks = Logbooks(same, clock)
    assert verifyObject(ILogObserver, logbooks)
    assert verifyObject(IReporter, logbooks)
    logbooks(event("one"))
    logbooks.report(record("1"))
    log.rename(tmp_path / "daemon.log.1")
    access.rename(tmp_path / "access.log.1")
    logbooks(event("still the old one"))
    logbooks.report(record("2"))
    logbooks.adopt(logbooks.prepare(same))
    logbooks(event("two"))
    logbooks.report(record("3"))
    clock.advance(FLUSH_AFTER_S)
    assert "still the old one" in (tmp_path / "daemon.log.1").read_text()
    assert "two" in log.read_text()
    assert "one" not in log.read_text()
    assert ids_in(tmp_path / "access.log.1") == ["1", "2"]
    assert ids_in(access) == ["3"]
    logbooks.close()


def test_other_files_levels_and_formats(tmp_path: Path) -> None:
    """Whatever the new configuration says, from the moment that it is in force."""
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    logbooks = Logbooks(config(str(first), str(tmp_path / "a")), Clock())
    prepared = logbooks.prepare(config(str(second), str(tmp_path / "a"), format="json"))
    logbooks(event("before"))
    logbooks.adopt(prepared)
    logbooks(event("after"))
    logbooks.adopt(logbooks.prepare(config(str(second), str(tmp_path / "a"), level="error")))
    logbooks(event("too little"))
    assert "before" in first.read_text()
    (line,) = second.read_text().splitlines()
    assert json.loads(line)["message"] == "after"


def test_standard_output_stays_the_process_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once twistd logs, its name stands for a file that writes to the log."""
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    logbooks = Logbooks(config(), Clock())
    monkeypatch.setattr("sys.stdout", io.StringIO())
    logbooks.adopt(logbooks.prepare(config()))
    logbooks(event("one"))
    assert out.getvalue().endswith("one\n")


def test_an_access_log_that_is_wanted_no_more(tmp_path: Path) -> None:
    """What began under it is written all the same; one that comes later begins its own file."""
    clock, first, second = Clock(), tmp_path / "first.log", tmp_path / "second.log"
    without = attrs.evolve(BASE, logging=Logging(access=AccessLog(enabled=False)))
    logbooks = Logbooks(without, clock)
    logbooks.report(record("0"))  # there is nowhere to write it
    logbooks.adopt(logbooks.prepare(config("", str(first))))
    logbooks.adopt(logbooks.prepare(without))
    logbooks.report(record("1"))
    logbooks.adopt(logbooks.prepare(config("", str(second))))
    logbooks.report(record("2"))
    clock.advance(FLUSH_AFTER_S)
    assert (ids_in(first), ids_in(second)) == (["1"], ["2"])
    logbooks.close()


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    """All of them are told, and what is in force goes on."""
    good = tmp_path / "good.log"
    logbooks = Logbooks(config(str(good)), Clock())
    with pytest.raises(ConfigError) as caught:
        logbooks.prepare(config("/no/such/folder/a", "/no/such/folder/b"))
    assert [one.path for one in caught.value.problems] == ["log.file.path", "logging.access.path"]
    with pytest.raises(ConfigError):
        logbooks.prepare(config(str(tmp_path / "other.log"), "/no/such/folder/b"))
    logbooks.prepare(config(str(tmp_path / "third.log")))
    logbooks.discard()
    logbooks(event("one"))
    assert "one" in good.read_text()


def test_secrets_of_every_configuration(tmp_path: Path) -> None:
    """Those of a new one are known before it is in force, and those before are still kept out."""
    path = tmp_path / "daemon.log"

    def with_key(key: str) -> Config:
        backends = (Backend(name="a", url="http://a:1", api_key=Secret(key)),)
        return attrs.evolve(config(str(path)), backends=backends)

    logbooks = Logbooks(with_key("canary-one"), Clock())
    logbooks(event("canary-one canary-two"))
    prepared = logbooks.prepare(with_key("canary-two"))
    logbooks(event("canary-one canary-two"))
    logbooks.adopt(prepared)
    logbooks(event("canary-one canary-two"))
    told = [line.partition("n: ")[2] for line in path.read_text().splitlines()]
    assert told == ["(hidden) canary-two", "(hidden) (hidden)", "(hidden) (hidden)"]


def test_no_file_stays_open(tmp_path: Path) -> None:
    """However often the configuration changes."""
    logbooks = Logbooks(config(str(tmp_path / "0.log")), Clock())
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1, 6):
        one = config(str(tmp_path / f"{number}.log"))
        logbooks.prepare(one)
        logbooks.discard()
        logbooks.adopt(logbooks.prepare(one))
        with pytest.raises(ConfigError):
            logbooks.prepare(config(str(tmp_path / "x.log"), "/no/such/folder/b"))
    assert len(os.listdir("/proc/self/fd")) == before
