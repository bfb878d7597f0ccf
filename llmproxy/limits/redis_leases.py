"""The leases of this process in Redis, which are kept alive while their requests run.

It knows nothing of how leases are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmproxy.errors import RedisReplyError, StoreUnavailable
from llmproxy.interfaces import IRedis
from llmproxy.limits.redis_outage import RedisOutage
from llmproxy.limits.redis_plan import Plan
from llmproxy.limits.redis_scripts import RENEW
from llmproxy.limits.redis_settlements import Settlement, Settlements

BATCH: Final = 200
"""So many are renewed in one call."""


class Leases:
    """Renews leases three times in their life.

    A lease that Redis has lost is put back. So that none is put back after its end, what ends while
    its renewal is on its way is told to Redis after that.

    Args:
        redis: Where they are.
        ttl_us: How long they live, in microseconds.
        clock: The reactor's time.
        now: The argument ``now`` of the scripts.
        outage: Is told of each call.
        settlements: Takes what ends.
    """

    _log = Logger()

    def __init__(
        self,
        redis: IRedis,
        *,
        ttl_us: int,
        clock: IReactorTime,
        now: Callable[[], str],
        outage: RedisOutage,
        settlements: Settlements,
    ) -> None:
        self._redis = redis
        self._ttl_us = ttl_us
        self._now = now
        self._outage = outage
        self._settlements = settlements
        self._alive: dict[str, tuple[Plan, int]] = {}
        self._renewing: dict[str, Settlement | None] = {}
        self._rounds = DeferredLock()
        self._loop = LoopingCall(self.renew)
        self._loop.clock = clock

    def __repr__(self) -> str:
        return f"<Leases alive={len(self._alive)} renewing={len(self._renewing)}>"

    def __len__(self) -> int:
        return len(self._alive)

    def start(self) -> None:
        """Begin to renew."""
        self._loop.start(self._ttl_us / 3e6, now=False)

    async def stop(self) -> None:
        """Renew nothing any more, and give back all leases; their requests may still be settled."""
        if self._loop.running:
            self._loop.stop()
        await self._rounds.run(_nothing)
        for lease, (plan, _) in self._alive.items():
            self._settlements.add(Settlement(plan, "r", lease))
        self._alive.clear()

    def begin(self, lease: str, plan: Plan, hold: int) -> None:
        """Keep a lease alive from now on; ``hold`` is what it reserves of the quota."""
        self._alive[lease] = plan, hold

    def end(self, settlement: Settlement) -> None:
        """Settle a request; its lease is not kept any more."""
        lease = settlement.lease
        self._alive.pop(lease, None)
        if lease in self._renewing:
            self._renewing[lease] = settlement
        else:
            self._settlements.add(settlement)

    def renew(self) -> Deferred[None]:
        """Renew all, after the round that may be under way; the Deferred never fails."""
        return self._rounds.run(self._renew_all).addErrback(self._broke)

    async def _renew_all(self) -> None:
        leases = iter(tuple(self._alive))
        while batch := list(islice(leases, BATCH)):
            if not await self._renew_some([lease for lease in batch if lease in self._alive]):
                return

    async def _renew_some(self, leases: list[str]) -> bool:
        """Renew a batch; say whether Redis answered."""
        if not leases:
            return True
        names: list[bytes] = []
        offsets: dict[Plan, int] = {}
        items: list[str] = []
        for lease in leases:
            plan, hold = self._alive[lease]
            offset = offsets.get(plan)
            if offset is None:
                offset = offsets[plan] = len(names)
                names += plan.names
            items.append(f'[{offset},"{lease}",{hold},{plan.renewal}]')
        self._renewing = dict.fromkeys(leases)
        try:
            await self._redis.run_script(
                RENEW, names, (self._ttl_us, self._now(), f"[{','.join(items)}]")
            )
        except (StoreUnavailable, RedisReplyError) as error:
            self._outage.failed(error)
            return False
        finally:
            ended, self._renewing = self._renewing, {}
            for settlement in ended.values():
                if settlement is not None:
                    self._settlements.add(settlement)
        self._outage.succeeded()
        return True

    def _broke(self, failure: Failure) -> None:
        self._log.failure("renewing leases broke; the next round comes", failure=failure)


def _nothing() -> None:
    """Stand for the round that is waited for."""
