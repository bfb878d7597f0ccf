"""The parts list: every part of the daemon, made and joined in order by plain constructor calls.

What counts, keeps or holds open something is made once and lives as long as the daemon; what a
configuration says is made of each one. A reload makes all of the new one first, which may fail, and
then puts it in force in one turn of the reactor, which may not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from random import SystemRandom
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from llmproxy import __version__, descriptors
from llmproxy.config.keys import SAMPLE_KEY, is_open_to_all
from llmproxy.config.load import LoadedConfig
from llmproxy.config.model import Config
from llmproxy.errors import ConfigError
from llmproxy.fleet import Fleet
from llmproxy.front import Front, blaming
from llmproxy.interfaces import IAlerts
from llmproxy.listeners import CannotListen
from llmproxy.logbooks import Logbooks
from llmproxy.observation import Observation
from llmproxy.proxy.exchange import Exchange
from llmproxy.reload import ConfigLife, Problems
from llmproxy.rights import Rights
from llmproxy.upstream.names import RememberingResolver

if TYPE_CHECKING:
    from llmproxy.metering import Metering


class Gateway(MultiService):
    """The daemon: every part of it.

    Args:
        config: What it is to do.
        reactor: The reactor.
        cannot_start: Called with one line when it cannot listen; does not return.
        digest: The configuration's; see `llmproxy.config.digest`.

    Raises:
        ConfigError: A file that the configuration names cannot be used.

    Attributes:
        config: The configuration in force.
        config_life: Which that is, and what became of the last reload.
        logbooks: Its logs.
        fleet: Its backends.
        directory: What they do.
        rights: Who may do what.
        metering: The spool and who receives usage; None when nobody does.
        observation: What is watched.
        front: What clients and administrators meet.
        lifecycle: Its end.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        reactor: Any,
        cannot_start: Callable[[str], NoReturn],
        digest: str,
    ) -> None:
        super().__init__()
        self._cannot_start = cannot_start
        self.config = config
        self.config_life = ConfigLife(digest, time.time)
        running: set[Exchange] = set()

        # The logs.
        self.logbooks = Logbooks(config, reactor)

        # What names mean, to whoever connects by one.
        reactor.installNameResolver(RememberingResolver(reactor))

        # The backends, and the clients for them.
        self.fleet = Fleet(config, reactor, SystemRandom())
        self.fleet.setServiceParent(self)
        self.directory = self.fleet.directory

        # Who may come in.
        with blaming("admin.db_path"):
            self.rights = Rights(config, reactor, running)

        # Who receives usage.
        alerts: list[IAlerts] = []
        self.metering: Metering | None = None
        if config.usage.enabled and config.usage.reporters:
            # Only who uses it has it in memory.
            from llmproxy.metering import Metering

            with blaming("usage"):
                self.metering = Metering(
                    config.usage,
                    reactor,
                    records=self.rights.storage.records,
                    databases=self.rights.storage.databases,
                )
            self.metering.setServiceParent(self)
            alerts.append(self.metering.spool)

        # What is watched.
        status = self.config_life.status
        self.observation = observation = Observation(config, reactor, running, alerts, status)
        observation.setServiceParent(self)

        # What is met.
        self.front = front = Front(
            config,
            reactor,
            logbooks=self.logbooks,
            fleet=self.fleet,
            rights=self.rights,
            observation=observation,
            metering=self.metering,
            running=running,
            config_status=status,
        )
        front.setServiceParent(self)
        self.lifecycle = front.lifecycle

        observation.watch_edge(front.site, front.budget, front.lifecycle.is_leaving)
        observation.watch_certificates(
            lambda: () if front.certificates is None else front.certificates.certificates
        )
        observation.watch_backends(
            self.directory,
            pools=lambda: {name: one.pool for name, one in self.fleet.backends.clients.items()},
            waiting=lambda: self.directory.waiting,
        )
        observation.watch_rights(self.rights)
        if self.metering is not None:
            observation.watch_metering(self.metering)

    def __repr__(self) -> str:
        return f"<Gateway {self.front!r} {self.directory!r} {self.lifecycle!r}>"

    def replace(self, loaded: LoadedConfig) -> str:
        """Go on under another configuration; what runs ends under the one that it began with.

        Returns:
            The configuration's digest.

        Raises:
            ConfigError: Something of it cannot be had; with every such problem. Nothing has
                changed.
        """
        config, problems = loaded.config, Problems()
        with ExitStack() as undo:
            logs = problems.gather(lambda: self.logbooks.prepare(config))
            if logs is not None:
                undo.callback(self.logbooks.discard)
            backends = problems.gather(lambda: self.fleet.prepare(config))
            rules = problems.gather(lambda: self.rights.prepare(config))
            edge = None
            if backends is not None and rules is not None:
                edge = problems.gather(lambda: self.front.prepare(config, rules, backends))
            if not (logs and backends and rules and edge):
                raise ConfigError(loaded.located(problems.found))
            undo.pop_all()
        self.config = config
        self.logbooks.adopt(logs)
        self.fleet.adopt(backends)
        self.rights.adopt(rules)
        self.observation.adopt(config)
        self.front.adopt(edge)
        return loaded.digest

    @property
    def longest_s(self) -> float:
        """How long the end may take, in seconds."""
        return self.lifecycle.longest_s

    def hurry(self) -> None:
        """Wait no longer, neither for what runs nor for receivers of usage."""
        self.lifecycle.hurry()
        if self.metering is not None:
            self.metering.hurry()

    def setServiceParent(self, parent: Any) -> None:
        """Join the application, and give it our log observer instead of twistd's own."""
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.logbooks)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Listen."""
        self._log.info(
            "LLMProxy {version} starts, configuration {digest}",
            version=__version__,
            digest=self.config_life.status().digest,
        )
        if is_open_to_all(self.config):
            self._log.warn(
                "the key {key}, which everybody knows, opens the gateway to other machines",
                key=SAMPLE_KEY,
            )
        needed = descriptors.needed_for(self.config.server.max_connections)
        if descriptors.limit() < needed:
            self._log.warn(
                "the limit of file descriptors (LimitNOFILE, ulimit -n) is {limit}: "
                "server.max_connections needs {needed}",
                limit=descriptors.limit(),
                needed=needed,
            )
        try:
            super().privilegedStartService()
        except CannotListen as error:
            self._cannot_start(str(error))

    def startService(self) -> None:
        """Start every part, the stores before those that use them."""
        self.rights.startService()
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Drain, then stop every part; the Deferred fires when all is done."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.lifecycle.drain()
        await maybeDeferred(super().stopService)
        await self.front.close()
        await self.rights.stopService()
        self.fleet.close()
        self.logbooks.close()
