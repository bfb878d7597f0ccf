"""``twistd llmproxy``: the options of the subcommand, and the service that it runs."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import attrs
from twisted.application.service import IService
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python import usage

from llmproxy.config.load import LoadedConfig, load_file
from llmproxy.config.model import Config
from llmproxy.descriptors import raise_limit
from llmproxy.errors import ConfigError
from llmproxy.reload import Reloader
from llmproxy.service import Gateway
from llmproxy.systemd import SystemdNotifier
from llmproxy.workers.handover import as_worker, worker_count, worker_number
from llmproxy.workers.orders import Begin, Hurry, Order, Orders, Serve, Stay, first_order

if TYPE_CHECKING:
    from llmproxy.workers.parent import Parent


class Options(usage.Options):
    """What ``twistd llmproxy`` takes."""

    synopsis = "[options]"
    longdesc = "A streaming gateway between AI coding assistants and inference servers."
    optParameters: ClassVar[list[list[Any]]] = [
        ["config", "c", None, "The configuration file (YAML)."],
    ]

    loaded: LoadedConfig
    begin: Begin | None = None
    """What a worker is told first; None: this is none."""

    def postOptions(self) -> None:
        """Load the configuration; every problem in it goes to standard error, and that is all.

        A worker is told it by its parent.
        """
        if not self["config"]:
            raise usage.UsageError("--config FILE is needed")
        if worker_number(os.environ) is not None:
            try:
                self.begin = first_order()
            except EOFError:
                sys.stderr.write("llmproxy: the parent is gone\n")
                raise SystemExit(1) from None
            self.loaded = self.begin.loaded
            return
        try:
            self.loaded = load_file(self["config"], os.environ)
        except ConfigError as error:
            _give_up(error)


def makeService(options: Options) -> IService:
    """Make the daemon's service for twistd."""
    from twisted.internet import reactor as global_reactor

    reactor: Any = global_reactor
    tell_monotonic_time(reactor)
    raise_limit()
    pidfile = options.parent["pidfile"] if options.parent is not None else None

    def cannot_start(message: str) -> NoReturn:
        # twistd would show a traceback for an exception, and would leave its pid file for an exit.
        print(f"llmproxy: {message}", file=sys.__stderr__)
        if pidfile and os.path.exists(pidfile):
            os.unlink(pidfile)
        raise SystemExit(1)

    def cannot_go_on() -> None:
        # The exit status of a process whose reactor has run is twistd's to give, and would be 0.
        def end() -> NoReturn:
            sys.stdout.flush()
            with suppress(SystemExit):
                cannot_start("a worker could not begin")
            os._exit(1)

        reactor.addSystemEventTrigger("after", "shutdown", end)
        reactor.stop()

    systemd = SystemdNotifier.from_environment(os.environ, os.getpid(), reactor)
    path = os.path.abspath(options["config"])
    daemon: Gateway | Parent
    try:
        daemon = _make_daemon(
            options.loaded,
            path,
            reactor,
            cannot_start,
            ready=lambda: systemd.ready(reloader.summary()),
            failed=cannot_go_on,
        )
    except ConfigError as error:
        _give_up(error)
    in_force = options.loaded.config
    told = options.loaded
    is_worker = options.begin is not None
    if options.begin is not None:
        daemon.config_life.resume(options.begin.status)

    def obey(order: Order) -> None:
        nonlocal told
        match order:
            case Serve(loaded):
                told = loaded
                reloader.request()
            case Stay(problems):
                daemon.config_life.stayed(problems)
            case Hurry():
                daemon.hurry()

    def load() -> Deferred[LoadedConfig]:
        if is_worker:
            return succeed(told)
        # In a thread: a file with many keys takes a while, and streams go on.
        pool = reactor.getThreadPool()
        return deferToThreadPool(reactor, pool, load_file, path, os.environ, in_force)

    def replace(loaded: LoadedConfig) -> str:
        nonlocal in_force
        digest = daemon.replace(attrs.evolve(loaded, config=_own(loaded.config)))
        in_force = loaded.config
        return digest

    reloader = Reloader(load, replace, life=daemon.config_life, watcher=systemd)

    def begin_end() -> None:
        reloader.stop()
        systemd.stopping(daemon.longest_s)
        reactor.stop()

    # Whoever signals all processes signals the parent as well, which then signals each worker: that
    # is no second signal. Of those its parent tells it.
    end = EndSignals(reactor, begin_end, None if is_worker else daemon.hurry)
    end_signals = [signal.SIGTERM]
    if not is_worker:  # who ignores the other two since it was started
        end_signals.append(signal.SIGINT)
        # At once: its default is to end the process, and it may come before the reactor runs.
        signal.signal(signal.SIGHUP, ReloadSignal(reactor, reloader.request))
    # Installed after Twisted's own, which would have the process die of the signal at the end.
    reactor.callWhenRunning(install, end, end_signals)
    reactor.callWhenRunning(settle_memory)
    if isinstance(daemon, Gateway):
        reactor.callWhenRunning(lambda: systemd.ready(reloader.summary()))
    if is_worker:
        orders = Orders(reactor, obey, lambda: end.begin("the parent is gone"))
        reactor.callWhenRunning(orders.startReading)
    return daemon


def _own(config: Config) -> Config:
    """Give what of a configuration is for this process."""
    return config if worker_number(os.environ) is None else as_worker(config, os.environ)


def _make_daemon(
    loaded: LoadedConfig,
    path: str,
    reactor: Any,
    cannot_start: Callable[[str], NoReturn],
    *,
    ready: Callable[[], None],
    failed: Callable[[], None],
) -> Gateway | Parent:
    """Make what serves: a gateway, or what supervises several.

    Args:
        loaded: The configuration.
        path: Its file.
        reactor: The reactor.
        cannot_start: As of both.
        ready: As of the latter.
        failed: As of the latter.

    Raises:
        ConfigError: A file that the configuration names cannot be used.
    """
    config = loaded.config
    count = worker_count(config.server.workers)
    if count == 1 or worker_number(os.environ) is not None:
        return Gateway(_own(config), reactor, cannot_start, loaded.digest)
    # Only who uses them has them in memory.
    from llmproxy.workers.parent import Parent

    run = "from twisted.scripts.twistd import run; run()"
    command = [sys.executable, "-c", run, "-n", "--pidfile=", "llmproxy", "--config", path]
    return Parent(
        loaded,
        reactor,
        cannot_start,
        count=count,
        command=command,
        ready=ready,
        failed=failed,
    )


def tell_monotonic_time(reactor: Any) -> None:
    """Have a reactor keep time by a clock that nobody sets, before anything is scheduled on it.

    Its own is the time of day: set back an hour, nothing would be due for an hour, neither timeouts
    nor the look-out for keys that were switched off. Dates are never taken from a reactor here.
    """
    reactor.seconds = time.monotonic


def settle_memory() -> None:
    """Take what was made at the start out of the garbage collector's sight: it stays for good."""
    gc.collect()
    gc.freeze()


def _give_up(error: ConfigError) -> NoReturn:
    """Name every problem on a line of its own, without a traceback."""
    for problem in error.problems:
        sys.stderr.write(f"{problem}\n")
    raise SystemExit(1)


class EndSignals:
    """SIGTERM and SIGINT: the first ends the daemon well, with exit status 0, a second one now.

    What else ends the daemon is the first as well.

    Args:
        reactor: Takes what is done into its next turn.
        end: Called at the first.
        hurry: Called at each further one; None: those are for others to take.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, end: Callable[[], None], hurry: Callable[[], None] | None = None
    ) -> None:
        self._reactor = reactor
        self._end_well = end
        self._hurry = hurry
        self._ending = False

    def __call__(self, number: int, frame: object) -> None:
        """Take a signal; what follows from it is done in the reactor's next turn."""
        del frame
        self._reactor.callFromThread(self._end, signal.Signals(number).name)

    def _end(self, name: str) -> None:
        if not self._ending:
            self.begin(f"received {name}")
        elif self._hurry is not None:
            self._log.info("received {name} again, ending now", name=name)
            self._hurry()

    def begin(self, why: str) -> None:
        """End well, if that has not begun."""
        if not self._ending:
            self._ending = True
            self._log.info("{why}, ending", why=why)
            self._end_well()


class ReloadSignal:
    """SIGHUP: the configuration is read anew.

    Args:
        reactor: Takes what is done into its next turn.
        reload: Called at each.
    """

    _log = Logger()

    def __init__(self, reactor: Any, reload: Callable[[], None]) -> None:
        self._reactor = reactor
        self._reload = reload

    def __call__(self, number: int, frame: object) -> None:
        """Take a signal."""
        del number, frame
        self._reactor.callFromThread(self._received)

    def _received(self) -> None:
        self._log.info("received SIGHUP, reading the configuration")
        self._reload()


def install(end: EndSignals, numbers: Iterable[signal.Signals]) -> None:
    """Have the process's signals taken."""
    for number in numbers:
        signal.signal(number, end)
