"""Metrics for tests: on a clock of the test's, without threads, read as what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from llmproxy.metrics.registry import Metrics

Samples = dict[str, float]


def at_once(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
    """Call a function here and now instead of in a thread."""
    return maybeDeferred(function, *arguments)


def make_metrics(
    clock: Clock | None = None,
    *,
    custom_labels: Mapping[str, str] | None = None,
    latency_buckets: Sequence[float] = (10, 100, 1000),
    shared_folder: str = "",
) -> Metrics:
    """Make metrics that count nothing yet."""
    return Metrics(
        latency_buckets=latency_buckets,
        custom_labels=custom_labels or {},
        in_thread=at_once,
        clock=clock or Clock(),
        shared_folder=shared_folder,
    )


def samples(metrics: Metrics) -> Samples:
    """Scrape; give each sample by its name and labels, as PromQL would write them."""
    scraped: list[Any] = []
    metrics.scrape("").addBoth(scraped.append)
    ((_, text),) = scraped
    return read_samples(text.decode())


def read_samples(text: str) -> Samples:
    """Read the text that Prometheus reads."""
    return {
        shown(sample.name, sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def shown(name: str, labels: Mapping[str, str]) -> str:
    """Write a sample's name and labels, these in the order of their names."""
    written = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{written}}}" if written else name
