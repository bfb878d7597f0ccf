"""The catalogue: every metric that there is, with its name, its labels, and what it says.

Declarations only. A metric is served once something feeds it. Names and labels that the Go LLMProxy
has are kept, its milliseconds too; all else is in Prometheus's base units. All labels are bounded:
none holds a key, a user, a request or a session, and names that come from clients or models are
counted as ``(other)`` when there are too many of them.
"""

from __future__ import annotations

from typing import Final, Literal

import attrs

Kind = Literal["counter", "gauge", "histogram"]
OverWorkers = Literal["livesum", "livemin", "livemax"]


@attrs.frozen(kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: As it is served; a histogram's ends in ``_bucket``, ``_sum`` and ``_count`` there.
        kind: What it is to Prometheus.
        text: What it says.
        labels: What it is told apart by.
        buckets: Upper bounds of a histogram; None: those of ``metrics.latency_buckets``.
        over_workers: What the value of a gauge is when several processes have one: those that live
            are added up, or the least or the greatest counts.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] | None = None
    over_workers: OverWorkers = "livesum"


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=name, kind="counter", text=text, labels=labels)


def _gauge(name: str, text: str, *labels: str, over_workers: OverWorkers = "livesum") -> Metric:
    return Metric(name=name, kind="gauge", text=text, labels=labels, over_workers=over_workers)


def _histogram(
    name: str, text: str, *labels: str, buckets: tuple[float, ...] | None = None
) -> Metric:
    return Metric(name=name, kind="histogram", text=text, labels=labels, buckets=buckets)


# Requests: counted as each one concludes.

REQUESTS: Final = _counter(
    "llmproxy_requests_total",
    "Requests for a model that have ended, however they did.",
    "path",
    "stream",
    "backend",
    "status",
    "model",
    "outcome",
)
LATENCY: Final = _histogram(
    "llmproxy_latency_ms",
    "Milliseconds from a request's first byte to its end.",
    "path",
    "stream",
    "backend",
    "model",
)
FIRST_BYTE: Final = _histogram(
    "llmproxy_first_byte_ms",
    "Milliseconds from a request's first byte to the first byte of its answer's body.",
    "stream",
    "backend",
    "model",
)
QUEUE_WAIT: Final = _histogram(
    "llmproxy_queue_wait_ms",
    "Milliseconds from a request's first byte to its first attempt at a backend.",
    "model",
)
TOKENS: Final = _counter(
    "llmproxy_usage_tokens_total",
    "Tokens used. Cached ones are among those of the prompt, reasoning among the completion.",
    "type",
    "backend",
    "model",
)
USAGE_SOURCES: Final = _counter(
    "llmproxy_usage_source_total",
    "Requests that a backend answered, by how exactly their tokens are known.",
    "source",
    "backend",
)
TOOL_CALLS: Final = _counter(
    "llmproxy_tool_calls_total", "Calls of functions that models asked for.", "function", "model"
)
REJECTIONS: Final = _counter(
    "llmproxy_rejections_total",
    "Requests that the gateway refused, by the error's code.",
    "code",
    "model",
)
ERRORS: Final = _counter(
    "llmproxy_errors_total",
    "Requests that failed in a backend or broke off, by the error's code.",
    "code",
    "backend",
    "model",
)
ATTEMPT_FAILURES: Final = _counter(
    "llmproxy_attempt_failures_total",
    "Attempts at a backend that gave no answer, by the error's code.",
    "code",
    "backend",
)
RETRIES: Final = _counter(
    "llmproxy_retries_total", "Attempts after the first of their request.", "model"
)
STREAM_STALLS: Final = _counter(
    "llmproxy_stream_stalls_total",
    "Answers that were cut because their backend fell silent.",
    "backend",
    "model",
)
UNREADABLE: Final = _counter(
    "llmproxy_unreadable_requests_total",
    "What clients sent and could not be read as a request, by the status it was answered with.",
    "status",
)

# What runs now.

IN_FLIGHT: Final = _gauge(
    "llmproxy_requests_in_flight", "Requests for a model that have not ended.", "phase"
)
QUEUE_WAITING: Final = _gauge("llmproxy_queue_waiting", "Requests that wait for a free backend.")
CLIENT_CONNECTIONS: Final = _gauge("llmproxy_client_connections", "Open connections of clients.")
BODY_BYTES: Final = _gauge("llmproxy_request_body_bytes", "Bytes of request bodies that are held.")
STREAM_ALERTS: Final = _counter(
    "llmproxy_stream_alerts_total",
    "Streams that lasted or were silent for too long, once for each stream and kind.",
    "kind",
    "backend",
)
ACTIVE_SESSIONS: Final = _gauge(
    "llmproxy_active_sessions", "Sessions with a request in the last half hour."
)
SESSION_TOKENS: Final = _histogram(
    "llmproxy_session_tokens",
    "Tokens of a session, when half an hour has passed without a request.",
    buckets=(1e3, 1e4, 5e4, 1e5, 5e5, 1e6, 5e6, 1e7, 5e7),
)

# Backends.

BACKEND_UP: Final = _gauge(
    "llmproxy_backend_up",
    "Whether a backend can take requests: 1 or 0.",
    "backend",
    over_workers="livemin",
)
BACKEND_DRAINED: Final = _gauge(
    "llmproxy_backend_drained",
    "Whether an administrator keeps requests away from a backend: 1 or 0.",
    "backend",
    over_workers="livemax",
)
BACKEND_IN_FLIGHT: Final = _gauge(
    "llmproxy_backend_in_flight", "Requests that a backend is working on.", "backend"
)
BACKEND_CONNECTIONS: Final = _gauge(
    "llmproxy_backend_connections", "Connections to a backend, idle and busy.", "backend", "state"
)
BREAKER_STATE: Final = _gauge(
    "llmproxy_breaker_state",
    "A backend's circuit breaker: 0 closed, 1 half-open, 2 open.",
    "backend",
    over_workers="livemax",
)

# Limits, and where they and keys are kept.

LIMIT_REFUSALS: Final = _counter(
    "llmproxy_limit_refusals_total",
    "Requests that a limit held up, by whose it is and what it limits.",
    "scope",
    "limit",
)
UNCHECKED: Final = _counter(
    "llmproxy_unchecked_requests_total",
    "Requests that passed without their limits, for those could not be counted.",
)
LIMIT_FAILURES: Final = _counter(
    "llmproxy_limit_storage_failures_total", "Calls that failed where limits are counted."
)
UNSETTLED: Final = _gauge(
    "llmproxy_limit_unsettled", "Ended requests whose tokens are still to be counted."
)
STORAGE_UP: Final = _gauge(
    "llmproxy_storage_up",
    "Whether a store was answering when it was last asked: 1 or 0.",
    "storage",
    over_workers="livemin",
)

# Usage records on their way to their receivers.

SPOOL_BACKLOG: Final = _gauge(
    "llmproxy_spool_backlog_records", "Records that a reporter has not delivered.", "reporter"
)
SPOOL_AGE: Final = _gauge(
    "llmproxy_spool_backlog_age_seconds",
    "Age of the oldest record that a reporter has not delivered.",
    "reporter",
    over_workers="livemax",
)
SPOOL_BYTES: Final = _gauge("llmproxy_spool_bytes", "Size of the spool on disk.")
SPOOL_LOST: Final = _counter(
    "llmproxy_spool_lost_records_total", "Records that the spool could not take."
)
SPOOL_SKIPPED: Final = _counter(
    "llmproxy_spool_skipped_records_total",
    "Records that were deleted before a reporter had them.",
    "reporter",
)
SPOOL_DAMAGED: Final = _counter(
    "llmproxy_spool_damaged_records_total", "Records that could not be read back from the spool."
)
SPOOL_WAITING: Final = _gauge(
    "llmproxy_spool_waiting_records", "Records that wait in memory, for they cannot be written."
)
DEAD_LETTERS: Final = _counter(
    "llmproxy_dead_letters_total", "Deliveries that a reporter gave up.", "reporter"
)
DEAD_LETTER_BYTES: Final = _gauge(
    "llmproxy_dead_letter_bytes",
    "Size of what a reporter gave up and was not sent again.",
    "reporter",
    over_workers="livemax",
)
REPORTER_DISABLED: Final = _gauge(
    "llmproxy_reporter_disabled",
    "Whether a reporter wants no more until the next start (a webhook that answered 410).",
    "reporter",
    over_workers="livemax",
)
WEBHOOK_SUCCESS: Final = _counter(
    "llmproxy_webhook_success_total", "Deliveries that a webhook took.", "reporter"
)
WEBHOOK_FAILURE: Final = _counter(
    "llmproxy_webhook_failure_total", "Deliveries that a webhook did not take.", "reporter"
)

# The daemon itself.

LOOP_LAG: Final = _histogram(
    "llmproxy_event_loop_lag_seconds",
    "How late the event loop ran what was due, looked at four times a second.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
)
LOOP_WORST: Final = _gauge(
    "llmproxy_event_loop_lag_worst_seconds",
    "The greatest lag of the event loop in the last minute.",
    over_workers="livemax",
)
DRAINING: Final = _gauge(
    "llmproxy_draining",
    "Whether the daemon is stopping: 1 or 0.",
    over_workers="livemax",
)
CONFIG_HASH: Final = _gauge(
    "llmproxy_config_hash",
    "The digest of the configuration in force as a number: the same for the same configuration.",
    over_workers="livemax",
)
RELOAD_OK: Final = _gauge(
    "llmproxy_config_last_reload_successful",
    "Whether the last reload of the configuration went well: 1 or 0; 1 before the first.",
    over_workers="livemin",
)
RELOAD_TIME: Final = _gauge(
    "llmproxy_config_last_reload_timestamp_seconds",
    "When the last reload ended, or the start before the first, seconds since the epoch.",
    over_workers="livemin",
)
BUILD_INFO: Final = _gauge(
    "llmproxy_build_info", "Always 1.", "version", "python", over_workers="livemax"
)
CERTIFICATE_EXPIRY: Final = _gauge(
    "llmproxy_certificate_expiry_timestamp_seconds",
    "When a certificate of the listeners expires, seconds since the epoch.",
    "certificate",
    over_workers="livemin",
)
PROCESS_CPU: Final = _counter(
    "process_cpu_seconds_total", "Processor time of the process, user and system."
)
PROCESS_MEMORY: Final = _gauge("process_resident_memory_bytes", "Resident memory of the process.")
PROCESS_FILES: Final = _gauge(
    "process_open_fds",
    "Open file descriptors of the process; of several, of the one that has most.",
    over_workers="livemax",
)
PROCESS_MOST_FILES: Final = _gauge(
    "process_max_fds", "Most file descriptors that the process may open.", over_workers="livemin"
)
PROCESS_START: Final = _gauge(
    "process_start_time_seconds",
    "When the process started, seconds since the epoch.",
    over_workers="livemin",
)

CATALOGUE: Final[tuple[Metric, ...]] = tuple(
    value for value in tuple(globals().values()) if isinstance(value, Metric)
)
"""All of them, in the order in which they stand here."""
