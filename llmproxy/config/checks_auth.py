"""What no single value of ``auth`` shows: that sources of keys fit together and to what they name.

The keys that stand in the file are looked at in `llmproxy.config.keys`. It opens no file and
connects to nothing.
"""

from __future__ import annotations

from typing import Final

import attrs

from llmproxy.config.addresses import check_service_url, shown_url
from llmproxy.config.findings import Findings, KeyPath, path_text, quoted
from llmproxy.config.header_fields import check_header_fields, is_field_name
from llmproxy.config.key_fields import WANTED_IDENTIFIER, is_identifier, parse_field, parse_table
from llmproxy.config.model import Config
from llmproxy.config.model_auth import (
    Auth,
    DatabaseProvider,
    OwnAnswer,
    RedisProvider,
    WebhookProvider,
)
from llmproxy.config.names import check_names, check_other_types, check_reference
from llmproxy.config.setting import key_name

LOCAL_PATHS: Final = ("/health", "/ready", "/metrics")
"""The paths that may be served without a key, besides ``metrics.path``."""

PLACEHOLDERS: Final = ("{api_key}", "{sha256}")
"""What ``key_pattern`` has one of: it is replaced by the key, or by its digest."""

_WITH_SETTINGS = ("static", "redis", "database", "webhook")
_ADMIN_HEADER = "x-admin-token"


def check_auth(config: Config, findings: Findings) -> None:
    """Check header names, paths, sources of keys and answers to refused ones.

    Args:
        config: The configuration.
        findings: Takes the problems.
    """
    auth = config.auth
    _check_names_and_paths(auth, config.metrics.path, findings)
    _check_pipeline(config, findings)
    for one in attrs.fields(type(auth.status_codes)):
        answer = getattr(auth.status_codes, one.name)
        _check_answer(answer, ("auth", "status_codes", key_name(one)), findings)


def _check_names_and_paths(auth: Auth, metrics_path: str, findings: Findings) -> None:
    at: KeyPath = ("auth", "header_names")
    if auth.enabled and not auth.header_names:
        findings.check(at, "is empty; want at least one, such as Authorization")
    for index, name in enumerate(auth.header_names):
        if not is_field_name(name):
            findings.check(
                (*at, index),
                f"{quoted(name)} is not a header's name; want letters, digits and dashes",
            )
        elif name.lower() == _ADMIN_HEADER:
            findings.check(
                (*at, index), f"{quoted(name)} is the header of the admin token; want another"
            )
    local_paths = tuple(dict.fromkeys((*LOCAL_PATHS, metrics_path)))
    for index, path in enumerate(auth.skip_paths):
        if path not in local_paths:
            findings.check(
                ("auth", "skip_paths", index),
                f"{quoted(path)} cannot be served without a key; "
                f"want only some of: {', '.join(local_paths)}",
            )


def _check_pipeline(config: Config, findings: Findings) -> None:
    at: KeyPath = ("auth", "pipeline")
    pipeline = config.auth.pipeline
    check_names(findings, [((*at, i, "name"), one.name) for i, one in enumerate(pipeline)])
    builtin: KeyPath = ()
    for index, provider in enumerate(pipeline):
        path = (*at, index)
        check_other_types(findings, provider, path, _WITH_SETTINGS)
        if provider.type == "builtin":
            if builtin:
                findings.check(
                    (*path, "type"), f"is builtin, and so is {path_text(builtin)}; want only one"
                )
            builtin = builtin or path
        elif provider.type == "redis":
            _check_redis(provider.redis, (*path, "redis"), config, findings)
        elif provider.type == "database":
            _check_database(provider.database, (*path, "database"), config, findings)
        elif provider.type == "webhook":
            _check_webhook(provider.webhook, (*path, "webhook"), findings)


def _check_redis(redis: RedisProvider, path: KeyPath, config: Config, findings: Findings) -> None:
    known = [one.name for one in config.storage.caches]
    _check_storage(redis.storage, (*path, "storage"), known, "caches", findings)
    rest = redis.key_pattern
    count = sum(map(rest.count, PLACEHOLDERS))
    for placeholder in PLACEHOLDERS:
        rest = rest.replace(placeholder, "")
    if count != 1 or "{" in rest or "}" in rest:
        findings.check(
            (*path, "key_pattern"),
            f"{quoted(redis.key_pattern)} cannot be filled in; "
            f"want {' or '.join(PLACEHOLDERS)} in it once, and no other braces",
        )
    _check_ages(redis, path, findings)


def _check_database(
    database: DatabaseProvider, path: KeyPath, config: Config, findings: Findings
) -> None:
    known = [one.name for one in config.storage.databases]
    _check_storage(database.storage, (*path, "storage"), known, "databases", findings)
    try:
        parse_table(database.table)
    except ValueError as error:
        findings.check((*path, "table"), f"{quoted(database.table)} {error}")
    if not is_identifier(database.key_column):
        findings.check(
            (*path, "key_column"),
            f"{quoted(database.key_column)} is not the name of a column; want {WANTED_IDENTIFIER}",
        )
    if database.storage and not database.fields:
        findings.check(
            (*path, "fields"),
            "is empty: every key in the table would be good, come what may; "
            "want the columns that restrict keys, such as status",
        )
    first: dict[str, KeyPath] = {}
    for index, entry in enumerate(database.fields):
        at = (*path, "fields", index)
        try:
            _, field = parse_field(entry)
        except ValueError as error:
            findings.check(at, f"{quoted(entry)} {error}")
            continue
        if field in first:
            findings.check(
                at, f"{quoted(entry)} gives {field}, as {path_text(first[field])} does; want one"
            )
        first.setdefault(field, at)
    _check_ages(database, path, findings)


def _check_storage(
    name: str, path: KeyPath, known: list[str], kind: str, findings: Findings
) -> None:
    at: KeyPath = ("storage", kind)
    check_reference(findings, path, name, known, at, f"a name of {path_text(at)}")


def _check_webhook(webhook: WebhookProvider, path: KeyPath, findings: Findings) -> None:
    try:
        check_service_url(webhook.url)
    except ValueError as error:
        findings.check((*path, "url"), f"{quoted(shown_url(webhook.url))} {error}")
    check_header_fields(webhook.headers, (*path, "headers"), findings)
    _check_ages(webhook, path, findings)


def _check_ages(
    settings: RedisProvider | DatabaseProvider | WebhookProvider, path: KeyPath, findings: Findings
) -> None:
    """Check that a verdict is asked for anew before it has become too old to hold."""
    interval_s, ttl_s = settings.recheck_interval, settings.cache_ttl
    if interval_s is not None and interval_s > ttl_s:
        findings.check(
            (*path, "recheck_interval"),
            f"{interval_s:g} seconds is longer than cache_ttl; want at most {ttl_s:g} seconds",
            needs=((*path, "cache_ttl"),),
        )


def _check_answer(answer: OwnAnswer, path: KeyPath, findings: Findings) -> None:
    code = answer.http_code
    if code is not None and code != 503 and not 400 <= code <= 499:
        findings.check(
            (*path, "http_code"), f"{code} is no status of a refusal; want 400 to 499, or 503"
        )
    if not answer.message.isprintable():
        findings.check(
            (*path, "message"),
            f"{quoted(answer.message)} cannot be printed; want one line, "
            "without control characters",
        )
