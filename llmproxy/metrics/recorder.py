"""The recorder: what a request's one record says, counted."""

from __future__ import annotations

from typing import Final

import attrs
from prometheus_client import Counter, Histogram
from twisted.logger import Logger
from zope.interface import implementer

from llmproxy.errors import GatewayError
from llmproxy.interfaces import IReporter
from llmproxy.metrics import catalogue
from llmproxy.metrics.bounded import Bounded
from llmproxy.metrics.registry import Metrics
from llmproxy.metrics.sessions import SessionSums
from llmproxy.values import UsageRecord

MOST_MODELS: Final = 100
"""Where a backend takes any name, clients choose it."""

MOST_FUNCTIONS: Final = 100
"""Clients choose their tools, and models what they make of the names."""

BACKEND_ERROR: Final = "backend_error"
"""The code of an error that a backend answered itself, and that was passed on."""

_FAILURES: Final = frozenset(("upstream_error", "truncated", "timeout"))
_YES_NO: Final = ("false", "true")


@attrs.frozen
class _Place:
    """What all records with the same labels are counted by; some of it once one needs it."""

    requests: Counter
    latency: Histogram
    model: str
    times: dict[str, Histogram] = attrs.field(factory=dict)
    usage: dict[str, Counter] = attrs.field(factory=dict)


@implementer(IReporter)
class Recorder:
    """Counts every record.

    Args:
        metrics: Where.
        sessions: Add up sessions.
    """

    _log = Logger()

    def __init__(self, metrics: Metrics, sessions: SessionSums) -> None:
        self._metrics = metrics
        self._sessions = sessions
        self._models = Bounded(MOST_MODELS)
        self._functions = Bounded(MOST_FUNCTIONS)
        self._places: dict[tuple[object, ...], _Place] = {}
        self._is_failing = False

    def __repr__(self) -> str:
        return f"<Recorder {len(self._places)} kinds of requests>"

    def report(self, record: UsageRecord) -> None:
        """Count a record; see `IReporter`."""
        try:
            self._count(record)
        except Exception:  # noqa: BLE001 - the outermost edge: other reporters get the record too
            if not self._is_failing:
                self._log.failure("requests cannot be counted")
            self._is_failing = True

    def _count(self, record: UsageRecord) -> None:
        # A model that was not found is whatever the client wrote.
        model = self._models.label(record.model) if record.upstream_model else ""
        labels = (
            record.endpoint,
            record.stream,
            record.backend,
            record.status,
            model,
            record.outcome,
        )
        place = self._places.get(labels)
        if place is None:
            place = self._places[labels] = self._new_place(record, model)
        place.requests.inc()
        place.latency.observe(record.duration_ms)
        if record.attempts:
            self._count_attempted(record, place)
        if record.tool_calls:
            for name, calls in record.tool_calls.items():
                function = self._functions.label(name)
                self._metrics.counter(catalogue.TOOL_CALLS, function, model).inc(calls)
        if record.outcome != "ok" or record.tried:
            self._count_trouble(record, model)
        if record.session_id and record.key_id:
            self._sessions.add(record)

    def refused(self, error: GatewayError) -> None:
        """Count what never became a request."""
        self._metrics.counter(catalogue.UNREADABLE, str(error.status)).inc()

    def _new_place(self, record: UsageRecord, model: str) -> _Place:
        metrics, stream, backend = self._metrics, _YES_NO[record.stream], record.backend
        path, status = record.endpoint, str(record.status)
        return _Place(
            requests=metrics.counter(
                catalogue.REQUESTS, path, stream, backend, status, model, record.outcome
            ),
            latency=metrics.histogram(catalogue.LATENCY, path, stream, backend, model),
            model=model,
        )

    def _count_attempted(self, record: UsageRecord, place: _Place) -> None:
        times = place.times
        waited = times.get("queue_wait")
        if waited is None:
            waited = times["queue_wait"] = self._metrics.histogram(
                catalogue.QUEUE_WAIT, place.model
            )
        waited.observe(record.queue_ms)
        if record.first_byte_ms is not None:
            first_byte = times.get("first_byte")
            if first_byte is None:
                first_byte = times["first_byte"] = self._metrics.histogram(
                    catalogue.FIRST_BYTE, _YES_NO[record.stream], record.backend, place.model
                )
            first_byte.observe(record.first_byte_ms)
        self._count_usage(record, place)

    def _count_usage(self, record: UsageRecord, place: _Place) -> None:
        counters, usage = place.usage, record.usage
        source = counters.get(record.usage_source)
        if source is None:
            source = counters[record.usage_source] = self._metrics.counter(
                catalogue.USAGE_SOURCES, record.usage_source, record.backend
            )
        source.inc()
        for kind, tokens in (
            ("prompt", usage.prompt_tokens),
            ("completion", usage.completion_tokens),
            ("cached", usage.cached_tokens),
            ("reasoning", usage.reasoning_tokens),
        ):
            if tokens > 0:  # a backend may tell anything
                counter = counters.get(kind)
                if counter is None:
                    counter = counters[kind] = self._metrics.counter(
                        catalogue.TOKENS, kind, record.backend, place.model
                    )
                counter.inc(tokens)

    def _count_trouble(self, record: UsageRecord, model: str) -> None:
        metrics, code = self._metrics, record.error_code
        if record.outcome in _FAILURES:
            metrics.counter(catalogue.ERRORS, code or BACKEND_ERROR, record.backend, model).inc()
        elif code and record.outcome == "rejected":
            metrics.counter(catalogue.REJECTIONS, code, model).inc()
        if code == "stall_timeout":
            metrics.counter(catalogue.STREAM_STALLS, record.backend, model).inc()
        if record.attempts > 1:
            metrics.counter(catalogue.RETRIES, model).inc(record.attempts - 1)
        for tried in record.tried:
            metrics.counter(catalogue.ATTEMPT_FAILURES, tried.error, tried.backend).inc()
