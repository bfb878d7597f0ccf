"""What no single value of ``usage`` and ``metrics`` shows: that receivers can be reached as given.

No message shows a secret. It opens no file and connects to nothing.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from itertools import pairwise
from typing import Final

from llmproxy.config.addresses import check_service_url, parse_listen, shown_url
from llmproxy.config.findings import Findings, KeyPath, path_text, quoted
from llmproxy.config.header_fields import check_header_fields
from llmproxy.config.key_fields import parse_table
from llmproxy.config.model import Config
from llmproxy.config.model_usage import Metrics, Usage, WebhookReporter
from llmproxy.config.names import check_names, check_other_types, check_reference

SECRET_PREFIX: Final = "whsec_"
"""Before the base64 of a webhook's secret, as Standard Webhooks has it."""

OWN_LABELS: Final = frozenset(
    (
        *("backend", "certificate", "code", "function", "kind", "le", "limit", "model", "outcome"),
        *("path", "phase", "pid", "python", "reporter", "scope", "source", "state", "status"),
        *("storage", "stream", "type", "version"),
    )
)
"""What metrics are told apart by: no label for ``metrics.custom_labels``."""

SERVED_PATHS: Final = frozenset(
    (
        *("/health", "/ready", "/me", "/v1/models", "/tokenize", "/detokenize"),
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"),
        *("/v1/messages", "/v1/rerank", "/v1/score"),
    )
)
"""What is served there besides metrics: no path for them, nor is anything below."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_LABEL = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)=(.*)", re.ASCII)
_PATH = re.compile(r"/[A-Za-z0-9._~/-]+", re.ASCII)
_SHORTEST_SECRET_BYTES: Final = 24
_WITH_SETTINGS = ("builtin", "webhook", "database")


def check_usage(config: Config, findings: Findings) -> None:
    """Check reporters, and where metrics are served.

    Args:
        config: The configuration.
        findings: Takes the problems.
    """
    _check_reporters(config, findings)
    _check_spool(config.usage, findings)
    _check_metrics(config.metrics, findings)


def webhook_key(secret: str) -> bytes:
    """Read the key of a webhook's secret.

    Raises:
        ValueError: It is none; the message says what is wanted, and shows nothing of it.
    """
    try:
        key = b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(SECRET_PREFIX) or len(key) < _SHORTEST_SECRET_BYTES:
        raise ValueError(
            f'is no secret of a webhook (hidden); want "{SECRET_PREFIX}" and the base64 of '
            f"at least {_SHORTEST_SECRET_BYTES} random bytes"
        )
    return key


def _check_reporters(config: Config, findings: Findings) -> None:
    at: KeyPath = ("usage", "reporters")
    reporters = config.usage.reporters
    check_names(findings, [((*at, i, "name"), one.name) for i, one in enumerate(reporters)])
    databases = [one.name for one in config.storage.databases]
    builtin: KeyPath = ()
    for index, reporter in enumerate(reporters):
        path = (*at, index)
        if reporter.name.strip() and not _FILE_NAME.fullmatch(reporter.name):
            findings.check(
                (*path, "name"),
                f"{quoted(reporter.name)} cannot name a file; "
                "want letters, digits, dashes, dots and underscores, at most 64",
            )
        check_other_types(findings, reporter, path, _WITH_SETTINGS)
        if reporter.type == "builtin":
            if builtin:
                findings.check(
                    (*path, "type"), f"is builtin, and so is {path_text(builtin)}; want only one"
                )
            builtin = builtin or path
        elif reporter.type == "webhook":
            _check_webhook(reporter.webhook, (*path, "webhook"), findings)
        elif reporter.type == "database":
            place = (*path, "database")
            stores: KeyPath = ("storage", "databases")
            check_reference(
                findings,
                (*place, "storage"),
                reporter.database.storage,
                databases,
                stores,
                f"a name of {path_text(stores)}",
            )
            try:
                parse_table(reporter.database.table)
            except ValueError as error:
                findings.check((*place, "table"), f"{quoted(reporter.database.table)} {error}")


def _check_webhook(webhook: WebhookReporter, path: KeyPath, findings: Findings) -> None:
    try:
        check_service_url(webhook.url)
    except ValueError as error:
        findings.check((*path, "url"), f"{quoted(shown_url(webhook.url))} {error}")
    check_header_fields(webhook.headers, (*path, "headers"), findings)
    for name in ("secret", "previous_secret"):
        secret = getattr(webhook, name)
        if not secret:
            continue
        try:
            webhook_key(secret)
        except ValueError as error:
            source = f"{name}_file" if getattr(webhook, f"{name}_file") else name
            findings.check((*path, source), str(error))
    if webhook.previous_secret and not webhook.secret:
        findings.check(
            (*path, "previous_secret"),
            "is given without secret; want the one in use as secret",
            needs=((*path, "secret"), (*path, "secret_file")),
        )


def _check_spool(usage: Usage, findings: Findings) -> None:
    if usage.enabled and usage.reporters and not usage.spool_dir:
        findings.check(("usage", "spool_dir"), "is empty; want the name of a directory")


def _check_metrics(metrics: Metrics, findings: Findings) -> None:
    at: KeyPath = ("metrics",)
    if not _PATH.fullmatch(metrics.path):
        findings.check(
            (*at, "path"), f'{quoted(metrics.path)} is not a path; want one like "/metrics"'
        )
    elif any(f"{metrics.path}/".startswith(f"{path}/") for path in SERVED_PATHS):
        findings.check(
            (*at, "path"),
            f'{quoted(metrics.path)} serves something else; want another, such as "/metrics"',
        )
    if metrics.listen:
        try:
            parse_listen(metrics.listen)
        except ValueError as error:
            findings.check((*at, "listen"), f"{quoted(metrics.listen)} {error}")
    seen = set()
    for index, label in enumerate(metrics.custom_labels):
        found = _LABEL.fullmatch(label)
        path = (*at, "custom_labels", index)
        if found is None or found[1].startswith("__"):
            findings.check(path, f'{quoted(label)} is no label; want one like "site=berlin"')
        elif found[1] in OWN_LABELS:
            findings.check(
                path, f"{quoted(label)}: metrics have a label {found[1]} already; want another name"
            )
        elif found[1] in seen:
            findings.check(path, f"{quoted(label)} is a second {found[1]}; want it once")
        else:
            seen.add(found[1])
    buckets = metrics.latency_buckets
    if not buckets or buckets[0] < 0 or any(one >= other for one, other in pairwise(buckets)):
        findings.check(
            (*at, "latency_buckets"),
            f"{list(buckets)} are no bounds; want at least one, each larger than the one before",
        )
