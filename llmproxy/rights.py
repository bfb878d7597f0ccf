"""Who may do what, in one configuration: keys, limits, budgets, and what was used.

Part of the parts list: plain constructor calls, and the order in which these parts start and end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from os import urandom
from typing import TYPE_CHECKING, Any, Protocol

from treq.client import HTTPClient
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.web.client import Agent, HTTPConnectionPool

from llmproxy.auth.keyed import KeyAuthenticator
from llmproxy.auth.pipeline import Lookups, from_config
from llmproxy.auth.refusals import Refusals
from llmproxy.auth.revocation import Revocation
from llmproxy.auth.throttle import FailureThrottle
from llmproxy.auth.webhook_source import WebhookClient
from llmproxy.backends.bounded_body import read_bounded
from llmproxy.config.model import Config
from llmproxy.errors import GatewayError
from llmproxy.interfaces import IAuthenticator
from llmproxy.limits.memory_limiter import MemoryLimiter
from llmproxy.limits.rules import LimitRules
from llmproxy.storage import Storage
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


class Rights(MultiService):
    """The parts that say who may do what.

    Stopped after the last request has concluded, it writes what was used, and closes the stores
    when that is done.

    Args:
        config: The configuration.
        reactor: The reactor.
        running: The requests under way.

    Attributes:
        storage: Where all of it is kept.
        authenticator: Knows the keys.
        limiter: Holds requests to limits and budgets.
        totals: Add up what is used.
        restate: Puts the operator's own words and statuses into refusals.

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
        cuts = config.auth.on_revoke == "cut"
        failed = config.auth.failed_attempts
        authenticator = from_config(
            config.auth,
            config.api_keys,
            secret=urandom(32),
            now=time.time,
            throttle=FailureThrottle(failed.per_minute, failed.burst, clock=reactor),
            lookups=Lookups(
                clock=reactor,
                redis=storage.redis,
                databases=storage.databases,
                key_store=storage.keys,
                new_webhook_client=self._new_webhook_client,
                read_body=read_bounded,
            ),
            per_key=LimitRules.from_config(config.rate_limit).per_key,
            on_revoked=self._key_revoked if cuts else None,
        )
        self.authenticator: IAuthenticator = authenticator
        self._keys = authenticator if isinstance(authenticator, KeyAuthenticator) else None
        self._revocation: Revocation | None = None
        if cuts and self._keys is not None:
            self._revocation = Revocation(
                storage.keys,
                stored_id=self._keys.stored_id,
                running_keys=lambda: {one.key_id for one in running if one.key_id},
                cut=self._cut,
                clock=reactor,
                now=time.time,
            )
        self.restate: Callable[[GatewayError], GatewayError] = Refusals(
            config.auth.status_codes
        ).restate

    def __repr__(self) -> str:
        return f"<Rights {self.authenticator!r} {self.limiter!r} {self.storage!r}>"

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
        if self._keys is not None:
            self._keys.forget(key_ids)
        if self._revocation is not None:
            self._revocation.keys_changed(key_ids)

    def _key_revoked(self, key_id: str, error: GatewayError) -> None:
        if self._revocation is not None:
            self._revocation.key_revoked(key_id, error)

    def _cut(self, key_id: str, error: GatewayError) -> None:
        for one in tuple(self._running):
            if one.key_id == key_id:
                one.cut(self.restate(error))


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
