"""Tests of `llmproxy.limits.redis_grants`."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from llmproxy.entitlements import Quota
from llmproxy.interfaces import IGrant
from llmproxy.limits.redis_grants import MOST_TOKENS, UNCOUNTED, Grant, UncheckedGrant, bounded
from llmproxy.limits.redis_leases import Leases
from llmproxy.limits.redis_outage import RedisOutage
from llmproxy.limits.redis_plan import Plan
from llmproxy.limits.redis_settlements import Settlements
from tests.limits.fake_redis import FakeRedis

PLAN = Plan([], "a", own_limits=None, quota=Quota(10), prefix=b"p:", ttl_us=30_000_000)


class Rig:
    """Leases and settlements over a Redis that says nothing."""

    def __init__(self) -> None:
        clock, outage = Clock(), RedisOutage(lambda: None)
        self.redis = FakeRedis()
        self.settlements = Settlements(
            self.redis, name=b"settled", clock=clock, now=lambda: "", outage=outage
        )
        self.leases = Leases(
            self.redis,
            ttl_us=30_000_000,
            clock=clock,
            now=lambda: "",
            outage=outage,
            settlements=self.settlements,
        )

    def items(self) -> list[list[Any]]:
        """Give what was sent, without the number of the plan."""
        return [item[1:] for call in self.redis.calls for item in json.loads(call.arguments[3])]


def test_settled_once() -> None:
    """The lease ends, and what was used is told; whatever comes after that is not."""
    rig = Rig()
    rig.leases.begin("p:1", PLAN, 4)
    grant = Grant(rig.leases, PLAN, "p:1", 4)
    verifyObject(IGrant, grant)
    assert repr(grant) == "<Grant p:1 settled=False>"
    grant.settle(3)
    grant.settle(9)
    assert repr(grant) == "<Grant p:1 settled=True>"
    assert len(rig.leases) == 0
    assert rig.items() == [["s", "p:1", 4, 3]]
    assert rig.settlements.pending == 1


def test_unchecked() -> None:
    """Only what was used is told, once."""
    rig = Rig()
    grant = UncheckedGrant(rig.settlements, PLAN, "p:1")
    verifyObject(IGrant, grant)
    grant.settle(3)
    grant.settle(3)
    assert repr(grant) == "<Grant p:1 unchecked settled=True>"
    assert rig.items() == [["c", "p:1", 0, 3]]


def test_uncounted() -> None:
    """Nothing is told, however often it is settled."""
    verifyObject(IGrant, UNCOUNTED)
    UNCOUNTED.settle(3)
    UNCOUNTED.settle(3)
    assert repr(UNCOUNTED) == "<Grant without limits>"


def test_bounded() -> None:
    """Numbers that Lua cannot count are the nearest that it can."""
    assert [bounded(n) for n in (-1, 0, 7, 10**40)] == [0, 0, 7, MOST_TOKENS]
