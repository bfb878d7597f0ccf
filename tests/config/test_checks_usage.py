"""Tests of `llmproxy.config.checks_usage`."""

from __future__ import annotations

from base64 import b64encode

import pytest

from llmproxy.config.checks_usage import SERVED_PATHS, webhook_key
from llmproxy.resources.proxy import RELAYED_PATHS
from tests.config.conftest import Load, Problems

START = """\
backends: [{name: a, url: 'demo:'}]
auth: {enabled: false}
storage: {databases: [{name: primary, path: ./x.db}]}
"""
SECRET = "whsec_" + b64encode(b"0123456789abcdef01234567").decode()
HOOK = "name: billing, type: webhook, webhook: {url: 'http://127.0.0.1/x'"


@pytest.mark.parametrize(
    ("reporters", "expected"),
    [
        (
            "{name: a/b, type: log}",
            '[0].name: "a/b" cannot name a file; '
            "want letters, digits, dashes, dots and underscores, at most 64",
        ),
        (
            "{name: a, type: log}, {name: a, type: log}",
            '[1].name: "a" is taken by usage.reporters[0].name; want a unique one',
        ),
        (
            "{name: a, type: builtin}, {name: b, type: builtin}",
            "[1].type: is builtin, and so is usage.reporters[0]; want only one",
        ),
        (
            "{name: a, type: log, builtin: {retention_days: 3}}",
            "[0].builtin: is given, but the type is log; want it removed, or type: builtin",
        ),
        (
            "{name: a, type: webhook}",
            '[0].webhook.url: "" is empty; want "https://host/path" or "http://host/path"',
        ),
        (
            f"{{{HOOK}, secret: whsec_abc}}}}",
            '[0].webhook.secret: is no secret of a webhook (hidden); want "whsec_" and the base64 '
            "of at least 24 random bytes",
        ),
        (
            f"{{{HOOK}, previous_secret: {SECRET}}}}}",
            "[0].webhook.previous_secret: is given without secret; want the one in use as secret",
        ),
        (
            f"{{{HOOK}, headers: {{Content-Length: '3'}}}}}}",
            "[0].webhook.headers.Content-Length: belongs to the connection, ",
        ),
        (
            "{name: a, type: database, database: {storage: primry}}",
            '[0].database.storage: "primry" is not a name of storage.databases; '
            'did you mean "primary"?',
        ),
        (
            "{name: a, type: database, database: {storage: primary, table: a-b}}",
            '[0].database.table: "a-b" is not the name of a table; want NAME or SCHEMA.NAME, ',
        ),
    ],
)
def test_reporters(problems: Problems, reporters: str, expected: str) -> None:
    """Each is named, of one type, and can be reached as given."""
    (told,) = problems(f"{START}usage: {{reporters: [{reporters}]}}\n")
    assert told.startswith(f"x.yaml:4: usage.reporters{expected}")
    assert SECRET not in told


def test_reporters_that_are_good(load: Load) -> None:
    """A secret may come from a file."""
    text = f"usage: {{reporters: [{{{HOOK}, secret_file: s, previous_secret: {SECRET}}}}}]}}\n"
    (reporter,) = load(START + text, files={"s": f"{SECRET}\n"}).usage.reporters
    assert webhook_key(reporter.webhook.secret) == b"0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spool_dir: ''", "spool_dir: is empty; want the name of a directory"),
        (
            "spool_dir: /no/such/place",
            'spool_dir: "/no/such/place" is in a directory that does not exist, '
            "nor does the one above",
        ),
    ],
)
def test_spool(problems: Problems, text: str, expected: str) -> None:
    """Its directory can be made, where somebody needs it."""
    (told,) = problems(f"{START}usage: {{reporters: [{{name: a, type: log}}], {text}}}\n")
    assert told == f"x.yaml:4: usage.{expected}"
    assert not problems(f"{START}usage: {{{text}}}\n")


def test_a_bound_that_is_no_number(problems: Problems) -> None:
    """It is told once."""
    (told,) = problems(f"{START}metrics: {{latency_buckets: [5, x]}}\n")
    assert told.startswith('x.yaml:4: metrics.latency_buckets[1]: "x" is not a whole number')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path: metrics", 'path: "metrics" is not a path; want one like "/metrics"'),
        ("path: /v1/models", 'path: "/v1/models" serves something else; want another, such as'),
        ("path: /v1/models/mine", 'path: "/v1/models/mine" serves something else; '),
        ("path: /health", 'path: "/health" serves something else; '),
        ("listen: ':x'", 'listen: ":x" '),
        ("custom_labels: [a]", 'custom_labels[0]: "a" is no label; want one like "site=berlin"'),
        ("custom_labels: [__a=1]", 'custom_labels[0]: "__a=1" is no label; '),
        (
            "custom_labels: [model=1]",
            'custom_labels[0]: "model=1": metrics have a label model already; want another name',
        ),
        ("custom_labels: [a=1, a=2]", 'custom_labels[1]: "a=2" is a second a; want it once'),
        (
            "latency_buckets: [5, 5]",
            "latency_buckets: [5, 5] are no bounds; "
            "want at least one, each larger than the one before",
        ),
        ("latency_buckets: []", "latency_buckets: [] are no bounds; "),
    ],
)
def test_metrics(problems: Problems, text: str, expected: str) -> None:
    """Labels are such that Prometheus takes, and bounds go up."""
    (told,) = problems(f"{START}metrics: {{{text}}}\n")
    assert told.startswith(f"x.yaml:4: metrics.{expected}")


def test_paths_beside_others(problems: Problems) -> None:
    """Only what is served, and what is below it, is taken."""
    for path in ("/v1/metrics", "/healthy", "/metrics/llmproxy"):
        assert not problems(f"{START}metrics: {{path: {path}}}\n")


def test_the_paths_that_are_served() -> None:
    """The same as in the Resource tree."""
    relayed = {path.decode() for path in RELAYED_PATHS}
    assert relayed | {"/health", "/ready", "/me", "/v1/models"} == SERVED_PATHS
