"""The catalogue: names that Prometheus takes, and that are told in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmproxy.config.checks_usage import OWN_LABELS
from llmproxy.metrics.catalogue import CATALOGUE, Metric

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "monitoring.md"
GO_NAMES = {
    "llmproxy_requests_total": {"path", "stream", "backend", "status"},
    "llmproxy_latency_ms": {"path", "stream", "backend"},
    "llmproxy_webhook_success_total": set(),
    "llmproxy_webhook_failure_total": set(),
    "llmproxy_usage_tokens_total": {"type"},
}
"""What dashboards of the Go LLMProxy ask for."""

IDENTITIES = re.compile(r"key|user|request_id|session|client|ip\b")


def test_names_are_unique_and_ours() -> None:
    """Each once, under our own prefix or that of every process."""
    names = [metric.name for metric in CATALOGUE]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"(llmproxy|process)_[a-z_]+", name) for name in names)


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_each_is_well_named(metric: Metric) -> None:
    """Counters end in ``_total``, others do not; no label tells who somebody is."""
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.text.endswith(".")
    assert not [label for label in metric.labels if IDENTITIES.search(label)]
    assert metric.buckets is None or metric.kind == "histogram"


@pytest.mark.parametrize("name", GO_NAMES)
def test_names_of_the_go_llmproxy(name: str) -> None:
    """They keep their names, and their labels."""
    (metric,) = (metric for metric in CATALOGUE if metric.name == name)
    assert GO_NAMES[name] <= set(metric.labels)


def test_the_documentation_has_them_all() -> None:
    """Each with its kind, its labels and what it says, in the order of the catalogue."""
    rows = re.findall(
        r"^\| `((?:llmproxy|process)_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$",
        DOCUMENT.read_text(),
        re.MULTILINE,
    )
    assert rows == [
        (
            metric.name,
            metric.kind,
            ", ".join(f"`{label}`" for label in metric.labels) or "none",
            metric.text,
        )
        for metric in CATALOGUE
    ]


def test_custom_labels_cannot_be_any_of_theirs() -> None:
    """The configuration refuses the names that metrics have themselves."""
    assert {label for metric in CATALOGUE for label in metric.labels} <= OWN_LABELS
