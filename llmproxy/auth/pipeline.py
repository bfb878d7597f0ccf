"""The sources of keys in a row, as the configuration asks for them.

It knows which class each configured type stands for; connections are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IResponse

from llmproxy.auth.all_of import AllOf
from llmproxy.auth.builtin import BuiltinSource
from llmproxy.auth.cached import CachedSource, CacheTimes
from llmproxy.auth.database_source import DatabaseSource
from llmproxy.auth.digests import DefaultIds, KeyDigests
from llmproxy.auth.first_match import FirstMatch
from llmproxy.auth.keyed import KeyAuthenticator
from llmproxy.auth.redis_source import RedisSource
from llmproxy.auth.static import StaticSource
from llmproxy.auth.succession import AskedSource, Pipeline
from llmproxy.auth.throttle import FailureThrottle
from llmproxy.auth.verdicts import Verdicts
from llmproxy.auth.webhook_source import WebhookClient, WebhookSource
from llmproxy.config.model_auth import Auth, Provider, StaticKey
from llmproxy.entitlements import NO_LIMITS, Limits
from llmproxy.errors import GatewayError
from llmproxy.interfaces import IDatabase, IKeySource, IKeyStore, IRedis

_T = TypeVar("_T")

BUILTIN_TIMES: Final = CacheTimes(recheck_interval_s=5.0, cache_ttl_s=60.0)
"""Of the key store, which tells of its changes: asking anew is but a net below that."""


@attrs.frozen(kw_only=True)
class Lookups:
    """Where keys can be looked up that do not stand in the file.

    Attributes:
        clock: The reactor's time.
        redis: By the names of ``storage.caches``.
        databases: By the names of ``storage.databases``.
        key_store: The admin API's; None: there is none.
        new_webhook_client: Makes a treq client without cookies of earlier questions.
        read_body: Reads an answer's body up to so many bytes, or fails.
    """

    clock: IReactorTime
    redis: Mapping[str, IRedis]
    databases: Mapping[str, IDatabase]
    key_store: IKeyStore | None
    new_webhook_client: Callable[[], WebhookClient]
    read_body: Callable[[IResponse, int], Deferred[bytes]]


def from_config(
    auth: Auth,
    api_keys: Sequence[StaticKey],
    *,
    secret: bytes,
    now: Callable[[], float],
    throttle: FailureThrottle | None = None,
    lookups: Lookups | None = None,
    per_key: Limits = NO_LIMITS,
    on_revoked: Callable[[str, GatewayError], None] | None = None,
    before: Pipeline | None = None,
) -> Pipeline | None:
    """Put the sources together that the configuration asks for.

    Args:
        auth: The section ``auth``.
        api_keys: The short form's list; asked last, and only with ``auth.storage: file``.
        secret: Random bytes of this process, under which keys are hashed.
        now: Gives the wall clock's time, seconds since the epoch.
        throttle: Counts unknown keys by address, as ``auth.failed_attempts`` says.
        lookups: Where other keys are; None: there are only those in the file.
        per_key: The limits of keys without limits of their own.
        on_revoked: Called with the id of a key that was good, and with why it is not any more; not
            for what `KeyAuthenticator.forget` was told.
        before: What these take the place of, with the same ``secret`` and ``on_revoked``; sources
            whose settings stay the same are taken from there.

    Returns:
        The sources; None: nobody is asked for a key.

    Raises:
        ValueError: A provider names what is not there.
    """
    if not auth.enabled:
        return None
    digests = KeyDigests(secret)

    def revoked(digest: bytes, key_id: str, error: GatewayError) -> None:
        if on_revoked is not None:
            on_revoked(authenticator.principal_id(digest, key_id), error)

    listed: list[StaticSource] = []
    ids = {
        digest: known.record.id
        for source in (() if before is None else before.listed)
        for digest, known in source.known()
    }
    asked: list[AskedSource] = []
    sources: list[Verdicts] = []
    for provider in auth.pipeline:
        if provider.type == "static":
            listed.append(
                StaticSource(provider.name, provider.static.keys, digests=digests, ids=ids)
            )
            sources.append(listed[-1])
            continue
        if lookups is None:
            raise ValueError(f"auth provider {provider.name!r}: type {provider.type!r}, not static")
        store = _store(provider, lookups)
        one = before.kept(provider, store) if before is not None else None
        if one is None:
            source = _source(provider, store, lookups, DefaultIds(provider.name, digests), now)
            cached = CachedSource(
                source, _times(provider), clock=lookups.clock, now=now, on_revoked=revoked
            )
            one = AskedSource(provider, store, source, cached)
        asked.append(one)
        sources.append(one.cached)
    if auth.storage == "file":
        listed.append(StaticSource("api_keys", api_keys, digests=digests, ids=ids))
        sources.append(listed[-1])
    verdicts: Verdicts
    if len(sources) == 1:
        verdicts = sources[0]
    elif auth.mode == "all":
        verdicts = AllOf(sources, per_key)
    else:
        verdicts = FirstMatch(sources)
    authenticator = KeyAuthenticator(
        verdicts,
        digests=digests,
        throttle=throttle,
        now=now,
        is_stored=lambda key_id: any(
            isinstance(one.source, BuiltinSource) and key_id in one.source.found_ids
            for one in asked
        ),
    )
    # Where all must agree, their words go by what was put together, which is not handed on.
    return Pipeline(authenticator, listed, () if auth.mode == "all" else asked)


def _store(provider: Provider, lookups: Lookups) -> Any:
    """Give what a source asks; a service is asked without."""
    if provider.type == "builtin":
        if lookups.key_store is None:
            raise ValueError(f"auth provider {provider.name!r}: there is no key store")
        return lookups.key_store
    if provider.type == "redis":
        return _named(lookups.redis, provider.redis.storage, provider)
    if provider.type == "database":
        return _named(lookups.databases, provider.database.storage, provider)
    return None


def _source(
    provider: Provider,
    store: Any,
    lookups: Lookups,
    ids: DefaultIds,
    now: Callable[[], float],
) -> IKeySource:
    """Make a source that must be waited for."""
    if provider.type == "builtin":
        return BuiltinSource(provider.name, store)
    if provider.type == "redis":
        return RedisSource(
            provider.name,
            store,
            provider.redis.key_pattern,
            ids=ids,
        )
    if provider.type == "database":
        database = provider.database
        return DatabaseSource(
            provider.name,
            store,
            table=database.table,
            key_column=database.key_column,
            key_hash=database.key_hash,
            fields=database.fields,
            ids=ids,
        )
    webhook = provider.webhook
    return WebhookSource(
        provider.name,
        url=webhook.url,
        headers=webhook.headers,
        timeout_s=webhook.timeout,
        new_client=lookups.new_webhook_client,
        read_body=lookups.read_body,
        clock=lookups.clock,
        now=now,
        ids=ids,
    )


def _named(things: Mapping[str, _T], name: str, provider: Provider) -> _T:
    if name not in things:
        raise ValueError(f"auth provider {provider.name!r}: there is no storage {name!r}")
    return things[name]


def _times(provider: Provider) -> CacheTimes:
    if provider.type == "builtin":
        return BUILTIN_TIMES
    if provider.type == "webhook":
        webhook = provider.webhook
        recheck_interval_s = webhook.recheck_interval
        return CacheTimes(
            recheck_interval_s=(
                webhook.cache_ttl if recheck_interval_s is None else recheck_interval_s
            ),
            cache_ttl_s=webhook.cache_ttl,
            negative_ttl_s=webhook.negative_ttl,
        )
    section = provider.redis if provider.type == "redis" else provider.database
    return CacheTimes(recheck_interval_s=section.recheck_interval, cache_ttl_s=section.cache_ttl)
