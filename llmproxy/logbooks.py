"""The daemon's own log and its access log, through reloads.

Part of the parts list: plain constructor calls. Each of the two is written by one object that lives
as long as the daemon; where to and how is what the configuration in force says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import attrs
from twisted.logger import ILogObserver, LogEvent
from zope.interface import implementer

from llmproxy.config.model import Config
from llmproxy.config.secrets import secrets_of
from llmproxy.errors import ConfigError, Problem
from llmproxy.interfaces import ILogSink, IReporter
from llmproxy.logs.access import AccessLog
from llmproxy.logs.outputs import Destination, Outputs
from llmproxy.logs.redaction import Redactor
from llmproxy.logs.runtime import make_observer
from llmproxy.values import UsageRecord


@attrs.frozen(eq=False)
class OpenLogs:
    """The destinations that one configuration names, open.

    Attributes:
        config: The configuration.
        log: Where the daemon's own log goes.
        access: Where the access log goes; None: there is none.
    """

    config: Config
    log: ILogSink
    access: ILogSink | None


@implementer(ILogObserver, IReporter)
class Logbooks:
    """Writes the daemon's own log, as its observer, and the access log, as a reporter.

    No secret of any configuration that was ever in force is written: requests that began under an
    older one still know it.

    Args:
        config: The first configuration.
        clock: Tells when to flush.

    Raises:
        ConfigError: A destination cannot be opened.
    """

    def __init__(self, config: Config, clock: Any) -> None:
        self._clock = clock
        # Once twistd logs, these names stand for files that write to the log.
        self._outputs = Outputs(sys.stdout, sys.stderr)
        self._redactor = Redactor(())
        self._access: AccessLog | None = None
        self._in_use: tuple[Destination, ...] = ()
        self.adopt(self.prepare(config))

    def __repr__(self) -> str:
        return f"<Logbooks {self._outputs!r}>"

    def __call__(self, event: LogEvent) -> None:
        """Write an event to the daemon's own log."""
        self._observer(event)

    def report(self, record: UsageRecord) -> None:
        """Write a record to the access log.

        A request that began when there was to be one is written, whatever came since.
        """
        if self._access is not None:
            self._access.report(record)

    def prepare(self, config: Config) -> OpenLogs:
        """Open what another configuration names; nothing is written to it yet.

        Raises:
            ConfigError: A destination cannot be opened; with every one of them.
        """
        self._redactor.learn(secrets_of(config))
        problems: list[Problem] = []
        sinks: dict[str, ILogSink] = {}
        for key, destination in _named(config):
            try:
                sinks[key] = self._outputs.open(destination)
            except (OSError, ValueError) as error:
                part = "output"
                if destination.output == "file":
                    part = "file.path" if key == "log" else "path"
                problems.append(Problem(f"{key}.{part}", str(error)))
        if problems:
            self._outputs.close_others(self._in_use)
            raise ConfigError(tuple(problems))
        return OpenLogs(config, sinks["log"], sinks.get("logging.access"))

    def adopt(self, opened: OpenLogs) -> None:
        """Write there from now on, to files that are opened anew."""
        config = opened.config
        log, access = config.log, config.logging.access
        self._observer = make_observer(
            opened.log,
            "bare" if log.output == "journal" else log.format,
            log.level,
            self._redactor,
        )
        in_use = [destination for _, destination in _named(config)]
        if opened.access is None:
            # What begins no more is still written where it was.
            in_use += self._in_use[1:]
        elif self._access is None:
            self._access = AccessLog(opened.access, access.format, self._clock)
        else:
            self._access.switch(opened.access, access.format)
        self._in_use = tuple(in_use)
        self._outputs.settle(self._in_use)

    def discard(self) -> None:
        """Close what was opened for nothing."""
        self._outputs.close_others(self._in_use)

    def close(self) -> None:
        """Write what was reported."""
        if self._access is not None:
            self._access.close()


def _named(config: Config) -> Iterator[tuple[str, Destination]]:
    """Give what a configuration names, by the section that names it; the daemon's own log first."""
    log, access = config.log, config.logging.access
    yield "log", Destination(log.output, log.file.path, log.file.max_size, log.file.keep)
    if access.enabled:
        yield (
            "logging.access",
            Destination(access.output, access.path, access.max_size, access.keep),
        )
