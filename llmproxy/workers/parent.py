"""The daemon where it has several workers: the parts of the process that supervises them.

Part of the parts list: plain constructor calls. It stands for the gateway where the process's own
life is concerned: what it reads, what it is told, how it ends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

import attrs
from twisted.application.service import MultiService
from twisted.internet.protocol import Factory
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from llmproxy import __version__
from llmproxy.config.load import LoadedConfig
from llmproxy.config.model import Config
from llmproxy.config.model_stores import Limits
from llmproxy.listeners import CannotListen, Listeners
from llmproxy.logbooks import Logbooks
from llmproxy.observation import SHARED_FOLDER
from llmproxy.reload import ConfigLife
from llmproxy.workers.orders import Begin, Serve, Stay
from llmproxy.workers.supervisor import Supervisor

WATCHDOG_S: Final = 30.0
"""A worker whose event loop does not turn for so long is killed."""

END_S: Final = 30.0
"""How long a worker may take to end, beyond the time that its streams have."""


class Parent(MultiService):
    """Holds the sockets and the workers.

    Args:
        loaded: What the workers are to do.
        reactor: The reactor.
        cannot_start: Called with one line when it cannot listen; does not return.
        count: How many workers.
        command: Runs the daemon.
        ready: Called when all workers serve, at the start and after each reload.
        failed: Called when a worker could not even begin, and all have ended.

    Attributes:
        config_life: Which that is, and what became of the last reload.
        supervisor: Has the workers.
    """

    _log = Logger()

    def __init__(
        self,
        loaded: LoadedConfig,
        reactor: Any,
        cannot_start: Callable[[str], NoReturn],
        *,
        count: int,
        command: Sequence[str],
        ready: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        super().__init__()
        self._cannot_start = cannot_start
        self._ready = ready
        self._loaded = loaded
        config = loaded.config
        self.config_life = ConfigLife(
            loaded.digest, time.time, lambda problems: self.supervisor.tell(Stay(problems))
        )
        # Its own lines, where the workers' go as well; requests are logged by them.
        quiet = attrs.evolve(config.logging.access, enabled=False)
        logging = attrs.evolve(config.logging, access=quiet)
        self._logbooks = Logbooks(attrs.evolve(config, logging=logging), reactor)
        listen = config.metrics.listen if config.metrics.enabled else ""
        process_gone: Callable[[int, str], None] = _nothing
        if config.metrics.enabled:
            # Only who uses it has it in memory.
            from llmproxy.metrics.registry import worker_ended

            process_gone = worker_ended
        self.supervisor = Supervisor(
            count,
            command=command,
            first_order=lambda: Begin(self._loaded, self.config_life.status()),
            environ=os.environ,
            reactor=reactor,
            clients=Listeners(reactor, config.server.listen, Factory()),
            metrics=Listeners(reactor, (listen,), Factory(), " for metrics") if listen else None,
            watchdog_s=WATCHDOG_S,
            drain_delay_s=config.server.drain_delay,
            shared_metrics=SHARED_FOLDER if config.metrics.enabled else "",
            process_gone=process_gone,
            ready=self._all_serve,
            failed=failed,
        )
        self.supervisor.setServiceParent(self)

    def __repr__(self) -> str:
        return f"<Parent {self.supervisor!r}>"

    def replace(self, loaded: LoadedConfig) -> str:
        """Have the workers go on under another configuration.

        Each stays under the old one if it cannot take something of the new one over; its log says
        why.

        Returns:
            The configuration's digest.
        """
        self._loaded = loaded
        self.supervisor.drain_delay_s = loaded.config.server.drain_delay
        self.supervisor.reload(Serve(loaded))
        return loaded.digest

    def _all_serve(self) -> None:
        self._log.info("all workers serve")
        self._ready()

    @property
    def longest_s(self) -> float:
        """How long the end may take, in seconds."""
        server = self._loaded.config.server
        return server.drain_delay + server.drain_timeout + END_S

    def hurry(self) -> None:
        """Wait no longer for what runs."""
        self.supervisor.hurry()

    def setServiceParent(self, parent: Any) -> None:
        """Join the application, and give it our log observer instead of twistd's own."""
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._logbooks)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Listen."""
        self._log.info(
            "LLMProxy {version} starts with {count} workers, configuration {digest}",
            version=__version__,
            count=len(self.supervisor.workers),
            digest=self.config_life.status().digest,
        )
        for line in warnings_of(self._loaded.config, len(self.supervisor.workers)):
            self._log.warn("{line}", line=line)
        try:
            super().privilegedStartService()
        except CannotListen as error:
            self._cannot_start(str(error))


def warnings_of(config: Config, workers: int) -> Sequence[str]:
    """Give lines on what several workers do otherwise than one.

    Args:
        config: What they are to do.
        workers: How many they are.
    """
    limits = config.rate_limit
    scopes = (limits.global_, limits.per_key, *limits.per_model.values())
    if limits.enabled and limits.storage == "memory" and any(one != Limits() for one in scopes):
        return [
            f"each of the {workers} workers counts rate limits by itself, so up to {workers} times "
            "as much may pass; with rate_limit.storage: redis they count together"
        ]
    return []


def _nothing(_process_id: int, _folder: str) -> None:
    """Count nothing."""
