"""The stores: what others name, and the gateway's own file.

Part of the parts list: plain constructor calls. Stores are started before everything that uses
them, and stopped after it. Those that a reload does not change live on; those that it takes away
are stopped after a while, for somebody may still wait for their answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from os import urandom
from typing import Any, Final

import attrs
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from llmproxy.config.checks_admin import needs_db
from llmproxy.config.model import Config
from llmproxy.config.model_stores import Cache, Database
from llmproxy.errors import ConfigError, Problem
from llmproxy.interfaces import ICounterStore, IDatabase, IKeyStore, IRecordStore, IRedis
from llmproxy.stores.memory_counters import MemoryCounters
from llmproxy.stores.private_files import make_directory_of, make_empty

RETIRE_AFTER_S: Final = 60.0
"""How long a store lives on that nobody asks any more: longer than any answer takes."""


@attrs.frozen(eq=False)
class NamedStores:
    """The stores that a configuration names, and that something in it uses.

    Attributes:
        redis: Redis servers, by the names of ``storage.caches``.
        databases: SQL databases, by the names of ``storage.databases``.
        is_up: By the name of each: whether it answers, as far as is known.
        made: All of them, by their settings.
    """

    redis: Mapping[str, IRedis]
    databases: Mapping[str, IDatabase]
    is_up: Mapping[str, Callable[[], bool]] = attrs.field(repr=False)
    made: Mapping[Cache | Database, IService] = attrs.field(repr=False)


class Storage(MultiService):
    """All stores; only those that something uses are made.

    Args:
        config: The first configuration.
        reactor: The reactor.
        on_change: Called with the ids of stored keys that changed; None: any of them may have.

    Attributes:
        keys: The admin API's keys; None when there is no use for them.
        counters: Of quotas and usage: in the gateway's own file, or in memory where nothing else
            needs that file.
        records: Usage records to be asked for; None: no reporter keeps them here.

    Raises:
        ValueError: The gateway's own file cannot be used; so with `OSError`.
        ConfigError: A reporter's SQLite file cannot be made.
    """

    def __init__(
        self, config: Config, reactor: Any, on_change: Callable[[frozenset[str] | None], None]
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._retiring: dict[IService, IDelayedCall] = {}
        self._named = NamedStores({}, {}, {}, {})
        self.adopt(self.prepare(config))
        self.keys: IKeyStore | None = None
        self.counters: ICounterStore = MemoryCounters(time.time)
        self.records: IRecordStore | None = None
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
            for reporter in config.usage.reporters if config.usage.enabled else ():
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

    @property
    def redis(self) -> Mapping[str, IRedis]:
        """The Redis servers in use."""
        return self._named.redis

    @property
    def databases(self) -> Mapping[str, IDatabase]:
        """The SQL databases in use."""
        return self._named.databases

    @property
    def is_up(self) -> Mapping[str, Callable[[], bool]]:
        """By the name of each store in use that others are asked in: whether it answers."""
        return self._named.is_up

    def prepare(self, config: Config) -> NamedStores:
        """Make what another configuration names; nothing is connected to yet.

        Raises:
            ConfigError: A reporter's SQLite file cannot be made.
        """
        reporters = config.usage.reporters if config.usage.enabled else ()
        filled = {one.database.storage for one in reporters if one.type == "database"}
        used = [
            (provider.type, getattr(provider, provider.type).storage)
            for provider in config.auth.pipeline
            if config.auth.enabled and provider.type in ("redis", "database")
        ]
        if config.rate_limit.storage == "redis":
            used.append(("redis", config.rate_limit.redis))
        used += [("database", name) for name in filled]
        before = self._named.made
        made: dict[Cache | Database, IService] = {}
        redis: dict[str, IRedis] = {}
        databases: dict[str, IDatabase] = {}
        is_up: dict[str, Callable[[], bool]] = {}
        for cache in config.storage.caches:
            if ("redis", cache.name) in used:
                from llmproxy.stores.redis import RedisConnections

                server: Any = before.get(cache) or RedisConnections(cache, self._reactor)
                made[cache] = redis[cache.name] = server
                is_up[f"redis {cache.name}"] = partial(getattr, server, "is_up")
        for number, settings in enumerate(config.storage.databases):
            if ("database", settings.name) in used:
                from llmproxy.stores.databases import make_database

                if settings.name in filled and settings.driver == "sqlite":
                    _make_file(settings.path, f"storage.databases[{number}].path")
                database: Any = before.get(settings) or make_database(settings, self._reactor)
                made[settings] = databases[settings.name] = database
                is_up[f"database {settings.name}"] = partial(getattr, database, "is_up")
        return NamedStores(redis, databases, is_up, made)

    def adopt(self, named: NamedStores) -> None:
        """Start what is new, and let go of what is named no more."""
        before, after = self._named.made, named.made
        self._named = named
        for settings, store in after.items():
            if settings not in before:
                store.setServiceParent(self)
        for settings, store in before.items():
            if settings not in after:
                self._retiring[store] = self._reactor.callLater(RETIRE_AFTER_S, self._retire, store)

    def _retire(self, store: IService) -> None:
        del self._retiring[store]
        store.disownServiceParent()

    def stopService(self) -> Deferred[list[None]]:
        """Stop all stores, those as well that nobody asks any more."""
        for call in self._retiring.values():
            call.cancel()
        self._retiring.clear()
        return super().stopService()

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
