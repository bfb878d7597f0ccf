"""What is watched: the metrics, the streams, the event loop.

Part of the parts list: plain constructor calls, and which number of which part is which metric.
"""

from __future__ import annotations

import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from os import environ
from typing import TYPE_CHECKING, Any, Final, get_args

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from llmproxy import __version__
from llmproxy.config.model import Config
from llmproxy.deliveries import ReporterType
from llmproxy.errors import GatewayError
from llmproxy.interfaces import IAlerts, IBackendStatuses, IMetering, IReporter
from llmproxy.limits.memory_limiter import MemoryLimiter
from llmproxy.metrics import catalogue
from llmproxy.metrics.loop_lag import LoopLag
from llmproxy.proxy.budget import ByteBudget
from llmproxy.proxy.exchange import Exchange
from llmproxy.proxy.stream_watch import StreamWatch
from llmproxy.resources.base import Identify
from llmproxy.resources.metrics import MetricsResource
from llmproxy.resources.records import PROBED_PATHS
from llmproxy.rights import Rights
from llmproxy.site import EdgeSite
from llmproxy.tls.contexts import Certificate
from llmproxy.upstream.pool import ConnectionPool
from llmproxy.values import AlertKind, ConfigStatus

if TYPE_CHECKING:
    from llmproxy.metrics.recorder import Recorder
    from llmproxy.metrics.registry import Metrics

SHARED_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""In the environment: where several processes count together."""

THREAD_TURN_S: Final = 0.0005
"""How long another thread may keep the interpreter from the event loop; Python's own 5 ms would be
paid at every system call of the event loop while metrics are written out."""

PHASES: Final = ("admitting", "attempting", "relaying")
"""Those of an exchange that has not concluded."""

ALERT_KINDS: Final[tuple[AlertKind, ...]] = get_args(AlertKind)


_BREAKERS: Final = {"closed": 0, "half_open": 1, "open": 2}

_OF_REPORTERS: Final = (
    (catalogue.SPOOL_BACKLOG, "backlog_records", get_args(ReporterType)),
    (catalogue.SPOOL_AGE, "oldest_s", get_args(ReporterType)),
    (catalogue.SPOOL_SKIPPED, "skipped_records", get_args(ReporterType)),
    (catalogue.DEAD_LETTERS, "dead_letters", get_args(ReporterType)),
    (catalogue.DEAD_LETTER_BYTES, "dead_letter_bytes", get_args(ReporterType)),
    (catalogue.WEBHOOK_SUCCESS, "delivered_batches", ("webhook",)),
    (catalogue.WEBHOOK_FAILURE, "failed_tries", ("webhook",)),
)
"""Which figure of a reporter's status is which metric, for which types of reporters."""


class Observation(MultiService):
    """The parts that watch.

    Args:
        config: The first configuration.
        reactor: The reactor.
        running: The requests under way.
        alerts: Take the alerts of streams.
        config_status: Says which configuration is in force.

    Attributes:
        metrics: Count, and are read; None when ``metrics.enabled`` is false.
        streams: Raises alerts.
        lag: How late the event loop is.
        reporters: Count requests.
        probed_paths: Asked every few seconds: not worth a line in the log while all is well.
    """

    def __init__(
        self,
        config: Config,
        reactor: Any,
        running: set[Exchange],
        alerts: Sequence[IAlerts],
        config_status: Callable[[], ConfigStatus],
    ) -> None:
        super().__init__()
        self._settings = config.metrics
        self._config_status = config_status
        self._running = running
        self.streams = StreamWatch(
            running,
            long_s=config.monitoring.long_stream_alert,
            stalled_s=config.monitoring.stalled_stream_alert,
            alerts=alerts,
            clock=reactor,
        )
        self.streams.setServiceParent(self)
        self.metrics: Metrics | None = None
        observe_lag: Callable[[float], object] = _nothing
        self._recorder: Recorder | None = None
        self.probed_paths = PROBED_PATHS
        if config.metrics.enabled:
            self.probed_paths |= {config.metrics.path.encode("ascii")}
            self.metrics = metrics = self._make_metrics(reactor)
            observe_lag = metrics.histogram(catalogue.LOOP_LAG).observe
            self._watch_daemon(metrics)
        self.lag = LoopLag(observe_lag, reactor, config.server.max_loop_lag)
        self.lag.setServiceParent(self)
        if self.metrics is not None:
            self.metrics.watch(catalogue.LOOP_WORST, self.lag.worst_s)

    def __repr__(self) -> str:
        return f"<Observation {self.metrics!r} {self.streams!r}>"

    def adopt(self, config: Config) -> None:
        """Watch for what another configuration says; ``metrics`` is as it was."""
        monitoring = config.monitoring
        self.streams.watch_for(monitoring.long_stream_alert, monitoring.stalled_stream_alert)
        self.lag.most_s = config.server.max_loop_lag

    def startService(self) -> None:
        """Begin to watch."""
        if self.metrics is not None:
            sys.setswitchinterval(THREAD_TURN_S)
        super().startService()

    @property
    def reporters(self) -> Sequence[IReporter]:
        """What counts requests."""
        return () if self._recorder is None else (self._recorder,)

    def refused(self, error: GatewayError) -> None:
        """Count what never became a request."""
        if self._recorder is not None:
            self._recorder.refused(error)

    def resource(self, identify: Identify, open_paths: Collection[str]) -> MetricsResource | None:
        """Make the resource that serves the metrics; None when there are none.

        Args:
            identify: Says who asks.
            open_paths: Local paths that need no key.
        """
        if self.metrics is None:
            return None
        is_open = self._settings.path in open_paths
        return MetricsResource(self.metrics.scrape, None if is_open else identify)

    def _make_metrics(self, reactor: Any) -> Metrics:
        # Only who uses them has them in memory.
        from llmproxy.metrics.process import watch_process
        from llmproxy.metrics.recorder import Recorder
        from llmproxy.metrics.registry import Metrics
        from llmproxy.metrics.sessions import SessionSums

        def in_thread(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
            return deferToThreadPool(reactor, reactor.getThreadPool(), function, *arguments)

        settings = self._settings
        metrics = Metrics(
            latency_buckets=settings.latency_buckets,
            custom_labels=dict(_parted(label) for label in settings.custom_labels),
            in_thread=in_thread,
            clock=reactor,
            shared_folder=environ.get(SHARED_FOLDER, ""),
        )
        metrics.setServiceParent(self)
        sessions = SessionSums(metrics.histogram(catalogue.SESSION_TOKENS).observe, reactor)
        metrics.watch(catalogue.ACTIVE_SESSIONS, sessions.active)
        self._recorder = Recorder(metrics, sessions)
        watch_process(metrics, time.time)
        return metrics

    def _watch_daemon(self, metrics: Metrics) -> None:
        status = self._config_status
        # Twelve hexadecimal digits are a number that a float holds exactly.
        metrics.watch(catalogue.CONFIG_HASH, lambda: float(int(status().digest, 16)))
        metrics.watch(catalogue.RELOAD_OK, lambda: not status().problems)
        metrics.watch(catalogue.RELOAD_TIME, lambda: status().reloaded_s or status().since_s)
        metrics.watch(catalogue.BUILD_INFO, lambda: 1.0, __version__, platform.python_version())
        metrics.watch_each(catalogue.IN_FLIGHT, self._phases)

    def _phases(self) -> Iterable[tuple[tuple[str, ...], float]]:
        counted = Counter(exchange.state for exchange in self._running)
        return [((phase,), counted[phase]) for phase in PHASES]

    def watch_edge(
        self, site: EdgeSite, budget: ByteBudget, is_draining: Callable[[], bool]
    ) -> None:
        """Watch what clients hold.

        Args:
            site: Their connections.
            budget: Their requests' bodies.
            is_draining: Whether the daemon is.
        """
        metrics = self.metrics
        if metrics is None:
            return
        metrics.watch(catalogue.CLIENT_CONNECTIONS, lambda: site.connection_count)
        metrics.watch(catalogue.BODY_BYTES, lambda: budget.taken_bytes)
        metrics.watch(catalogue.DRAINING, is_draining)

    def watch_certificates(self, shown: Callable[[], Sequence[Certificate]]) -> None:
        """Watch when certificates end.

        Args:
            shown: Gives those that clients are shown.
        """
        if self.metrics is not None:
            self.metrics.watch_each(
                catalogue.CERTIFICATE_EXPIRY,
                lambda: [((one.cert_file,), one.not_after_s) for one in shown()],
            )

    def watch_backends(
        self,
        directory: IBackendStatuses,
        pools: Callable[[], Mapping[str, ConnectionPool]],
        waiting: Callable[[], int],
    ) -> None:
        """Watch the backends.

        Args:
            directory: Their states.
            pools: Gives their connections, by their names.
            waiting: Says how many requests wait for room at one.
        """
        metrics = self.metrics
        if metrics is None:
            return
        metrics.watch(catalogue.QUEUE_WAITING, waiting)
        metrics.watch_each(
            catalogue.BREAKER_STATE,
            lambda: [((one.name,), _BREAKERS[one.breaker]) for one in directory.statuses()],
        )
        metrics.watch_each(
            catalogue.BACKEND_UP,
            lambda: [((one.name,), one.state == "up") for one in directory.statuses()],
        )
        metrics.watch_each(
            catalogue.BACKEND_DRAINED,
            lambda: [((one.name,), one.state == "drained") for one in directory.statuses()],
        )
        metrics.watch_each(
            catalogue.BACKEND_IN_FLIGHT,
            lambda: [((one.name,), one.in_flight) for one in directory.statuses()],
        )

        def alerts() -> Iterable[tuple[tuple[str, ...], float]]:
            told = self.streams.told
            names = [one.name for one in directory.statuses()]
            return [((kind, name), told[kind, name]) for kind in ALERT_KINDS for name in names]

        metrics.watch_each(catalogue.STREAM_ALERTS, alerts)

        def connections() -> Iterable[tuple[tuple[str, ...], float]]:
            for name, pool in pools().items():
                idle, all_of_them = pool.counts
                yield (name, "idle"), idle
                yield (name, "busy"), all_of_them - idle

        metrics.watch_each(catalogue.BACKEND_CONNECTIONS, connections)

    def watch_metering(self, metering: IMetering) -> None:
        """Watch the spool and the reporters.

        Args:
            metering: Knows how it goes with them.
        """
        metrics = self.metrics
        if metrics is None:
            return
        spool, reporters = metering.spool_status, metering.receiver_statuses
        metrics.watch(catalogue.SPOOL_BYTES, lambda: spool().size_bytes)
        metrics.watch(catalogue.SPOOL_WAITING, lambda: spool().waiting_records)
        metrics.watch(catalogue.SPOOL_LOST, lambda: spool().lost_records)
        metrics.watch(catalogue.SPOOL_DAMAGED, lambda: spool().damaged_records)
        for metric, field, types in _OF_REPORTERS:

            def figures(
                field: str = field, types: Collection[str] = types
            ) -> Iterable[tuple[tuple[str, ...], float]]:
                return [
                    ((one.name,), getattr(one, field)) for one in reporters() if one.type in types
                ]

            metrics.watch_each(metric, figures)
        metrics.watch_each(
            catalogue.REPORTER_DISABLED,
            lambda: [((one.name,), one.state == "disabled") for one in reporters()],
        )

    def watch_rights(self, rights: Rights) -> None:
        """Watch limits and stores.

        Args:
            rights: Have them.
        """
        metrics = self.metrics
        if metrics is None:
            return
        limiter, totals, storage = rights.limiter, rights.totals, rights.storage
        metrics.watch_each(
            catalogue.LIMIT_REFUSALS,
            lambda: [
                *limiter.refused.items(),
                (("address", "unknown_keys"), rights.rules.throttle.refused),
            ],
        )
        if not isinstance(limiter, MemoryLimiter):
            metrics.watch(catalogue.UNCHECKED, lambda: limiter.allowed_unchecked)
            metrics.watch(catalogue.LIMIT_FAILURES, lambda: limiter.failures)
            metrics.watch(catalogue.UNSETTLED, lambda: limiter.pending_settlements)

        def stores() -> Iterable[tuple[tuple[str, ...], float]]:
            for name, is_up in storage.is_up.items():
                yield (name,), is_up()
            if storage.keys is not None:
                yield ("own file",), not totals.is_failing

        metrics.watch_each(catalogue.STORAGE_UP, stores)


def _parted(label: str) -> tuple[str, str]:
    name, _, value = label.partition("=")
    return name, value


def _nothing(_: float) -> None:
    """Count nothing."""
