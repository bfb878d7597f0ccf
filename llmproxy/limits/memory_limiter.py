"""Limits that are counted in this process.

Nothing is waited for here, but for a budget's counter the first time that its key is seen. So each
request is decided and counted in one turn of the reactor: all of its limits, or none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from llmproxy.config.model_stores import RateLimit
from llmproxy.entitlements import NO_LIMITS, Limits, Quota, Standing
from llmproxy.errors import GatewayError, QuotaExceeded
from llmproxy.interfaces import ICounterStore, IGrant, ILimiter
from llmproxy.limits.quota_counter import QuotaCounter
from llmproxy.limits.quotas import QuotaLedger
from llmproxy.limits.refusal import LEASE_WAIT_S, Kind, Reading, Scope, hardest, refuse
from llmproxy.limits.rules import LimitRules
from llmproxy.limits.scope import ScopeCount
from llmproxy.values import Demand, Principal

SWEEP_INTERVAL_S: Final = 60.0
"""How often what says nothing any more is forgotten: memory is for the keys in use."""


@implementer(ILimiter)
class MemoryLimiter(Service):
    """Holds requests to limits that it counts in memory.

    To be stopped after the last exchange has concluded: then the budgets are written a last time.

    Args:
        settings: The section ``rate_limit``.
        clock: Of sweeps and flushes.
        monotonic_ns: Gives nanoseconds that never run backwards: of buckets.
        now: Gives the wall clock's time, seconds since the epoch: of the periods of quotas.
        counters: Where budgets are kept; None: nowhere.

    Attributes:
        refused: How many requests each limit held up, ever, by whose it is and what it limits.
    """

    _log = Logger()

    def __init__(
        self,
        settings: RateLimit,
        *,
        clock: IReactorTime,
        monotonic_ns: Callable[[], int],
        now: Callable[[], float],
        counters: ICounterStore | None = None,
    ) -> None:
        self.refused: Counter[tuple[Scope, Kind]] = Counter()
        self._now = now
        self.monotonic_ns = monotonic_ns
        self.ledger = QuotaLedger(counters, clock=clock, now=now)
        self._overall: ScopeCount | None = None
        self._models: dict[str, ScopeCount] = {}
        self._keys: dict[str, ScopeCount] = {}
        self.hold_to(settings)
        self._free = _FreeGrant()
        self._sweeps = LoopingCall(self._swept)
        self._sweeps.clock = clock

    def __repr__(self) -> str:
        return f"<MemoryLimiter keys={len(self._keys)} {self.ledger!r}>"

    def hold_to(self, settings: RateLimit) -> None:
        """Hold requests to other limits from now on.

        What was used stays used, and who runs still counts; but where nothing was limited before,
        only requests that begin from now on are counted.
        """
        self._rules = rules = LimitRules.from_config(settings)
        self.ledger.deny = settings.on_storage_failure == "deny"
        now_ns = self.monotonic_ns()
        self._overall = _held(self._overall, "global", rules.overall, now_ns)
        models = {
            model: _held(self._models.get(model), "model", limits, now_ns)
            for model, limits in rules.per_model.items()
        }
        self._models = {model: count for model, count in models.items() if count is not None}
        self._keys_are_free = rules.per_key == NO_LIMITS
        for key in self._keys.values():
            key.hold_to(rules.of_key(key.own), key.own, now_ns)

    def startService(self) -> None:
        """Begin to flush and to sweep."""
        super().startService()
        self.ledger.start()
        self._sweeps.start(SWEEP_INTERVAL_S, now=False)

    def stopService(self) -> Deferred[Any]:
        """Write what was used, and end."""
        super().stopService()
        if self._sweeps.running:
            self._sweeps.stop()
        return Deferred.fromCoroutine(self.ledger.stop())

    def acquire(self, demand: Demand) -> Deferred[IGrant]:
        """Take a request's share of everything that limits it; see `ILimiter`."""
        principal = demand.principal
        quota = principal.quota
        if quota is None:
            return self._decide(demand, None, None)
        counter = self.ledger.find(principal.key_id, quota, self._now())
        if counter is None:
            loaded = self.ledger.load(principal.key_id, quota)
            return loaded.addCallback(lambda _: self.acquire(demand))
        return self._decide(demand, quota, counter)

    def _decide(
        self, demand: Demand, quota: Quota | None, counter: QuotaCounter | None
    ) -> Deferred[IGrant]:
        """Look at everything, then take everything; a budget comes first, for it hopes for nothing.

        The scopes are written out one after the other, for every request comes this way.
        """
        now_ns = self.monotonic_ns()
        principal = demand.principal
        tokens = demand.tokens
        if tokens < 0:
            tokens = 0  # a client may ask for an answer of any length
        admitted = True
        if quota is not None and counter is not None:
            self.ledger.note(principal.key_id, counter)
            used = counter.used
            if used >= quota.total:
                return fail(QuotaExceeded())
            admitted = used + counter.reserved < quota.total
        key = self._key_scope(principal, now_ns)
        model = self._models.get(demand.model_id)
        overall = self._overall
        if not (
            admitted
            and (key is None or key.admits(tokens, now_ns))
            and (model is None or model.admits(tokens, now_ns))
            and (overall is None or overall.admits(tokens, now_ns))
        ):
            return fail(self._refusal((key, model, overall), tokens, now_ns, not admitted))
        if key is None and model is None and overall is None and counter is None:
            return succeed(self._free)
        grant = _Grant(self, principal.key_id)
        if key is not None:
            grant.key = key
            grant.key_reserved = key.begin(tokens, now_ns)
        if model is not None:
            grant.model = model
            grant.model_reserved = model.begin(tokens, now_ns)
        if overall is not None:
            grant.overall = overall
            grant.overall_reserved = overall.begin(tokens, now_ns)
        if quota is not None and counter is not None:
            grant.counter = counter
            grant.quota_reserved = counter.reserve(tokens, quota.total)
        return succeed(grant)

    def _refusal(
        self,
        scopes: tuple[ScopeCount | None, ...],
        tokens: int,
        now_ns: int,
        quota_is_held: bool,
    ) -> GatewayError:
        readings = [
            reading
            for scope in scopes
            if scope is not None
            for reading in scope.readings(tokens, now_ns)
        ]
        if quota_is_held:
            readings.append(Reading("key", "quota", LEASE_WAIT_S))
        longest = hardest(readings)
        self.refused[longest.scope, longest.kind] += 1
        return refuse(readings)

    def end(self, grant: _Grant, tokens: int) -> None:
        """Count a grant that is settled; for the grant only."""
        if tokens < 0:
            tokens = 0  # a backend may tell anything
        now_ns = self.monotonic_ns()
        if grant.key is not None:
            grant.key.end(grant.key_reserved, tokens, now_ns)
        if grant.model is not None:
            grant.model.end(grant.model_reserved, tokens, now_ns)
        if grant.overall is not None:
            grant.overall.end(grant.overall_reserved, tokens, now_ns)
        counter = grant.counter
        if counter is not None:
            counter.settle(grant.quota_reserved, tokens, self._now())
            self.ledger.note(grant.key_id, counter)

    def standing(self, principal: Principal) -> Deferred[Standing]:
        """Say how a key stands; see `ILimiter`."""
        return Deferred.fromCoroutine(self._standing(principal))

    async def _standing(self, principal: Principal) -> Standing:
        quota = principal.quota
        budget = None
        if quota is not None:
            budget = await self.ledger.standing(principal.key_id, quota)
        now_ns = self.monotonic_ns()
        key = self._key_scope(principal, now_ns)
        return Standing({} if key is None else key.standing(now_ns), budget)

    def quota_used(self, quotas: Mapping[str, Quota]) -> Deferred[Mapping[str, int]]:
        """Say how many tokens are used; see `ILimiter`."""
        return Deferred.fromCoroutine(self.ledger.used(quotas))

    def set_quota_used(self, key_id: str, quota: Quota, tokens: int) -> Deferred[None]:
        """Set what is used of a quota; see `ILimiter`."""
        return Deferred.fromCoroutine(self.ledger.set_used(key_id, quota, tokens))

    def _key_scope(self, principal: Principal, now_ns: int) -> ScopeCount | None:
        own = principal.own_limits
        if own is None:
            if self._keys_are_free:
                return None
        elif not self._rules.enabled:
            return None
        key = self._keys.get(principal.key_id)
        if key is None:
            key = ScopeCount("key", self._rules.of_key(own), own)
            self._keys[principal.key_id] = key
        elif key.own is not own:
            # A source may make the same principal anew: the comparison by identity is for speed.
            if key.own != own:
                key.hold_to(self._rules.of_key(own), own, now_ns)
            key.own = own
        return key

    def _swept(self) -> Deferred[None]:
        return maybeDeferred(self._sweep).addErrback(self._sweep_failed)

    def _sweep_failed(self, failure: Failure) -> None:
        self._log.failure("a sweep failed; the next one comes", failure)

    def _sweep(self) -> None:
        now_ns = self.monotonic_ns()
        idle = [key_id for key_id, key in self._keys.items() if key.is_idle(now_ns)]
        for key_id in idle:
            del self._keys[key_id]
        self.ledger.sweep()


def _held(count: ScopeCount | None, scope: Scope, limits: Limits, now_ns: int) -> ScopeCount | None:
    """Give what counts a scope under these limits; None when there is nothing to count."""
    if limits == NO_LIMITS:
        return None
    if count is None:
        return ScopeCount(scope, limits)
    count.hold_to(limits, None, now_ns)
    return count


@implementer(IGrant)
class _FreeGrant:
    """What a request gets that nothing limits; one for all of them."""

    def __repr__(self) -> str:
        return "<grant without limits>"

    def settle(self, tokens: int) -> None:
        """Count nothing."""


@implementer(IGrant)
class _Grant:
    """What one request was given; the scopes that it runs in, and what it has reserved in each."""

    __slots__ = (
        "_limiter",
        "counter",
        "key",
        "key_id",
        "key_reserved",
        "model",
        "model_reserved",
        "overall",
        "overall_reserved",
        "quota_reserved",
    )

    def __init__(self, limiter: MemoryLimiter, key_id: str) -> None:
        self._limiter: MemoryLimiter | None = limiter
        self.key_id = key_id
        self.key: ScopeCount | None = None
        self.model: ScopeCount | None = None
        self.overall: ScopeCount | None = None
        self.counter: QuotaCounter | None = None
        self.key_reserved = self.model_reserved = self.overall_reserved = 0
        self.quota_reserved = 0

    def __repr__(self) -> str:
        state = "settled" if self._limiter is None else "running"
        return f"<grant of {self.key_id!r}, {state}>"

    def settle(self, tokens: int) -> None:
        """Give back what was lent, and count what was used; see `IGrant`."""
        limiter = self._limiter
        if limiter is not None:
            self._limiter = None  # whatever calls it again, it is counted once
            limiter.end(self, tokens)
