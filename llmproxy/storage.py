"""The stores of one configuration: what others name, and the gateway's own file.

Part of the parts list: plain constructor calls. Stores are started before everything that uses
them, and stopped after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from os import urandom
from typing import Any

from twisted.application.service import MultiService

from llmproxy.config.checks_admin import needs_db
from llmproxy.config.model import Config
from llmproxy.errors import ConfigError, Problem
from llmproxy.interfaces import ICounterStore, IDatabase, IKeyStore, IRecordStore, IRedis
from llmproxy.stores.memory_counters import MemoryCounters
from llmproxy.stores.private_files import make_directory_of, make_empty


class Storage(MultiService):
    """All stores; only those that something uses are made.

    Args:
        config: The configuration.
        reactor: The reactor.
        on_change: Called with the ids of stored keys that changed; None: any of them may have.

    Attributes:
        redis: Redis servers, by the names of ``storage.caches``.
        databases: SQL databases, by the names of ``storage.databases``.
        keys: The admin API's keys; None when there is no use for them.
        counters: Of quotas and usage: in the gateway's own file, or in memory where nothing else
            needs that file.
        records: Usage records to be asked for; None: no reporter keeps them here.
        is_up: By the name of each store that others are asked in: whether it answers, as far as is
            known.

    Raises:
        ValueError: The gateway's own file cannot be used; so with `OSError`.
        ConfigError: A reporter's SQLite file cannot be made.
    """

    def __init__(
        self, config: Config, reactor: Any, on_change: Callable[[frozenset[str] | None], None]
    ) -> None:
        super().__init__()
        self.redis: dict[str, IRedis] = {}
        self.databases: dict[str, IDatabase] = {}
        self.keys: IKeyStore | None = None
        self.counters: ICounterStore = MemoryCounters(time.time)
        self.records: IRecordStore | None = None
        reporters = config.usage.reporters if config.usage.enabled else ()
        filled = {one.database.storage for one in reporters if one.type == "database"}
        self.is_up: dict[str, Callable[[], bool]] = {}
        used = [
            (provider.type, getattr(provider, provider.type).storage)
            for provider in config.auth.pipeline
            if config.auth.enabled and provider.type in ("redis", "database")
        ]
        if config.rate_limit.storage == "redis":
            used.append(("redis", config.rate_limit.redis))
        used += [("database", name) for name in filled]
        for cache in config.storage.caches:
            if ("redis", cache.name) in used:
                from llmproxy.stores.redis import RedisConnections

                redis = RedisConnections(cache, reactor)
                redis.setServiceParent(self)
                self.redis[cache.name] = redis
                self.is_up[f"redis {cache.name}"] = partial(getattr, redis, "is_up")
        for number, settings in enumerate(config.storage.databases):
            if ("database", settings.name) in used:
                from llmproxy.stores.databases import make_database

                if settings.name in filled and settings.driver == "sqlite":
                    _make_file(settings.path, f"storage.databases[{number}].path")

                database = make_database(settings, reactor)
                database.setServiceParent(self)
                self.databases[settings.name] = database
                self.is_up[f"database {settings.name}"] = partial(getattr, database, "is_up")
        if needs_db(config):
            from llmproxy.stores.counters import SqliteCounters
            from llmproxy.stores.key_secret import load_key_secret
            from llmproxy.stores.key_store import SqliteKeyStore
            from llmproxy.stores.sqlite import SqliteFile

            file = SqliteFile(config.admin.db_path, reactor=reactor)
            file.setServiceParent(self)
            keys = SqliteKeyStore(
                file,
                secret=load_key_secret(config.admin),
                now=time.time,
                random_bytes=urandom,
                clock=reactor,
                on_change=on_change,
            )
            keys.setServiceParent(self)
            self.keys = keys
            self.counters = SqliteCounters(file, time.time)
            for reporter in reporters:
                if reporter.type == "builtin":
                    from llmproxy.stores.usage_records import SqliteRecords

                    records = SqliteRecords(
                        file,
                        retention_days=reporter.builtin.retention_days,
                        clock=reactor,
                        now=time.time,
                    )
                    records.setServiceParent(self)
                    self.records = records

    def __repr__(self) -> str:
        return (
            f"<Storage redis={sorted(self.redis)} databases={sorted(self.databases)} "
            f"keys={self.keys!r} {self.counters!r} {self.records!r}>"
        )


def _make_file(path: str, key: str) -> None:
    """Make an empty SQLite file for what is going to be written there, unless there is one."""
    try:
        make_directory_of(path)
        make_empty(path)
    except OSError as error:
        raise ConfigError((Problem(key, str(error)),)) from error
