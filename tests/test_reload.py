"""Tests of `llmproxy.reload`: when a reload is due, and what is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, capturedLogs, formatEvent

from llmproxy.config.load import LoadedConfig
from llmproxy.config.model import Backend, Config
from llmproxy.errors import ConfigError, Problem
from llmproxy.reload import ConfigLife, Problems, Reloader
from llmproxy.values import ConfigStatus

CONFIG = Config(backends=(Backend(name="a", url="http://a:1"),))


def loaded(digest: str) -> LoadedConfig:
    """Make what a file says."""
    return LoadedConfig(CONFIG, "x.yaml", digest, {})


class Bench:
    """A reloader whose file, clock and gateway are the test's own.

    Attributes:
        reads: Who waits for the file.
        replaced: The digests that were put in force.
        told: What the watcher was told.
        fault: What replacing raises.
    """

    def __init__(self) -> None:
        self.now_s = 100.0
        self.reads: list[Deferred[LoadedConfig]] = []
        self.replaced: list[str] = []
        self.told: list[str] = []
        self.fault: Exception | None = None
        self.life = ConfigLife("first", lambda: self.now_s)
        self.reloader = Reloader(self._load, self._replace, life=self.life, watcher=self)

    def _load(self) -> Deferred[LoadedConfig]:
        self.reads.append(Deferred())
        return self.reads[-1]

    def _replace(self, one: LoadedConfig) -> str:
        if self.fault is not None:
            raise self.fault
        self.replaced.append(one.digest)
        return one.digest

    def reloading(self) -> None:
        """Note it."""
        self.told.append("reloading")

    def ready(self, status: str) -> None:
        """Note it."""
        self.told.append(status)


@pytest.fixture
def bench() -> Bench:
    """Make one."""
    return Bench()


def errors_in(events: Sequence[LogEvent]) -> list[str]:
    """Give the texts of the errors that were logged."""
    return [
        str(formatEvent(one)) for one in events if one["log_level"].name in ("error", "critical")
    ]


def test_before_any_reload(bench: Bench) -> None:
    """What the daemon began with is in force."""
    assert bench.life.status() == ConfigStatus("first", 100.0)
    assert repr(bench.reloader) == "<Reloader idle>"
    assert bench.reloader.summary() == "configuration first"


def test_a_good_file(bench: Bench) -> None:
    """It is read, put in force, and told of."""
    bench.reloader.request()
    assert bench.told == ["reloading"]
    assert repr(bench.reloader) == "<Reloader reloading>"
    bench.now_s = 107.0
    bench.reads[0].callback(loaded("second"))
    assert bench.replaced == ["second"]
    assert bench.life.status() == ConfigStatus("second", 107.0, 107.0)
    assert bench.told == ["reloading", "configuration second"]


def test_the_same_again(bench: Bench) -> None:
    """It is in force since it first was."""
    bench.reloader.request()
    bench.now_s = 107.0
    bench.reads[0].callback(loaded("first"))
    assert bench.life.status() == ConfigStatus("first", 100.0, 107.0)


def test_what_another_process_knows() -> None:
    """It is taken over; who wants to hear of reloads that failed is told."""
    failed: list[int] = []
    life = ConfigLife("first", lambda: 200.0, failed.append)
    life.resume(ConfigStatus("first", 100.0, 150.0, 3))
    assert life.status() == ConfigStatus("first", 100.0, 150.0, 3)
    life.stayed(2)
    assert (life.status(), failed) == (ConfigStatus("first", 100.0, 200.0, 2), [2])
    life.replaced("first")
    assert (life.status(), failed) == (ConfigStatus("first", 100.0, 200.0), [2])


@pytest.mark.parametrize("while_reading", [True, False])
def test_a_bad_file(bench: Bench, while_reading: bool) -> None:
    """Every problem is in the log; what was in force stays; a later good file clears it."""
    error = ConfigError((Problem("a.b", "is bad", 3, "x.yaml"), Problem("c", "is {odd}")))
    bench.reloader.request()
    bench.now_s = 107.0
    with capturedLogs() as events:
        if while_reading:
            bench.reads[0].errback(error)
        else:
            bench.fault = error
            bench.reads[0].callback(loaded("bad"))
    assert errors_in(events) == [
        "x.yaml:3: a.b: is bad",
        "c: is {odd}",
        "reload failed with 2 problem(s): configuration first stays in force",
    ]
    assert bench.replaced == []
    assert bench.life.status() == ConfigStatus("first", 100.0, 107.0, 2)
    assert bench.told[-1] == "configuration first; the last reload failed"
    bench.fault = None
    bench.reloader.request()
    bench.reads[1].callback(loaded("second"))
    assert bench.life.status() == ConfigStatus("second", 107.0, 107.0)


def test_a_fault_of_ours(bench: Bench) -> None:
    """It is logged as such, and the next reload comes all the same."""
    bench.reloader.request()
    with capturedLogs() as events:
        bench.reads[0].errback(ZeroDivisionError())
    assert any("log_failure" in one for one in events)
    assert bench.life.status().problems == 1
    bench.reloader.request()
    bench.reads[1].callback(loaded("second"))
    assert bench.replaced == ["second"]


def test_requests_while_it_reloads_are_one(bench: Bench) -> None:
    """One after the other, and the file as it is at the last request counts."""
    for _ in range(5):
        bench.reloader.request()
    assert len(bench.reads) == 1
    bench.reads[0].callback(loaded("second"))
    assert len(bench.reads) == 2
    bench.reads[1].callback(loaded("third"))
    assert len(bench.reads) == 2
    assert bench.replaced == ["second", "third"]
    assert bench.told == [
        "reloading",
        "configuration second",
        "reloading",
        "configuration third",
    ]


def test_a_file_that_is_read_at_once(bench: Bench) -> None:
    """Nothing waits for a later turn."""
    life, replaced = bench.life, bench.replaced

    def load() -> Deferred[LoadedConfig]:
        read: Deferred[LoadedConfig] = Deferred()
        read.callback(loaded("second"))
        return read

    def replace(one: LoadedConfig) -> str:
        replaced.append(one.digest)
        return one.digest

    reloader = Reloader(load, replace, life=life, watcher=bench)
    reloader.request()
    reloader.request()
    assert replaced == ["second", "second"]


def test_the_end(bench: Bench) -> None:
    """What is being read changes nothing any more, and nothing further is read."""
    bench.reloader.request()
    bench.reloader.stop()
    bench.reads[0].callback(loaded("second"))
    bench.reloader.request()
    assert (bench.replaced, len(bench.reads)) == ([], 1)
    assert bench.told == ["reloading"]
    assert repr(bench.reloader) == "<Reloader over>"


def test_problems_of_all_parts() -> None:
    """Each part that cannot be made adds its own; what is no problem of the file goes on up."""
    problems, one, two = Problems(), Problem("a", "is bad"), Problem("b", "is worse")

    def fail_with(error: Exception) -> NoReturn:
        raise error

    assert problems.gather(lambda: 7) == 7
    assert problems.gather(lambda: fail_with(ConfigError((one, two)))) is None
    assert problems.found == [one, two]
    with pytest.raises(ZeroDivisionError):
        problems.gather(lambda: fail_with(ZeroDivisionError()))
