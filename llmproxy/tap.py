"""``twistd llmproxy``: the options of the subcommand, and the service that it runs."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, ClassVar, NoReturn

from twisted.application.service import IService
from twisted.python import usage

from llmproxy.config.load import load_config
from llmproxy.config.model import Config
from llmproxy.errors import ConfigError
from llmproxy.service import Gateway


class Options(usage.Options):
    """What ``twistd llmproxy`` takes."""

    synopsis = "[options]"
    longdesc = "A streaming gateway between AI coding assistants and inference servers."
    optParameters: ClassVar[list[list[Any]]] = [
        ["config", "c", None, "The configuration file (YAML)."],
    ]

    loaded: Config

    def postOptions(self) -> None:
        """Load the configuration; every problem in it goes to standard error, and that is all."""
        if not self["config"]:
            raise usage.UsageError("--config FILE is needed")
        try:
            self.loaded = load_config(self["config"], os.environ)
        except ConfigError as error:
            for problem in error.problems:
                sys.stderr.write(f"{problem}\n")
            raise SystemExit(1) from None


def makeService(options: Options) -> IService:
    """Make the daemon's service for twistd."""
    from twisted.internet import reactor

    pidfile = options.parent["pidfile"] if options.parent is not None else None

    def cannot_start(message: str) -> NoReturn:
        # twistd would show a traceback for an exception, and would leave its pid file for an exit.
        print(f"llmproxy: {message}", file=sys.__stderr__)
        if pidfile and os.path.exists(pidfile):
            os.unlink(pidfile)
        raise SystemExit(1)

    gateway = Gateway(options.loaded, reactor, cannot_start)

    def stop_at_second_signal() -> None:
        """While it drains, a further signal ends it at once."""

        def hurry(number: int, frame: object) -> None:
            del number, frame
            reactor.callFromThread(gateway.lifecycle.hurry)  # type: ignore[attr-defined]

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, hurry)

    reactor.addSystemEventTrigger("before", "shutdown", stop_at_second_signal)
    return gateway
