"""The configuration model: ``auth`` and the keys that stand in the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from llmproxy.config.setting import Cidr, Duration, Secret, Timestamp, setting


@attrs.frozen(kw_only=True)
class OwnLimits:
    """``rate_limit`` of one key: overrides ``rate_limit.per_key``, key by key."""

    requests_per_second: int | None = setting("null: as per_key; 0: no limit", None, minimum=0)
    requests_per_minute: int | None = setting("null: as per_key; 0: no limit", None, minimum=0)
    tokens_per_minute: int | None = setting("null: as per_key; 0: no limit", None, minimum=0)
    max_concurrent: int | None = setting("null: as per_key; 0: no limit", None, minimum=0)
    burst_size: int | None = setting("null: as per_key", None, minimum=0)


@attrs.frozen(kw_only=True)
class StaticKey:
    """One key of a static list."""

    key: Secret = setting("the secret that the client sends", Secret(""), secret=True)
    key_file: str = setting("file to read key from", "")
    name: str = setting("for humans and logs", "")
    user_id: str = setting("whose it is", "")
    status: Literal["active", "disabled"] = setting("a disabled key is answered 403", "active")
    starts_at: Timestamp | None = setting("before it the key is refused; null: no start", None)
    expires_at: Timestamp | None = setting("the end of its life; null: never", None)
    allowed_models: tuple[str, ...] = setting("model ids (globs); empty: all", ())
    allowed_ips: tuple[Cidr, ...] = setting("networks; empty: all", ())
    denied_ips: tuple[Cidr, ...] = setting("networks; stronger than allowed_ips", ())
    total_quota: int | None = setting("tokens in a period; null: no quota", None, minimum=0)
    used_quota: int = setting("where counting starts, the first time", 0, minimum=0)
    quota_reset_period: Literal["daily", "weekly", "monthly", "never"] = setting(
        "when the quota is whole again: at midnight, Monday or the first, in UTC", "never"
    )
    rate_limit: OwnLimits = setting("limits of its own", factory=OwnLimits)
    metadata: Mapping[str, str] = setting("whatever else is to be known of it", factory=dict)


@attrs.frozen(kw_only=True)
class StaticProvider:
    """``auth.pipeline[].static``: keys in the file itself."""

    keys: tuple[StaticKey, ...] = setting("the keys", ())


@attrs.frozen(kw_only=True)
class RedisProvider:
    """``auth.pipeline[].redis``: keys in Redis, each a hash or a string of JSON."""

    storage: str = setting("a name of storage.caches", "")
    key_pattern: str = setting(
        "where a key's record is; {api_key} or {sha256} (its hex digest) is put in",
        "llmproxy:key:{api_key}",
    )
    recheck_interval: Duration = setting(
        "a verdict older than that is asked for anew", Duration(1.0)
    )
    cache_ttl: Duration = setting("how long a verdict holds while redis is down", Duration(60.0))


@attrs.frozen(kw_only=True)
class DatabaseProvider:
    """``auth.pipeline[].database``: keys in a table."""

    storage: str = setting("a name of storage.databases", "")
    table: str = setting("the table; a schema may stand before it", "api_keys")
    key_column: str = setting("the column with the key", "key")
    key_hash: Literal["none", "sha256"] = setting(
        "what is in that column: the key itself, or the hex digest of it", "none"
    )
    fields: tuple[str, ...] = setting(
        "columns to read; each is named as a key's field, or COLUMN as FIELD", ()
    )
    recheck_interval: Duration = setting(
        "a verdict older than that is asked for anew", Duration(1.0)
    )
    cache_ttl: Duration = setting(
        "how long a verdict holds while the database is down", Duration(60.0)
    )


@attrs.frozen(kw_only=True)
class WebhookProvider:
    """``auth.pipeline[].webhook``: a service that is asked for each key."""

    url: str = setting("where to; it is sent a POST", "")
    headers: Mapping[str, str] = setting("further headers to send", factory=dict, secret=True)
    timeout: Duration = setting("of one question", Duration(5.0), minimum=0.01)
    recheck_interval: Duration | None = setting(
        "a verdict older than that is asked for anew; null: as cache_ttl", None
    )
    cache_ttl: Duration = setting(
        "how long a verdict holds; also while the service is down", Duration(60.0)
    )
    negative_ttl: Duration = setting("how long an unknown key stays unknown", Duration(5.0))


@attrs.frozen(kw_only=True)
class Provider:
    """``auth.pipeline[]``: one source of keys."""

    name: str = setting("unique; seen in logs")
    type: Literal["static", "builtin", "redis", "database", "webhook"] = setting(
        "the kind of source; builtin is the admin API's key store"
    )
    static: StaticProvider = setting("for type static", factory=StaticProvider)
    redis: RedisProvider = setting("for type redis", factory=RedisProvider)
    database: DatabaseProvider = setting("for type database", factory=DatabaseProvider)
    webhook: WebhookProvider = setting("for type webhook", factory=WebhookProvider)


@attrs.frozen(kw_only=True)
class OwnAnswer:
    """``auth.status_codes.*``: how one kind of refusal is answered."""

    http_code: int | None = setting("the status; null: our own", None, minimum=400)
    message: str = setting("for the person at the client; empty: our own", "")


@attrs.frozen(kw_only=True)
class StatusCodes:
    """``auth.status_codes``: own answers for refused keys."""

    not_found: OwnAnswer = setting("no key, or an unknown one (401)", factory=OwnAnswer)
    disabled: OwnAnswer = setting("a key that was switched off (403)", factory=OwnAnswer)
    expired: OwnAnswer = setting("a key that has expired, or not begun (403)", factory=OwnAnswer)
    ip_not_allowed: OwnAnswer = setting("called from elsewhere (403)", factory=OwnAnswer)
    model_not_allowed: OwnAnswer = setting("a model not for this key (403)", factory=OwnAnswer)
    quota_exceeded: OwnAnswer = setting("the budget is spent (402)", factory=OwnAnswer)


@attrs.frozen(kw_only=True)
class FailedAttempts:
    """``auth.failed_attempts``: unknown keys from one address, which are looked up no more."""

    per_minute: int = setting("how many, on the average; 0: no limit", 30, minimum=0)
    burst: int = setting("how many at once", 30, minimum=1)


@attrs.frozen(kw_only=True)
class Auth:
    """``auth``: who may use the gateway."""

    enabled: bool = setting("without it everybody may", True)
    header_names: tuple[str, ...] = setting(
        'tried in order, the first non-empty wins; Authorization gives what follows "Bearer "',
        ("Authorization", "X-API-Key"),
    )
    mode: Literal["first_match", "all"] = setting(
        "the first source that knows a key decides, or all of them must agree", "first_match"
    )
    skip_paths: tuple[str, ...] = setting(
        "local paths served without a key", ("/health", "/ready", "/metrics")
    )
    storage: Literal["", "file"] = setting('"file": the keys are the top-level api_keys', "")
    pipeline: tuple[Provider, ...] = setting("sources of keys, in order", ())
    status_codes: StatusCodes = setting("own answers for refused keys", factory=StatusCodes)
    on_revoke: Literal["finish", "cut"] = setting(
        "what becomes of a key's running requests when it is switched off", "finish"
    )
    failed_attempts: FailedAttempts = setting(
        "unknown keys from one address", factory=FailedAttempts
    )
