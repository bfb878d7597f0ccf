"""What clients and administrators meet: the data path, the Resource trees, the listeners.

Part of the parts list: plain constructor calls. Connections, their sites, the ports and what is
held in memory live as long as the daemon; what begins on them is served by what was made of the
configuration in force.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import MultiService
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.threads import deferToThreadPool
from twisted.web.resource import Resource

from llmproxy.auth.credentials import CredentialReader
from llmproxy.auth.throttle import FailureThrottle
from llmproxy.channel import EdgeLimits
from llmproxy.config.model import Config
from llmproxy.config.opencode import provider_of
from llmproxy.errors import ConfigError, GatewayError, Problem
from llmproxy.fleet import BackendSet, Fleet
from llmproxy.interfaces import IReporter
from llmproxy.lifecycle import Lifecycle
from llmproxy.listeners import CannotListen, Listeners, Listening
from llmproxy.logbooks import Logbooks
from llmproxy.observation import Observation
from llmproxy.proxy.admission import Admission
from llmproxy.proxy.budget import ByteBudget
from llmproxy.proxy.exchange import DataPath, Exchange
from llmproxy.proxy.tries import RetryRules
from llmproxy.proxy_protocol import ProxyProtocolFactory
from llmproxy.resources.base import EdgeResource
from llmproxy.resources.records import record_of, record_of_refusal
from llmproxy.resources.root import CrossOrigin, make_root, put
from llmproxy.rights import KeyRules, Rights
from llmproxy.site import EdgeRequest, EdgeSite
from llmproxy.timeouts import Timeouts
from llmproxy.tls.certificates import Certificates
from llmproxy.tls.transport import EdgeTlsFactory
from llmproxy.upstream.body import BytesBody
from llmproxy.values import ConfigStatus
from llmproxy.wire.backoff import Backoff
from llmproxy.wire.fields import FieldRules
from llmproxy.wire.forwarded import TrustedProxies
from llmproxy.wire.retry_budget import RetryBudget

if TYPE_CHECKING:
    from llmproxy.metering import Metering

SIDE_CONNECTIONS = 256
"""Open connections of administrators, and as many of those who read metrics; more are closed."""


@attrs.frozen(eq=False)
class Edge:
    """What is met under one configuration.

    Attributes:
        config: The configuration.
        data_path: The exchanges that begin under it.
        cors: What browsers may do.
        root: What clients are served.
        metrics_root: What is served to who reads metrics, on a listener of their own.
        certificates: What clients are shown; None: there is no TLS.
        listening: Where clients come in.
        admin_site: The connections of administrators; None when nobody administers it so.
        admin_root: What they are served.
        admin_listening: Where they come in.
    """

    config: Config
    data_path: DataPath
    cors: CrossOrigin
    root: Resource
    metrics_root: Resource
    certificates: Certificates | None
    listening: Listening
    admin_site: EdgeSite | None
    admin_root: Resource | None
    admin_listening: Listening


class Front(MultiService):
    """All that is met.

    Args:
        config: The first configuration.
        reactor: The reactor.
        logbooks: Take what is to be logged of requests.
        fleet: The backends.
        rights: Who may do what.
        observation: What is watched.
        metering: Who receives usage; None: nobody does.
        running: The requests under way.
        config_status: Says which configuration is in force.

    Attributes:
        site: The connections of clients.
        listeners: Where they come in.
        admin_site: The connections of administrators; None as long as nobody administers it so.
        admin_listeners: Where they come in.
        data_path: The exchanges that begin now.
        certificates: What clients are shown now; None: there is no TLS.
        budget: Bytes that bodies may hold.
        lifecycle: The end.

    Raises:
        ConfigError: A file that the configuration names cannot be used.
    """

    def __init__(
        self,
        config: Config,
        reactor: Any,
        *,
        logbooks: Logbooks,
        fleet: Fleet,
        rights: Rights,
        observation: Observation,
        metering: Metering | None,
        running: set[Exchange],
        config_status: Callable[[], ConfigStatus],
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._logbooks = logbooks
        self._directory = fleet.directory
        self._rights = rights
        self._observation = observation
        self._metering = metering
        self._running = running
        self._config_status = config_status
        self._pseudonym = b"llmproxy-" + os.urandom(4).hex().encode("ascii")
        self._timeouts = Timeouts(reactor)
        self._retry_budget = RetryBudget(config.routing.retry.budget / 100)
        self.budget = ByteBudget(config.server.max_inflight_bytes)
        self._make_site = partial(
            EdgeSite,
            Resource(),
            reactor=reactor,
            limits=EdgeLimits(),
            max_connections=0,
            trusted_proxies=TrustedProxies(()),
            cors_fields=lambda _: (),
            now=time.time,
            random_bytes=os.urandom,
            log_request=self._log_request,
            log_refused=self._log_refused,
        )
        self.site = self._make_site()
        self.listeners = Listeners(reactor)
        self.listeners.setServiceParent(self)
        self.lifecycle = Lifecycle(
            reactor,
            drain_delay_s=config.server.drain_delay,
            drain_timeout_s=config.server.drain_timeout,
            listeners=self.listeners,
            running=running,
            connections=self.site,
        )
        # Nobody keeps others out of these by holding connections open.
        self._make_side_site = partial(self._make_site, replaces_idle=True)
        metrics = config.metrics
        self._metrics_site: EdgeSite | None = None
        self._metrics_listeners = Listeners(reactor)
        if metrics.enabled and metrics.listen:
            self._metrics_site = site = self._make_side_site()
            self._metrics_listeners = Listeners(reactor, (metrics.listen,), site, " for metrics")
        self._metrics_listeners.setServiceParent(self)
        self.admin_site: EdgeSite | None = None
        self.admin_listeners = Listeners(reactor)
        self.admin_listeners.setServiceParent(self)
        self.certificates: Certificates | None = None
        self.adopt(self.prepare(config, rights.rules, fleet.backends))

    def __repr__(self) -> str:
        return f"<Front {self.listeners!r} {self.site!r}>"

    def prepare(self, config: Config, rules: KeyRules, backends: BackendSet) -> Edge:
        """Make what is met under another configuration, and listen where nobody listens yet.

        In the same turn of the reactor, `adopt` must follow.

        Args:
            config: The configuration.
            rules: What it says of keys.
            backends: Its backends.

        Raises:
            ConfigError: A file cannot be used, or an address cannot be had; with every such
                problem. Then nothing new is listened on.
        """
        data_path, cors = self._make_data_path(config, rules)
        identify = data_path.admission.identify
        root = make_root(
            identify=identify,
            begin=data_path.begin,
            catalog=self._directory,
            limiter=self._rights.limiter,
            totals=self._rights.totals,
            now=time.time,
            backends=self._directory,
            is_draining=self.lifecycle.is_leaving,
            config_status=self._config_status,
            cors=cors,
            open_paths=config.auth.skip_paths,
            opencode=provider_of(config, config.opencode.url) if config.opencode.enabled else None,
        )
        metrics = self._observation.resource(identify, config.auth.skip_paths)
        metrics_root = root if self._metrics_site is None else EdgeResource()
        if metrics is not None:
            put(metrics_root, config.metrics.path.encode("ascii"), metrics)
        server, certificates = config.server, None
        if server.tls.enabled:
            with blaming("server.tls"):
                certificates = Certificates(server.tls, self._reactor, time.time)
        admin_site, admin_root = self.admin_site, None
        if config.admin.enabled:
            admin_site = admin_site or self._make_side_site()
            admin_root = self._make_admin_root(config, backends)
        problems: list[Problem] = []
        with ExitStack() as undo:
            listening = self._listen(
                undo,
                problems,
                "server.listen",
                self.listeners,
                server.listen,
                self._make_factory(config, certificates),
                _note(config),
            )
            admin_listening = self._listen(
                undo,
                problems,
                "admin.listen",
                self.admin_listeners,
                (config.admin.listen,) if config.admin.enabled else (),
                admin_site,
                " for the admin API",
            )
            if listening is None or admin_listening is None:
                raise ConfigError(tuple(problems))
            undo.pop_all()
        return Edge(
            config=config,
            data_path=data_path,
            cors=cors,
            root=root,
            metrics_root=metrics_root,
            certificates=certificates,
            listening=listening,
            admin_site=admin_site,
            admin_root=admin_root,
            admin_listening=admin_listening,
        )

    @staticmethod
    def _listen(
        undo: ExitStack, problems: list[Problem], key: str, listeners: Listeners, *wanted: Any
    ) -> Listening | None:
        """Have listeners prepare for what is wanted; None, and a problem more: they cannot."""
        try:
            listening = listeners.prepare(*wanted)
        except CannotListen as error:
            problems.append(Problem(key, str(error)))
            return None
        undo.callback(listeners.discard, listening)
        return listening

    def adopt(self, edge: Edge) -> None:
        """Have what begins from now on begin there; what runs goes on as it began."""
        server = edge.config.server
        limits = EdgeLimits(
            max_header_bytes=server.max_header_bytes,
            header_timeout_s=server.header_timeout,
            body_timeout_s=server.body_timeout,
            idle_timeout_s=server.idle_timeout,
            write_stall_timeout_s=server.write_stall_timeout,
        )
        self._logs_requests = edge.config.logging.access.enabled
        self.data_path = edge.data_path
        self.budget.limit_bytes = server.max_inflight_bytes
        self._retry_budget.share = edge.config.routing.retry.budget / 100
        self.lifecycle.drain_delay_s = server.drain_delay
        self.lifecycle.drain_timeout_s = server.drain_timeout
        self.site.replace(
            edge.root,
            limits=limits,
            max_connections=server.max_connections,
            trusted_proxies=TrustedProxies(server.trusted_proxies),
            cors_fields=edge.cors.fields_for,
        )
        for site, root in (
            (self._metrics_site, edge.metrics_root),
            (edge.admin_site, edge.admin_root),
        ):
            if site is not None and root is not None:
                site.replace(
                    root,
                    limits=limits,
                    max_connections=SIDE_CONNECTIONS,
                    trusted_proxies=TrustedProxies(()),
                    cors_fields=lambda _: (),
                )
            elif site is not None:
                site.close_idle()  # nobody goes on administering on an old connection
        self.admin_site = edge.admin_site
        before, self.certificates = self.certificates, edge.certificates
        if before is not None:
            before.disownServiceParent()
        if self.certificates is not None:
            self.certificates.setServiceParent(self)
        self.listeners.adopt(edge.listening)
        self.admin_listeners.adopt(edge.admin_listening)

    def _make_data_path(self, config: Config, rules: KeyRules) -> tuple[DataPath, CrossOrigin]:
        retry, rights, observation = config.routing.retry, self._rights, self._observation
        credentials = CredentialReader(config.auth.header_names)
        fields = FieldRules(
            pseudonym=self._pseudonym, credential_names=credentials.header_names_lower
        )
        cors = CrossOrigin(config.server.cors)
        reporters: list[IReporter] = [self._logbooks] if config.logging.access.enabled else []
        reporters.append(rights.totals)
        if self._metering is not None:
            reporters.append(self._metering.spool)
        reporters.extend(observation.reporters)
        data_path = DataPath(
            admission=Admission(
                authenticator=rules.authenticator,
                read_credential=credentials.read,
                router=self._directory,
                rules=fields,
                budget=self.budget,
                max_body_bytes=config.server.max_body_size,
                is_draining=self.lifecycle.is_draining,
                is_late=observation.lag.is_late,
                limiter=rights.limiter,
                restate=rules.restate,
            ),
            router=self._directory,
            rules=fields,
            retries=RetryRules(
                Backoff(
                    max_retries=retry.max_retries if retry.enabled else 0,
                    initial_wait_s=retry.initial_wait,
                    max_wait_s=retry.max_wait,
                    multiplier=retry.multiplier,
                ),
                self._retry_budget,
            ),
            reporters=reporters,
            clock=self._reactor,
            timeouts=self._timeouts,
            now=time.time,
            random_bytes=os.urandom,
            make_body=BytesBody,
            keeps_bodies=config.usage.enabled and config.usage.include_request_body,
            replaces_cors=cors.enabled,
            running=self._running,
        )
        return data_path, cors

    def _make_factory(self, config: Config, certificates: Certificates | None) -> IProtocolFactory:
        """Make what stands between the ports and the site."""
        server = config.server
        factory: IProtocolFactory = self.site
        if certificates is not None:
            factory = EdgeTlsFactory(
                certificates,
                factory,
                reactor=self._reactor,
                handshake_timeout_s=server.header_timeout,
            )
        if server.proxy_protocol:
            trusted = TrustedProxies(server.trusted_proxies) if server.trusted_proxies else None
            factory = ProxyProtocolFactory(
                factory,
                trusted=trusted,
                reactor=self._reactor,
                header_timeout_s=server.header_timeout,
                max_waiting=server.max_connections,
            )
        return factory

    def _make_admin_root(self, config: Config, backends: BackendSet) -> Resource:
        # Only who uses it has it in memory.
        from llmproxy.config.shown import shown
        from llmproxy.resources.admin.root import make_admin_root
        from llmproxy.stores.key_text import new_key

        rights, metering, failed = self._rights, self._metering, config.auth.failed_attempts
        assert rights.storage.keys is not None
        return make_admin_root(
            token=config.admin.token,
            keys=rights.storage.keys,
            new_key=lambda: new_key(os.urandom),
            limiter=rights.limiter,
            usage=rights.totals,
            metering=metering,
            resending=None if metering is None else metering.resends,
            records=rights.storage.records,
            identities=tuple(backends.identities),
            statuses=self._directory,
            control=self._directory,
            shown_config=lambda: shown(config),
            throttle=FailureThrottle(failed.per_minute, failed.burst, clock=self._reactor),
            budget=self.budget,
            max_body_bytes=config.server.max_body_size,
            now=time.time,
            is_alone=config.server.workers == 1,
            in_thread=partial(deferToThreadPool, self._reactor, self._reactor.getThreadPool()),
        )

    def _log_request(self, request: EdgeRequest) -> None:
        now_s = self._reactor.seconds()
        record = record_of(request, time.time(), now_s, self._observation.probed_paths)
        if record is not None and self._logs_requests:
            self._logbooks.report(record)

    def _log_refused(self, error: GatewayError, client_ip: str, request_id: str) -> None:
        self._observation.refused(error)
        if self._logs_requests:
            self._logbooks.report(record_of_refusal(error, client_ip, request_id, time.time()))

    async def close(self) -> None:
        """Cut what clients' end has left: administrators, and who reads metrics."""
        for listeners, site in (
            (self._metrics_listeners, self._metrics_site),
            (self.admin_listeners, self.admin_site),
        ):
            await listeners.close()
            if site is not None:
                site.abort_all()


def _note(config: Config) -> str:
    note = " with TLS" if config.server.tls.enabled else ""
    return note + (" behind the PROXY protocol" if config.server.proxy_protocol else "")


@contextmanager
def blaming(path: str) -> Iterator[None]:
    """Blame a configuration key for the file that it names.

    Raises:
        ConfigError: The file cannot be used.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise ConfigError((Problem(path, str(error)),)) from error
