"""Tests of `llmproxy.tap`."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import twisted.internet
from twisted.application.service import IService
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import IPlugin
from twisted.python import usage
from twisted.scripts._twistd_unix import ServerOptions
from zope.interface.verify import verifyObject

from llmproxy import tap
from llmproxy.config.load import load_file
from llmproxy.service import Gateway
from llmproxy.tap import (
    EndSignals,
    Options,
    ReloadSignal,
    install,
    makeService,
    settle_memory,
)
from llmproxy.values import ConfigStatus
from llmproxy.workers.orders import Begin
from twisted.plugins import llmproxy_plugin

GOOD = """\
server: {listen: "127.0.0.1:8123"}
backends: [{name: a, url: "http://127.0.0.1:1"}]
auth: {enabled: false}
"""


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Reactor(MemoryReactorClock):
    """A reactor in memory that keeps what comes from signals, and counts its stops."""

    def __init__(self) -> None:
        super().__init__()
        self.from_signals: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.stops = 0

    def callFromThread(self, function: Callable[..., object], *arguments: Any) -> None:
        """Keep a call for `turn`."""
        self.from_signals.append((function, arguments))

    def turn(self) -> None:
        """Make the calls that are kept."""
        kept, self.from_signals = self.from_signals, []
        for function, arguments in kept:
            function(*arguments)

    def stop(self) -> None:
        """Count a stop."""
        self.stops += 1


@pytest.fixture
def reactor(monkeypatch: pytest.MonkeyPatch) -> Reactor:
    """The reactor that the tap finds."""
    made = Reactor()
    monkeypatch.setattr(twisted.internet, "reactor", made, raising=False)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good configuration file."""
    path = tmp_path / "x.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, what in before.items():
        signal.signal(number, what)


def parsed(file: Path) -> Options:
    """Parse a command line that names a file."""
    options = Options()
    options.parseOptions(["--config", str(file)])
    return options


def test_options_load_the_file(file: Path) -> None:
    """It is there for the service, and needs no second look."""
    options = Options()
    options.parseOptions(["-c", str(file)])
    assert options.loaded.config.server.listen == ("127.0.0.1:8123",)


def test_options_without_a_file() -> None:
    """A usage error, which twistd shows with the usage."""
    with pytest.raises(usage.UsageError, match="--config FILE is needed"):
        Options().parseOptions([])


def test_options_of_a_worker(
    monkeypatch: pytest.MonkeyPatch, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes what its parent tells, whatever the file says; without a parent it ends."""
    told = Begin(load_file(str(file), {}), ConfigStatus("digest", 1.7e9))
    monkeypatch.setenv("LLMPROXY_WORKER", "0")
    monkeypatch.setattr(tap, "first_order", lambda: told)
    file.write_text("broken: [")
    options = parsed(file)
    assert (options.begin, options.loaded) == (told, told.loaded)

    def gone() -> NoReturn:
        raise EOFError

    monkeypatch.setattr(tap, "first_order", gone)
    with pytest.raises(SystemExit) as caught:
        parsed(file)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "llmproxy: the parent is gone\n"


def test_options_show_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each on its line of standard error, then exit status 1."""
    bad = tmp_path / "x.yaml"
    bad.write_text(GOOD.replace("name: a", "nam: a").replace("auth:", "aut:"))
    with pytest.raises(SystemExit) as caught:
        parsed(bad)
    assert caught.value.code == 1
    problems = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in problems] == [
        [f"{bad}:2", "backends[0].nam"],
        [f"{bad}:3", "aut"],
    ]


def test_the_plugin_names_this_module() -> None:
    """Twistd reads the options and makes the service through it."""
    maker = llmproxy_plugin.llmproxy
    assert verifyObject(IPlugin, maker)
    assert maker.tapname == "llmproxy"
    assert maker.options is Options
    assert maker.makeService is makeService


@pytest.mark.usefixtures("_signals_as_before")
def test_the_service(reactor: Reactor, file: Path) -> None:
    """It is a gateway on the reactor that takes the signals of its end once it runs.

    That of a reload is taken before: it would end the process.
    """
    before = signal.getsignal(signal.SIGTERM)
    service = makeService(parsed(file))
    assert isinstance(service, Gateway)
    assert verifyObject(IService, service)
    assert signal.getsignal(signal.SIGTERM) is before
    assert isinstance(signal.getsignal(signal.SIGHUP), ReloadSignal)
    (hook, arguments, _), (settling, *_), _ = reactor.whenRunningHooks
    assert settling is settle_memory
    hook(*arguments)
    end = signal.getsignal(signal.SIGTERM)
    assert isinstance(end, EndSignals)
    assert signal.getsignal(signal.SIGINT) is end


@pytest.mark.usefixtures("_signals_as_before")
def test_install() -> None:
    """A signal reaches it."""
    reactor = Reactor()
    before = signal.getsignal(signal.SIGINT)
    install(EndSignals(reactor, reactor.stop), [signal.SIGTERM])
    assert signal.getsignal(signal.SIGINT) is before
    signal.raise_signal(signal.SIGTERM)
    reactor.turn()
    assert reactor.stops == 1


def test_the_first_signal_ends_it_and_the_second_hurries() -> None:
    """Nothing happens inside a signal's call; a third one is no worse than a second."""
    reactor = Reactor()
    hurried: list[int] = []
    end = EndSignals(reactor, reactor.stop, lambda: hurried.append(reactor.stops))
    end(signal.SIGTERM, None)
    assert reactor.stops == 0
    reactor.turn()
    assert (reactor.stops, hurried) == (1, [])
    end(signal.SIGINT, None)
    assert hurried == []
    end(signal.SIGTERM, None)
    reactor.turn()
    assert (reactor.stops, hurried) == (1, [1, 1])


def test_further_signals_that_are_for_others() -> None:
    """A worker waits for its parent to say so."""
    reactor = Reactor()
    end = EndSignals(reactor, reactor.stop)
    for _ in range(3):
        end(signal.SIGTERM, None)
        reactor.turn()
    assert reactor.stops == 1


def test_an_end_without_a_signal() -> None:
    """It counts as the first; once it has begun, there is no other."""
    reactor = Reactor()
    end = EndSignals(reactor, reactor.stop)
    end.begin("the parent is gone")
    end.begin("the parent is gone")
    end(signal.SIGTERM, None)
    reactor.turn()
    assert reactor.stops == 1


@pytest.mark.usefixtures("_signals_as_before")
def test_a_port_in_use(
    reactor: Reactor,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One line, exit status 1, and twistd's pid file is taken away again."""

    def listenTCP(*arguments: Any, **more: Any) -> Any:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(reactor, "listenTCP", listenTCP)
    pid_file = tmp_path / "twistd.pid"
    pid_file.write_text("1")
    options = parsed(file)
    options.parent = ServerOptions()
    options.parent["pidfile"] = str(pid_file)
    service = makeService(options)
    with pytest.raises(SystemExit) as caught:
        service.privilegedStartService()
    assert caught.value.code == 1
    expected = "llmproxy: cannot listen on '127.0.0.1:8123': Address already in use\n"
    assert capfd.readouterr().err == expected
    assert not pid_file.exists()


@pytest.mark.usefixtures("_signals_as_before")
def test_time_that_nobody_sets(reactor: Reactor, file: Path) -> None:
    """Timers go by a monotonic clock: the time of day may be set."""
    makeService(parsed(file))
    before_s = time.monotonic()
    assert before_s <= reactor.seconds() <= time.monotonic()


def test_each_hangup_asks_for_a_reload() -> None:
    """In the reactor's next turn."""
    reactor = Reactor()
    asked: list[int] = []
    hangup = ReloadSignal(reactor, lambda: asked.append(1))
    hangup(signal.SIGHUP, None)
    hangup(signal.SIGHUP, None)
    assert asked == []
    reactor.turn()
    assert asked == [1, 1]


def test_what_stays_is_not_searched_for_garbage() -> None:
    """Once the daemon runs, the collector passes over all that was made at the start."""
    try:
        settle_memory()
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
