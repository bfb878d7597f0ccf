"""The configuration model: ``rate_limit``, ``storage`` and ``admin``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from llmproxy.config.setting import Duration, Secret, setting


@attrs.frozen(kw_only=True)
class Limits:
    """``rate_limit.global``, ``per_key`` and ``per_model``: 0 is no limit."""

    requests_per_second: int = setting("requests in a second", 0, minimum=0)
    requests_per_minute: int = setting("requests in a minute", 0, minimum=0)
    tokens_per_minute: int = setting("tokens in a minute, prompts and answers", 0, minimum=0)
    max_concurrent: int = setting("requests at once", 0, minimum=0)
    burst_size: int = setting(
        "requests that may come at once before the rates hold; 0: those of a second or minute",
        0,
        minimum=0,
    )


@attrs.frozen(kw_only=True)
class RateLimit:
    """``rate_limit``: how much may be asked."""

    enabled: bool = setting("hold requests to the limits; quotas are held to anyway", True)
    storage: Literal["memory", "redis"] = setting(
        "where limits and quotas are counted; redis: exact over workers and replicas", "memory"
    )
    redis: str = setting("with storage: redis, a name of storage.caches", "")
    global_: Limits = setting("all requests together", factory=Limits, key="global")
    per_key: Limits = setting("each key, unless it has limits of its own", factory=Limits)
    per_model: Mapping[str, Limits] = setting("all requests for a model, by its id", factory=dict)
    on_storage_failure: Literal["allow", "deny"] = setting(
        "what becomes of requests while redis cannot be asked; deny: 503", "allow"
    )


@attrs.frozen(kw_only=True)
class Database:
    """``storage.databases[]``: one SQL database."""

    name: str = setting("unique; what others call it")
    driver: Literal["postgres", "mysql", "sqlite"] = setting("mysql: MariaDB, too", "sqlite")
    dsn: Secret = setting(
        "postgres: a connection string or URL; mysql: a URL; empty: the keys below",
        Secret(""),
        secret=True,
    )
    dsn_file: str = setting("file to read dsn from", "")
    host: str = setting("its host, or the directory of its socket", "127.0.0.1")
    port: int = setting("its port; 0: the driver's own", 0, minimum=0)
    user: str = setting("who logs in", "")
    password: Secret = setting("their password", Secret(""), secret=True)
    password_file: str = setting("file to read password from", "")
    database: str = setting("the name of the database", "")
    path: str = setting("the file, for sqlite", "")
    pool_size: int = setting("connections at most", 10, minimum=1)
    timeout: Duration = setting("of connecting, and of each query", Duration(5.0), minimum=0.01)


@attrs.frozen(kw_only=True)
class Cache:
    """``storage.caches[]``: one Redis server."""

    name: str = setting("unique; what others call it")
    driver: Literal["redis"] = setting("Valkey, too", "redis")
    addr: str = setting("host:port", "127.0.0.1:6379")
    username: str = setting("for ACLs; empty: the default user", "")
    password: Secret = setting("for AUTH", Secret(""), secret=True)
    password_file: str = setting("file to read password from", "")
    db: int = setting("number of the database", 0, minimum=0)
    timeout: Duration = setting("of connecting, and of each answer", Duration(1.0), minimum=0.01)
    pool_size: int = setting("connections", 2, minimum=1)


@attrs.frozen(kw_only=True)
class Storage:
    """``storage``: databases and caches that other sections name."""

    databases: tuple[Database, ...] = setting("SQL databases", ())
    caches: tuple[Cache, ...] = setting("Redis servers", ())


@attrs.frozen(kw_only=True)
class Admin:
    """``admin``: the admin API, and the key store behind it."""

    enabled: bool = setting("serve the admin API", False)
    token: Secret = setting(
        "sent as X-Admin-Token by who administers; at least 16 characters", Secret(""), secret=True
    )
    token_file: str = setting("file to read token from", "")
    listen: str = setting("address of its own; see server.listen", "127.0.0.1:8010")
    db_path: str = setting(
        "SQLite file of keys, quotas and usage; made when it is needed", "./data/llmproxy.db"
    )
    key_secret: Secret = setting(
        "under which keys are hashed at rest; empty: made once, in a file beside db_path",
        Secret(""),
        secret=True,
    )
    key_secret_file: str = setting("file to read key_secret from", "")
