"""The parts list: every part of the daemon, made and joined in order by plain constructor calls."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.threads import deferToThreadPool
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from llmproxy import __version__
from llmproxy.auth.credentials import CredentialReader
from llmproxy.auth.throttle import FailureThrottle
from llmproxy.backends.directory import BackendDirectory
from llmproxy.backends.identity import make_backend
from llmproxy.backends.model_lists import ModelLists
from llmproxy.backends.queue import BackendQueue
from llmproxy.balancing.strategies import make_strategy
from llmproxy.channel import EdgeLimits
from llmproxy.config.model import Config
from llmproxy.config.opencode import provider_of
from llmproxy.config.secrets import secrets_of
from llmproxy.errors import ConfigError, GatewayError, Problem
from llmproxy.health.checker import HealthChecker
from llmproxy.interfaces import IAlerts, IReporter
from llmproxy.lifecycle import Lifecycle
from llmproxy.listeners import CannotListen, Listeners
from llmproxy.logs.access import AccessLog
from llmproxy.logs.outputs import Outputs
from llmproxy.logs.redaction import Redactor
from llmproxy.logs.runtime import make_observer
from llmproxy.observation import Observation
from llmproxy.proxy.admission import Admission
from llmproxy.proxy.budget import ByteBudget
from llmproxy.proxy.exchange import DataPath, Exchange
from llmproxy.proxy.tries import RetryRules
from llmproxy.proxy_protocol import ProxyProtocolFactory
from llmproxy.resources.base import EdgeResource
from llmproxy.resources.records import record_of, record_of_refusal
from llmproxy.resources.root import CrossOrigin, make_root, put
from llmproxy.rights import Rights
from llmproxy.site import EdgeRequest, EdgeSite
from llmproxy.timeouts import Timeouts
from llmproxy.tls.certificates import Certificates
from llmproxy.tls.transport import EdgeTlsFactory
from llmproxy.upstream.body import BytesBody
from llmproxy.upstream.factory import BackendClients
from llmproxy.values import Backend
from llmproxy.vitals.breaker import BreakerSettings
from llmproxy.wire.backoff import Backoff
from llmproxy.wire.fields import FieldRules
from llmproxy.wire.forwarded import TrustedProxies
from llmproxy.wire.retry_budget import RetryBudget

if TYPE_CHECKING:
    from llmproxy.metering import Metering

ADMIN_CONNECTIONS = 256
"""Open connections of administrators, and as many of those who read metrics; more are closed."""


class Gateway(MultiService):
    """The daemon: every part of it, from one configuration.

    Args:
        config: What it is to do.
        reactor: The reactor.
        cannot_start: Called with one line when it cannot listen; does not return.

    Raises:
        ConfigError: A file that the configuration names cannot be used.

    Attributes:
        rights: Who may do what.
        observation: What is watched.
        listeners: What it listens on.
        directory: Its backends.
        site: Its client connections.
        certificates: What it shows its clients; None: there is no TLS.
        admin_site: Its administrators' connections; None when nobody administers it so.
        data_path: Its exchanges.
        lifecycle: Its end.
        logs: Where its logs go.
        metering: The spool and who receives usage; None when nobody does.
    """

    _log = Logger()

    def __init__(
        self, config: Config, reactor: Any, cannot_start: Callable[[str], NoReturn]
    ) -> None:
        super().__init__()
        self._cannot_start = cannot_start
        random = SystemRandom()
        server, health, routing = config.server, config.health_check, config.routing

        # The logs.
        self.logs = Outputs(sys.stdout, sys.stderr)
        log, access, access_log = config.log, config.logging.access, None
        with _blaming("log.file.path" if log.output == "file" else "log.output"):
            sink = self.logs.open(log.output, log.file.path, log.file.max_size, log.file.keep)
        self._observer = make_observer(
            sink,
            "bare" if log.output == "journal" else log.format,
            log.level,
            Redactor(secrets_of(config)),
        )
        if access.enabled:
            with _blaming(f"logging.access.{'path' if access.output == 'file' else 'output'}"):
                sink = self.logs.open(access.output, access.path, access.max_size, access.keep)
            access_log = AccessLog(sink, access.format, reactor)
        reporters: list[IReporter] = [] if access_log is None else [access_log]

        # The backends, and the clients for them.
        demo: Any = None
        clients: dict[str, BackendClients] = {}
        identities: list[Backend] = []
        for number, settings in enumerate(config.backends):
            url = None
            if settings.url == "demo:":
                if demo is None:
                    # Only who uses it has it in memory.
                    from llmproxy.backends.demo.server import DemoServer

                    demo = DemoServer(reactor)
                    demo.setServiceParent(self)
                url = demo.listen()
            identity = make_backend(settings, url)
            identities.append(identity)
            with _blaming(f"backends[{number}].tls"):
                clients[identity.name] = BackendClients(reactor, identity, settings.tls)
        self._clients = clients
        self._access_log = access_log
        self.directory = BackendDirectory(
            [(identity, clients[identity.name].gateway) for identity in identities],
            make_strategy(routing.load_balance, random),
            clock=reactor,
            breaker=BreakerSettings(
                failures=routing.breaker.failures,
                window_s=routing.breaker.window,
                open_for_s=routing.breaker.open_for,
            ),
            max_ejected_percent=routing.breaker.max_ejected,
            slow_start_s=routing.slow_start,
            queue=BackendQueue(routing.queue.max_waiting, routing.queue.max_wait, reactor),
            models=config.models,
            fallback=routing.fallback,
            created=int(time.time()),
        )
        ModelLists(
            identities,
            client_for=lambda backend: clients[backend.name].checks,
            publish=self.directory.set_listed,
            clock=reactor,
            retry_interval_s=health.interval,
            timeout_s=health.timeout,
        ).setServiceParent(self)
        if health.enabled:
            HealthChecker(
                identities,
                health,
                client_for=lambda backend: clients[backend.name].checks,
                sink=self.directory,
                activity=self.directory,
                clock=reactor,
                random=random,
            ).setServiceParent(self)

        # Who may come in, and what passes.
        credentials = CredentialReader(config.auth.header_names)
        rules = FieldRules(
            pseudonym=b"llmproxy-" + os.urandom(4).hex().encode("ascii"),
            credential_names=credentials.header_names_lower,
        )
        running: set[Exchange] = set()
        with _blaming("admin.db_path"):
            self.rights = rights = Rights(config, reactor, running)
        reporters.append(rights.totals)
        alerts: list[IAlerts] = []

        # Who receives usage.
        self.metering: Metering | None = None
        if config.usage.enabled and config.usage.reporters:
            # Only who uses it has it in memory.
            from llmproxy.metering import Metering

            with _blaming("usage"):
                self.metering = Metering(
                    config.usage,
                    reactor,
                    records=rights.storage.records,
                    databases=rights.storage.databases,
                )
            self.metering.setServiceParent(self)
            reporters.append(self.metering.spool)
            alerts.append(self.metering.spool)

        # What is watched.
        self.observation = observation = Observation(config, reactor, running, alerts)
        observation.setServiceParent(self)
        reporters.extend(observation.reporters)

        budget = ByteBudget(server.max_inflight_bytes)
        admission = Admission(
            authenticator=rights.authenticator,
            read_credential=credentials.read,
            router=self.directory,
            rules=rules,
            budget=budget,
            max_body_bytes=server.max_body_size,
            is_draining=lambda: self.lifecycle.is_draining(),
            is_late=observation.lag.is_late,
            limiter=rights.limiter,
            restate=rights.restate,
        )

        # The data path.
        retry = routing.retry
        cors = CrossOrigin(server.cors)
        self.data_path = DataPath(
            admission=admission,
            router=self.directory,
            rules=rules,
            retries=RetryRules(
                Backoff(
                    max_retries=retry.max_retries if retry.enabled else 0,
                    initial_wait_s=retry.initial_wait,
                    max_wait_s=retry.max_wait,
                    multiplier=retry.multiplier,
                ),
                RetryBudget(retry.budget / 100),
            ),
            reporters=reporters,
            clock=reactor,
            timeouts=Timeouts(reactor),
            now=time.time,
            random_bytes=os.urandom,
            make_body=BytesBody,
            keeps_bodies=config.usage.enabled and config.usage.include_request_body,
            replaces_cors=cors.enabled,
            running=running,
        )

        # The edge.
        def log_request(request: EdgeRequest) -> None:
            record = record_of(request, time.time(), reactor.seconds(), observation.probed_paths)
            if access_log is not None and record is not None:
                access_log.report(record)

        def log_refused(error: GatewayError, client_ip: str, request_id: str) -> None:
            observation.refused(error)
            if access_log is not None:
                access_log.report(record_of_refusal(error, client_ip, request_id, time.time()))

        trusted_proxies = TrustedProxies(server.trusted_proxies)
        make_site = partial(
            EdgeSite,
            reactor=reactor,
            limits=EdgeLimits(
                max_header_bytes=server.max_header_bytes,
                header_timeout_s=server.header_timeout,
                body_timeout_s=server.body_timeout,
                idle_timeout_s=server.idle_timeout,
                write_stall_timeout_s=server.write_stall_timeout,
            ),
            now=time.time,
            random_bytes=os.urandom,
            log_request=log_request,
            log_refused=log_refused,
        )
        root = make_root(
            identify=admission.identify,
            begin=self.data_path.begin,
            catalog=self.directory,
            limiter=rights.limiter,
            totals=rights.totals,
            now=time.time,
            backends=self.directory,
            is_draining=lambda: self.lifecycle.is_draining(),
            cors=cors,
            open_paths=config.auth.skip_paths,
            opencode=provider_of(config, config.opencode.url) if config.opencode.enabled else None,
        )
        metrics = observation.resource(admission.identify)
        metrics_root = EdgeResource() if config.metrics.listen else root
        if metrics is not None:
            put(metrics_root, config.metrics.path.encode("ascii"), metrics)
        self.site = make_site(
            root,
            max_connections=server.max_connections,
            trusted_proxies=trusted_proxies,
            cors_fields=cors.fields_for,
        )
        factory: IProtocolFactory = self.site
        self.certificates: Certificates | None = None
        if server.tls.enabled:
            with _blaming("server.tls"):
                self.certificates = Certificates(server.tls, reactor, time.time)
            self.certificates.setServiceParent(self)
            factory = EdgeTlsFactory(
                self.certificates,
                factory,
                reactor=reactor,
                handshake_timeout_s=server.header_timeout,
            )
        if server.proxy_protocol:
            factory = ProxyProtocolFactory(
                factory,
                trusted=trusted_proxies if server.trusted_proxies else None,
                reactor=reactor,
                header_timeout_s=server.header_timeout,
                max_waiting=server.max_connections,
            )
        note = " with TLS" if server.tls.enabled else ""
        note += " behind the PROXY protocol" if server.proxy_protocol else ""
        self.listeners = Listeners(reactor, server.listen, factory, note)
        self.listeners.setServiceParent(self)
        self._side_sites: list[EdgeSite] = []
        if metrics is not None and config.metrics.listen:
            metrics_site = make_site(
                metrics_root,
                max_connections=ADMIN_CONNECTIONS,
                trusted_proxies=TrustedProxies(()),
                cors_fields=lambda _: (),
                replaces_idle=True,
            )
            self._side_sites.append(metrics_site)
            Listeners(
                reactor, (config.metrics.listen,), metrics_site, " for metrics"
            ).setServiceParent(self)
        self.admin_site: EdgeSite | None = None
        if config.admin.enabled:
            # Only who uses it has it in memory.
            from llmproxy.config.shown import shown
            from llmproxy.resources.admin.root import make_admin_root
            from llmproxy.stores.key_text import new_key

            assert rights.storage.keys is not None
            failed = config.auth.failed_attempts
            self.admin_site = make_site(
                make_admin_root(
                    token=config.admin.token,
                    keys=rights.storage.keys,
                    new_key=lambda: new_key(os.urandom),
                    limiter=rights.limiter,
                    usage=rights.totals,
                    metering=self.metering,
                    resending=None if self.metering is None else self.metering.resends,
                    records=rights.storage.records,
                    identities=tuple(identities),
                    statuses=self.directory,
                    control=self.directory,
                    shown_config=lambda: shown(config),
                    throttle=FailureThrottle(failed.per_minute, failed.burst, clock=reactor),
                    budget=budget,
                    max_body_bytes=server.max_body_size,
                    now=time.time,
                    in_thread=partial(deferToThreadPool, reactor, reactor.getThreadPool()),
                ),
                max_connections=ADMIN_CONNECTIONS,
                trusted_proxies=TrustedProxies(()),
                cors_fields=lambda _: (),
                replaces_idle=True,  # nobody keeps administrators out by holding connections open
            )
            self._side_sites.append(self.admin_site)
            Listeners(
                reactor, (config.admin.listen,), self.admin_site, " for the admin API"
            ).setServiceParent(self)
        self.lifecycle = Lifecycle(
            reactor,
            drain_timeout_s=server.drain_timeout,
            listeners=self.listeners,
            running=running,
            close_idle=self.site.close_idle,
            abort_all=self.site.abort_all,
        )
        observation.watch_edge(self.site, budget, self.lifecycle.is_draining)
        observation.watch_backends(
            self.directory,
            pools=lambda: {name: one.pool for name, one in clients.items()},
            waiting=lambda: self.directory.waiting,
        )
        observation.watch_rights(rights)
        if self.metering is not None:
            observation.watch_metering(self.metering)
        if self.certificates is not None:
            observation.watch_certificates(self.certificates)

    def __repr__(self) -> str:
        return f"<Gateway {self.listeners!r} {self.directory!r} {self.lifecycle!r}>"

    def setServiceParent(self, parent: Any) -> None:
        """Join the application, and give it our log observer instead of twistd's own."""
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Listen."""
        self._log.info("LLMProxy {version} starts", version=__version__)
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
        for site in self._side_sites:
            site.abort_all()
        await self.rights.stopService()
        for clients in self._clients.values():
            clients.pool.close()
        if self._access_log is not None:
            self._access_log.close()


@contextmanager
def _blaming(path: str) -> Iterator[None]:
    """Blame a configuration key for the file that it names.

    Raises:
        ConfigError: The file cannot be used.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise ConfigError((Problem(path, str(error)),)) from error
