"""Who may do what: keys, limits, budgets, and what was used.

Part of the parts list: plain constructor calls, and the order in which these parts start and end.
What counts or keeps something is made once; what a configuration says of keys is made of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from os import urandom
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from treq.client import HTTPClient
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.web.client import Agent, HTTPConnectionPool

from llmproxy.auth.anonymous import AnonymousAuthenticator
from llmproxy.auth.pipeline import Lookups, from_config
from llmproxy.auth.refusals import Refusals
from llmproxy.auth.revocation import Revocation
from llmproxy.auth.succession import Pipeline, revoked
from llmproxy.auth.throttle import FailureThrottle
from llmproxy.auth.webhook_source import WebhookClient
from llmproxy.backends.bounded_body import read_bounded
from llmproxy.config.model import Config
from llmproxy.errors import GatewayError
from llmproxy.interfaces import IAuthenticator
from llmproxy.limits.memory_limiter import MemoryLimiter
from llmproxy.limits.rules import LimitRules
from llmproxy.storage import NamedStores, Storage
from llmproxy.usage.totals import UsageTotals

if TYPE_CHECKING:
    from llmproxy.limits.redis_limiter import RedisLimiter


class Running(Protocol):
    """A request under way."""

    @property
    def key_id(self) -> str:
        """The id of its key; empty before that is known."""

    def cut(self, error: GatewayError) -> None:
        """End it now."""


@attrs.frozen(eq=False)
class KeyRules:
    """What one configuration says of keys.

    Attributes:
        config: The configuration.
        stores: What it looks keys up in.
        throttle: Counts unknown keys by address.
        pipeline: Its sources of keys; None: everybody may come in.
        authenticator: Knows the keys.
        restate: Puts the operator's own words and statuses into refusals.
    """

    config: Config
    stores: NamedStores
    throttle: FailureThrottle
    pipeline: Pipeline | None
    authenticator: IAuthenticator
    restate: Callable[[GatewayError], GatewayError]


class Rights(MultiService):
    """The parts that say who may do what.

    Stopped after the last request has concluded, it writes what was used, and closes the stores
    when that is done.

    Args:
        config: The first configuration.
        reactor: The reactor.
        running: The requests under way.

    Attributes:
        storage: Where all of it is kept.
        limiter: Holds requests to limits and budgets.
        totals: Add up what is used.
        rules: What the configuration in force says of keys.

    Raises:
        ValueError: The gateway's own file cannot be used; so with `OSError`.
    """

    def __init__(self, config: Config, reactor: Any, running: Collection[Running]) -> None:
        super().__init__()
        self._reactor = reactor
        self._running = running
        self._questions = HTTPConnectionPool(reactor)
        self.storage = storage = Storage(config, reactor, self._keys_changed)
        self.limiter = _make_limiter(config, reactor, storage)
        self.totals = UsageTotals(storage.counters, reactor, time.time)
        for part in (self.limiter, self.totals):
            IService(part).setServiceParent(self)
        self._secret = urandom(32)
        self._revocation: Revocation | None = None
        self.rules = self._made(config, None)
        self._begin_revocation()

    def __repr__(self) -> str:
        return f"<Rights {self.rules.authenticator!r} {self.limiter!r} {self.storage!r}>"

    def prepare(self, config: Config) -> KeyRules:
        """Make what another configuration says of keys; nothing changes by that."""
        return self._made(config, self.rules)

    def adopt(self, rules: KeyRules) -> None:
        """Go by other rules from now on.

        What was used stays used. Requests of keys that were taken out of the file end as
        ``auth.on_revoke`` says.
        """
        before, self.rules = self.rules, rules
        self.storage.adopt(rules.stores)
        self.limiter.hold_to(rules.config.rate_limit)
        if self._revocation is not None:
            self._revocation.stop()
        self._begin_revocation()
        if self._revocation is not None:
            self._revocation.keys_changed(None)
            if before.pipeline is not None and rules.pipeline is not None:
                for key_id, error in revoked(before.pipeline, rules.pipeline, time.time()):
                    self._revocation.key_revoked(key_id, error)

    def _made(self, config: Config, before: KeyRules | None) -> KeyRules:
        auth, failed = config.auth, config.auth.failed_attempts
        stores = self.storage.prepare(config)
        if before is not None and before.config.auth.failed_attempts == failed:
            throttle = before.throttle
        else:
            throttle = FailureThrottle(failed.per_minute, failed.burst, clock=self._reactor)
        pipeline = from_config(
            auth,
            config.api_keys,
            secret=self._secret,
            now=time.time,
            throttle=throttle,
            lookups=Lookups(
                clock=self._reactor,
                redis=stores.redis,
                databases=stores.databases,
                key_store=self.storage.keys,
                new_webhook_client=self._new_webhook_client,
                read_body=read_bounded,
            ),
            per_key=LimitRules.from_config(config.rate_limit).per_key,
            on_revoked=self._key_revoked,
            before=None if before is None else before.pipeline,
        )
        return KeyRules(
            config=config,
            stores=stores,
            throttle=throttle,
            pipeline=pipeline,
            authenticator=AnonymousAuthenticator() if pipeline is None else pipeline.authenticator,
            restate=Refusals(auth.status_codes).restate,
        )

    def _begin_revocation(self) -> None:
        rules, running = self.rules, self._running
        self._revocation = None
        if rules.pipeline is not None and rules.config.auth.on_revoke == "cut":
            self._revocation = Revocation(
                self.storage.keys,
                stored_id=rules.pipeline.authenticator.stored_id,
                running_keys=lambda: {one.key_id for one in running if one.key_id},
                cut=self._cut,
                clock=self._reactor,
                now=time.time,
            )

    def startService(self) -> None:
        """Open the stores, then start what uses them."""
        self.storage.startService()
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Write what was used, then close the stores."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._revocation is not None:
            self._revocation.stop()
        await maybeDeferred(super().stopService)
        await maybeDeferred(self.storage.stopService)
        await self._questions.closeCachedConnections()

    def _new_webhook_client(self) -> WebhookClient:
        client: Any = HTTPClient(Agent(self._reactor, pool=self._questions))
        return client  # typed more closely than what is used of it

    def _keys_changed(self, key_ids: frozenset[str] | None) -> None:
        if self.rules.pipeline is not None:
            self.rules.pipeline.authenticator.forget(key_ids)
        if self._revocation is not None:
            self._revocation.keys_changed(key_ids)

    def _key_revoked(self, key_id: str, error: GatewayError) -> None:
        if self._revocation is not None:
            self._revocation.key_revoked(key_id, error)

    def _cut(self, key_id: str, error: GatewayError) -> None:
        for one in tuple(self._running):
            if one.key_id == key_id:
                one.cut(self.rules.restate(error))


def _make_limiter(config: Config, reactor: Any, storage: Storage) -> MemoryLimiter | RedisLimiter:
    """Make the limiter that the configuration asks for."""
    settings = config.rate_limit
    if settings.storage == "redis":
        from llmproxy.limits.redis_limiter import RedisLimiter

        return RedisLimiter(
            settings,
            storage.redis[settings.redis],
            process_id=urandom(8).hex(),
            clock=reactor,
        )
    return MemoryLimiter(
        settings,
        clock=reactor,
        monotonic_ns=time.monotonic_ns,
        now=time.time,
        counters=storage.counters,
    )
