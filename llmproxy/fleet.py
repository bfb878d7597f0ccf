"""The backends: their clients, their directory, and what asks them how they are.

Part of the parts list: plain constructor calls. The directory lives on through reloads, with the
state of every backend and with those who wait for one; so do the connections of those whose
settings stay, and the rounds of checks where nothing of them has changed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import IService, MultiService

from llmproxy.backends.directory import BackendDirectory
from llmproxy.backends.identity import make_backend
from llmproxy.backends.membership import Membership
from llmproxy.backends.model_lists import ModelLists
from llmproxy.backends.queue import BackendQueue
from llmproxy.balancing.strategies import make_strategy
from llmproxy.config.model import BackendTls, Config
from llmproxy.descriptors import DescriptorShortage
from llmproxy.errors import ConfigError, Problem
from llmproxy.health.checker import HealthChecker
from llmproxy.interfaces import IStrategy
from llmproxy.upstream.factory import BackendClients
from llmproxy.values import Backend
from llmproxy.vitals.breaker import BreakerSettings

if TYPE_CHECKING:
    from llmproxy.backends.demo.server import DemoServer


@attrs.frozen(eq=False)
class BackendSet:
    """The backends of one configuration.

    Attributes:
        config: The configuration.
        identities: In its order.
        tls: How each is spoken to, by name.
        clients: Likewise.
        strategy: Chooses among them.
    """

    config: Config
    identities: Sequence[Backend]
    tls: Mapping[str, BackendTls]
    clients: Mapping[str, BackendClients]
    strategy: IStrategy

    @property
    def members(self) -> Membership:
        """What is to be known of them to choose one."""
        config, routing = self.config, self.config.routing
        return Membership(
            backends=[(one, self.clients[one.name].gateway) for one in self.identities],
            strategy=self.strategy,
            breaker=BreakerSettings(
                failures=routing.breaker.failures,
                window_s=routing.breaker.window,
                open_for_s=routing.breaker.open_for,
            ),
            max_ejected_percent=routing.breaker.max_ejected,
            slow_start_s=routing.slow_start,
            models=config.models,
            fallback=routing.fallback,
        )

    def has(self, identity: Backend, tls: BackendTls) -> bool:
        """Say whether a backend is among them just as given.

        One whose certificates are in files is not: they may have changed.
        """
        in_files = tls.ca_file or tls.cert_file
        return identity in self.identities and self.tls[identity.name] == tls and not in_files

    def asks_as(self, other: BackendSet) -> bool:
        """Say whether the same is asked of the same backends, over the same connections."""
        return (
            self.config.health_check == other.config.health_check
            and list(self.identities) == list(other.identities)
            and all(self.clients[name] is client for name, client in other.clients.items())
        )


class Fleet(MultiService):
    """All backends.

    Args:
        config: The first configuration.
        reactor: The reactor.
        random: For strategies and checks.

    Attributes:
        backends: Those of the configuration in force.
        directory: Knows them and their state.

    Raises:
        ConfigError: A file that a backend's TLS needs cannot be used.
    """

    def __init__(self, config: Config, reactor: Any, random: Random) -> None:
        super().__init__()
        self._reactor = reactor
        self._random = random
        self._shortage = DescriptorShortage(reactor)
        self._demo: DemoServer | None = None
        self._asking: list[IService] = []
        routing = config.routing
        strategy = make_strategy(routing.load_balance, random)
        self.backends = BackendSet(config, (), {}, {}, strategy)
        self.backends = backends = self.prepare(config)
        self._queue = BackendQueue(routing.queue.max_waiting, routing.queue.max_wait, reactor)
        self.directory = BackendDirectory(
            backends.members, clock=reactor, queue=self._queue, created=int(time.time())
        )
        self._ask(backends)

    def __repr__(self) -> str:
        return f"<Fleet {self.directory!r}>"

    def prepare(self, config: Config) -> BackendSet:
        """Make the clients of another configuration's backends; nothing is asked of them yet.

        Raises:
            ConfigError: A file that a backend's TLS needs cannot be used; with all such problems.
        """
        before = self.backends
        problems: list[Problem] = []
        identities: list[Backend] = []
        clients: dict[str, BackendClients] = {}
        for number, settings in enumerate(config.backends):
            url = self._demo_url() if settings.url == "demo:" else None
            identity = make_backend(settings, url)
            identities.append(identity)
            if before.has(identity, settings.tls):
                clients[identity.name] = before.clients[identity.name]
                continue
            try:
                clients[identity.name] = BackendClients(
                    self._reactor, identity, settings.tls, self._shortage
                )
            except (OSError, ValueError) as error:
                problems.append(Problem(f"backends[{number}].tls", str(error)))
        if problems:
            raise ConfigError(tuple(problems))
        name = config.routing.load_balance
        if before.config.routing.load_balance == name:
            strategy = before.strategy
        else:
            strategy = make_strategy(name, self._random)
        tls = {settings.name: settings.tls for settings in config.backends}
        return BackendSet(config, identities, tls, clients, strategy)

    def adopt(self, backends: BackendSet) -> None:
        """Route to these backends from now on.

        Requests that run at others go on; their connections close as they become idle.
        """
        before, self.backends = self.backends, backends
        routing = backends.config.routing
        self._queue.hold_to(routing.queue.max_waiting, routing.queue.max_wait)
        self.directory.replace(backends.members)
        for name, clients in before.clients.items():
            if backends.clients.get(name) is not clients:
                clients.pool.close()
        if not backends.asks_as(before):
            self._ask(backends)

    def _demo_url(self) -> bytes:
        """Give where the demo is; once it was wanted it stays, for whoever still talks to it."""
        if self._demo is None:
            # Only who uses it has it in memory.
            from llmproxy.backends.demo.server import DemoServer

            self._demo = DemoServer(self._reactor)
            self._demo.listen()
            self._demo.setServiceParent(self)
        return self._demo.listen()

    def _ask(self, backends: BackendSet) -> None:
        """Let go of who asks now, and ask these backends how they are and what they serve."""
        health = backends.config.health_check
        for service in self._asking:
            service.disownServiceParent()
        self._asking = [
            ModelLists(
                backends.identities,
                client_for=lambda backend: backends.clients[backend.name].checks,
                publish=self.directory.set_listed,
                clock=self._reactor,
                retry_interval_s=health.interval,
                timeout_s=health.timeout,
            )
        ]
        if health.enabled:
            self._asking.append(
                HealthChecker(
                    backends.identities,
                    health,
                    client_for=lambda backend: backends.clients[backend.name].checks,
                    sink=self.directory,
                    activity=self.directory,
                    is_ours=self._shortage.explains,
                    clock=self._reactor,
                    random=self._random,
                    known=self.directory.known_health(),
                )
            )
        else:
            for name in self.directory.known_health():
                self.directory.set_health(name, "up", "")
        for service in self._asking:
            service.setServiceParent(self)

    def close(self) -> None:
        """Close the connections that are idle, and each other one as it becomes so."""
        for clients in self.backends.clients.values():
            clients.pool.close()
