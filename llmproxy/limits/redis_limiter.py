"""Limits and quotas that are counted in Redis: exact over all processes that use the same one.

Everything that one request takes is taken by one script in one round trip, on Redis's own clock.
What it holds (its place among the requests at once, its reservation) is a lease there, which this
process keeps alive: if the process dies, the lease expires and all comes back by itself.

How exact that is:

- While Redis answers, no limit is overrun by any number of processes. A quota may be overrun by
  what running requests use beyond their reservations, as with one process.
- What was used is counted once, whatever becomes of connections and replies. A lease that expired
  before its request ended (Redis was away for longer than a lease lives) lets others in meanwhile;
  it is put back at the next renewal, and what its request used is counted at the end all the same.
- What is settled after a process was cut off from Redis waits for it; 10 000 requests at most.
- A limit that a reload brings counts the requests that begin after it.

This module knows when to ask and what to make of the answers; what is asked is in `redis_scripts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from llmproxy.config.model_stores import RateLimit
from llmproxy.entitlements import NO_LIMITS, Limits, LimitStanding, Quota, QuotaStanding, Standing
from llmproxy.errors import LimitsUnavailable, QuotaExceeded, RedisReplyError, StoreUnavailable
from llmproxy.interfaces import IGrant, ILimiter, IRedis
from llmproxy.limits.redis_grants import UNCOUNTED, Grant, UncheckedGrant, bounded
from llmproxy.limits.redis_leases import Leases
from llmproxy.limits.redis_outage import RedisOutage
from llmproxy.limits.redis_plan import Plan, counter_name, has_limits, id_in_name
from llmproxy.limits.redis_scripts import ACQUIRE, QUOTA_USED, SET_QUOTA_USED, STANDING
from llmproxy.limits.redis_settlements import Settlement, Settlements
from llmproxy.limits.refusal import Kind, Scope, hardest, refuse
from llmproxy.limits.rules import LimitRules
from llmproxy.values import Demand, Principal

LEASE_TTL_S: Final = 30.0
"""How long the leases of a process that died are held."""

MOST_PLANS: Final = 10_000
"""So many are kept; the oldest is forgotten and made again when it is needed."""

SLOW_S: Final = 0.1
PAUSE_S: Final = 0.5
"""After waiting for Redis for so long in vain, it is not asked for such a while: or each request
would wait as long."""

QUOTAS_IN_A_CALL: Final = 500


@implementer(ILimiter)
class RedisLimiter(Service):
    """Counts in Redis.

    While Redis cannot be asked, ``on_storage_failure`` decides: ``allow``: requests pass, and what
    they use of a quota is counted later; ``deny``: they are refused. Cancelling an acquisition
    gives back what it turns out to have taken: its requests, too.

    To be stopped after the last exchange has concluded, and before ``redis``.

    Args:
        settings: The section ``rate_limit``.
        redis: Where to count. Redis 5 or Valkey; a Redis Cluster cannot be used.
        process_id: Visible ASCII without quotes, different for each process that ever runs: random.
        clock: The reactor's time, for renewals.
        lease_ttl_s: How long leases live when they are not renewed.
        prefix: Before the names of all keys.
        now_us: Gives the time in whole microseconds since the epoch, instead of Redis: for tests.

    Attributes:
        allowed_unchecked: How many requests passed unchecked, ever.
        refused: How many requests each limit held up, ever, by whose it is and what it limits.
    """

    _log = Logger()

    def __init__(
        self,
        settings: RateLimit,
        redis: IRedis,
        *,
        process_id: str,
        clock: IReactorTime,
        lease_ttl_s: float = LEASE_TTL_S,
        prefix: str = "llmproxy:limits:",
        now_us: Callable[[], int] | None = None,
    ) -> None:
        self._redis = redis
        self._process_id = process_id
        self._clock = clock
        self._prefix = prefix.encode("utf-8")
        self._ttl_us = round(lease_ttl_s * 1e6)
        self._now_us = now_us
        self._outage = RedisOutage(self._back)
        self._settlements = Settlements(
            redis,
            name=self._prefix + b"settled:" + process_id.encode("ascii"),
            clock=clock,
            now=self._now,
            outage=self._outage,
        )
        self._leases = Leases(
            redis,
            ttl_us=self._ttl_us,
            clock=clock,
            now=self._now,
            outage=self._outage,
            settlements=self._settlements,
        )
        self._plans: dict[tuple[str, str | None], Plan] = {}
        self.hold_to(settings)
        self._last_lease = 0
        self._paused_until_s = 0.0
        self.allowed_unchecked = 0
        self.refused: Counter[tuple[Scope, Kind]] = Counter()

    def hold_to(self, settings: RateLimit) -> None:
        """Hold requests to other limits from now on; what was used stays used."""
        self._rules = LimitRules.from_config(settings)
        self._allows = settings.on_storage_failure == "allow"
        self._plans.clear()

    def __repr__(self) -> str:
        return (
            f"<RedisLimiter {self._process_id} running={self.leases} "
            f"pending={self.pending_settlements} failures={self.failures}>"
        )

    @property
    def failures(self) -> int:
        """How many calls to Redis failed, ever."""
        return self._outage.failures

    @property
    def pending_settlements(self) -> int:
        """How many settlements are not known to have reached Redis."""
        return self._settlements.pending

    @property
    def dropped_settlements(self) -> int:
        """How many settlements were lost, ever."""
        return self._settlements.dropped

    @property
    def leases(self) -> int:
        """How many leases this process keeps alive."""
        return len(self._leases)

    def startService(self) -> None:
        """Begin to renew leases."""
        super().startService()
        self._leases.start()

    def stopService(self) -> Deferred[Any]:
        """Renew nothing any more, and give back what can be given back now.

        Returns:
            A Deferred that fires when that is done, or when Redis cannot be asked. What is settled
            after that is sent all the same, once.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._leases.stop()
        await self._settlements.stop()

    def acquire(self, demand: Demand) -> Deferred[IGrant]:
        """Take a request's share of everything that limits it; see `ILimiter`."""
        plan = self._plan_for(demand.principal, demand.model_id)
        if not plan.limits_anything:
            return succeed(UNCOUNTED)
        self._last_lease += 1
        acquisition = _Acquisition(
            self, plan, f"{self._process_id}:{self._last_lease}", bounded(demand.tokens)
        )
        if self._outage.lasts and self._clock.seconds() < self._paused_until_s:
            acquisition.unavailable()
        else:
            acquisition.ask()
        return acquisition.answer

    async def _standing(self, principal: Principal) -> Standing:
        """Say how a key stands."""
        plan = self._make_plan(principal, self._scopes_of_key(principal))
        if not plan.limits_anything:
            return Standing({})
        reply = await self._told(STANDING, plan.names, (plan.text, self._now()))
        numbers = iter(reply)
        limits: dict[str, LimitStanding] = {}
        for scope in plan.scopes:
            running = int(next(numbers))
            for bucket in scope.buckets:
                limits[bucket.limit] = bucket.standing(float(next(numbers)))
            if scope.max_concurrent:
                limits["max_concurrent"] = LimitStanding(
                    scope.max_concurrent, max(scope.max_concurrent - running, 0)
                )
        quota = principal.quota
        if quota is None:
            return Standing(limits)
        used, reserved, end_s = map(int, numbers)
        return Standing(
            limits,
            QuotaStanding(
                quota.total, used, reserved, quota.period, float(end_s) if end_s else None
            ),
        )

    def standing(self, principal: Principal) -> Deferred[Standing]:
        """Say how a key stands; see `ILimiter`. Cancelling it leaves the answer unread."""
        return Deferred.fromCoroutine(self._standing(principal))

    def quota_used(self, quotas: Mapping[str, Quota]) -> Deferred[Mapping[str, int]]:
        """Say what is used; see `ILimiter`. Cancelling it leaves the answer unread."""
        return Deferred.fromCoroutine(self._quota_used(dict(quotas)))

    async def _quota_used(self, quotas: dict[str, Quota]) -> Mapping[str, int]:
        used: dict[str, int] = {}
        ids = list(quotas)
        for first in range(0, len(ids), QUOTAS_IN_A_CALL):
            some = ids[first : first + QUOTAS_IN_A_CALL]
            arguments: list[str | int] = [self._now()]
            for key_id in some:
                arguments += [quotas[key_id].period, quotas[key_id].used_before]
            names = [counter_name(self._prefix, key_id) for key_id in some]
            reply = await self._told(QUOTA_USED, names, arguments)
            used.update(zip(some, map(int, reply), strict=True))
        return used

    def set_quota_used(self, key_id: str, quota: Quota, tokens: int) -> Deferred[None]:
        """Set what is used; see `ILimiter`. Cancelling it leaves open whether it was set."""
        return Deferred.fromCoroutine(self._set_quota_used(key_id, quota, tokens))

    async def _set_quota_used(self, key_id: str, quota: Quota, tokens: int) -> None:
        await self._told(
            SET_QUOTA_USED,
            [counter_name(self._prefix, key_id)],
            (self._now(), quota.period, quota.used_before, bounded(tokens)),
        )

    async def _told(
        self, script: str, names: Sequence[bytes], arguments: Sequence[str | int]
    ) -> Any:
        """Ask Redis, after what this process has settled until now.

        Raises:
            StoreUnavailable: There is no answer that can be used.
        """
        settled = self._settlements.caught_up()
        if settled is not None:
            await settled
        try:
            reply = await self._redis.run_script(script, names, arguments)
        except StoreUnavailable as error:
            self._outage.failed(error)
            raise
        except RedisReplyError as error:
            self._outage.failed(error)
            raise StoreUnavailable(str(error)) from None
        self._outage.succeeded(wrote=script is SET_QUOTA_USED)
        return reply

    def _now(self) -> str:
        return "" if self._now_us is None else str(self._now_us())

    def _back(self) -> None:
        """Redis answers again: it may have lost what it held."""
        self._leases.renew()
        self._settlements.retry_now()

    def _plan_for(self, principal: Principal, model_id: str) -> Plan:
        """Give the plan for a key and a model, made before if possible."""
        limits = self._rules.per_model.get(model_id)
        place = principal.key_id, None if limits is None else model_id
        plan = self._plans.get(place)
        if (
            plan is not None
            and (plan.own_limits is principal.own_limits or plan.own_limits == principal.own_limits)
            and (plan.quota is principal.quota or plan.quota == principal.quota)
        ):
            return plan
        scopes = self._scopes_of_key(principal)
        if limits is not None and has_limits(limits):
            scopes.append(("model", id_in_name(model_id), limits))
        if has_limits(self._rules.overall):
            scopes.append(("global", b"", self._rules.overall))
        plan = self._make_plan(principal, scopes)
        self._plans.pop(place, None)
        if len(self._plans) >= MOST_PLANS:
            del self._plans[next(iter(self._plans))]
        self._plans[place] = plan
        return plan

    def _scopes_of_key(self, principal: Principal) -> list[tuple[Scope, bytes, Limits]]:
        limits = self._rules.of_key(principal.own_limits) if self._rules.enabled else NO_LIMITS
        return [("key", id_in_name(principal.key_id), limits)] if has_limits(limits) else []

    def _make_plan(
        self, principal: Principal, scopes: Sequence[tuple[Scope, bytes, Limits]]
    ) -> Plan:
        return Plan(
            scopes,
            principal.key_id,
            own_limits=principal.own_limits,
            quota=principal.quota,
            prefix=self._prefix,
            ttl_us=self._ttl_us,
        )


class _Acquisition:
    """One request that asks, until it is answered.

    Args:
        limiter: Whom it asks.
        plan: What limits it.
        lease: Its lease's name.
        tokens: What it asks for.

    Attributes:
        answer: Fires with the grant, or fails.
    """

    __slots__ = (
        "_again",
        "_asked",
        "_began_s",
        "_lease",
        "_limiter",
        "_plan",
        "_settling",
        "_tokens",
        "answer",
    )

    def __init__(self, limiter: RedisLimiter, plan: Plan, lease: str, tokens: int) -> None:
        self._limiter = limiter
        self._plan = plan
        self._lease = lease
        self._tokens = tokens
        self._again = False
        self._asked = False
        self._began_s = 0.0
        self._settling = False
        # Cancelled, it is errbacked at once; what Redis says later is given back.
        self.answer: Deferred[IGrant] = Deferred()

    def ask(self) -> None:
        limiter = self._limiter
        self._asked = False
        self._began_s = limiter._clock.seconds()
        self._settling = limiter._settlements.pending > 0
        reply = limiter._redis.run_script(
            ACQUIRE, self._plan.names, (self._plan.text, self._lease, self._tokens, limiter._now())
        )
        self._asked = not reply.called
        reply.addCallbacks(self._replied, self._failed).addErrback(self._broke)

    def _replied(self, reply: Any) -> None:
        limiter = self._limiter
        granted = not isinstance(reply, list)
        limiter._outage.succeeded(wrote=granted)
        if granted:
            self._granted(int(reply))
        elif self.answer.called:
            return
        elif reply[0] == b"exceeded":
            self.answer.errback(QuotaExceeded())
        elif self._settling and not self._again:
            # What this process gave back may have been overtaken by the question.
            self._again = True
            settled = limiter._settlements.caught_up() or succeed(None)
            settled.addCallback(self._ask_again).addErrback(self._broke)
        else:
            readings = self._plan.readings(reply, self._tokens)
            longest = hardest(readings)
            limiter.refused[longest.scope, longest.kind] += 1
            self.answer.errback(refuse(readings))

    def _ask_again(self, _: None) -> None:
        if not self.answer.called:
            self.ask()

    def _granted(self, hold: int) -> None:
        limiter, plan = self._limiter, self._plan
        if self.answer.called:
            limiter._settlements.add(Settlement(plan, "u", self._lease, self._tokens))
            return
        if plan.leased:
            limiter._leases.begin(self._lease, plan, hold)
        self.answer.callback(Grant(limiter._leases, plan, self._lease, self._tokens))

    def _failed(self, failure: Failure) -> None:
        failure.trap(StoreUnavailable, RedisReplyError)
        limiter = self._limiter
        limiter._outage.failed(failure.value)
        now_s = limiter._clock.seconds()
        if now_s - self._began_s >= SLOW_S:
            limiter._paused_until_s = now_s + PAUSE_S
        if self._asked and self._plan.leased:
            # It may have been done, or be done yet.
            limiter._settlements.add(Settlement(self._plan, "m", self._lease, self._tokens))
        if not self.answer.called:
            self.unavailable()

    def unavailable(self) -> None:
        """Answer without Redis."""
        limiter = self._limiter
        if not limiter._allows:
            self.answer.errback(LimitsUnavailable())
            return
        limiter.allowed_unchecked += 1
        if self._plan.quota is None:
            self.answer.callback(UNCOUNTED)
        else:
            self.answer.callback(UncheckedGrant(limiter._settlements, self._plan, self._lease))

    def _broke(self, failure: Failure) -> None:
        """Redis gave nonsense, or this is wrong: it is as if Redis were away."""
        self._limiter._log.failure("asking redis for a request's limits broke", failure=failure)
        if not self.answer.called:
            self.unavailable()
