"""What every `ILimiter` must do, told by cases; `walk` does the same with random schedules.

To be mixed into a trial ``TestCase`` that says how to make a limiter (`MakesRigs`).
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError

from llmproxy.config.model_stores import RateLimit
from llmproxy.entitlements import LimitStanding, OwnLimits, Quota, QuotaStanding
from llmproxy.errors import QuotaExceeded, QuotaReserved, RateLimited
from tests.limits.rig import (
    START_S,
    MakesRigs,
    close_to,
    demand,
    fields_of,
    key,
    limits,
    refused,
    remaining,
    settle,
    standing,
    take,
    wait_of,
)

DAY_S = 86_400

ODD_IDS = (
    "",
    "a:b",
    "a\0b",
    "{a}",
    "*",
    "'; DROP TABLE keys; --",
    "\r\nFLUSHALL\r\n",
    "ключ \N{OLD KEY}",
    "x" * 5_000,
    "x" * 5_000 + "y",
)


class RateContract:
    """Rates: buckets of requests and of tokens."""

    async def test_burst_then_rate(self: MakesRigs) -> None:
        """As many as fit come at once; the next one exactly when a place is refilled."""
        rig = await self.make_rig(RateLimit(per_key=limits(requests_per_second=4)))
        for _ in range(4):
            await take(rig)
        error = await refused(rig)
        assert type(error) is RateLimited
        assert error.status == 429
        assert close_to(wait_of(error), 0.25)
        rig.advance(0.249)
        assert close_to(wait_of(await refused(rig)), 0.001)
        rig.advance(0.001)
        await take(rig)
        await refused(rig)

    async def test_refusals_are_counted(self: MakesRigs) -> None:
        """By whose limit it was and what it limits; what passes is not."""
        rig = await self.make_rig(
            RateLimit(
                per_key=limits(requests_per_minute=2, max_concurrent=3),
                per_model={"m": limits(tokens_per_minute=100)},
            )
        )
        counted: Any = rig.limiter
        await take(rig, demand(tokens=90))
        assert dict(counted.refused) == {}
        await refused(rig, demand(tokens=20))
        await take(rig)
        await refused(rig)
        await refused(rig)
        assert dict(counted.refused) == {("model", "tokens"): 1, ("key", "requests"): 2}

    async def test_bucket_is_never_fuller_than_full(self: MakesRigs) -> None:
        """However long nobody comes, only a bucketful may come at once."""
        rig = await self.make_rig(RateLimit(per_key=limits(requests_per_second=2)))
        await take(rig)
        rig.advance(100_000.0)
        await take(rig)
        await take(rig)
        await refused(rig)

    async def test_requests_per_minute_with_burst(self: MakesRigs) -> None:
        """A burst size makes the bucket smaller or larger; the rate stays."""
        rig = await self.make_rig(RateLimit(per_key=limits(requests_per_minute=30, burst_size=2)))
        await take(rig)
        await take(rig)
        assert close_to(wait_of(await refused(rig)), 2.0)
        rig.advance(2.0)
        await take(rig)
        await refused(rig)

    async def test_a_wait_that_is_no_round_number(self: MakesRigs) -> None:
        """Who waits as long as told gets in, also where the rate does not divide a second."""
        rig = await self.make_rig(RateLimit(per_key=limits(requests_per_minute=7, burst_size=1)))
        for _ in range(20):
            await take(rig)
            wait_s = wait_of(await refused(rig))
            assert close_to(wait_s, 60 / 7)
            rig.advance(int(wait_s * 1_000_000 + 0.999) / 1_000_000)

    async def test_both_rates(self: MakesRigs) -> None:
        """Both must have room; the longer wait is told."""
        rig = await self.make_rig(
            RateLimit(per_key=limits(requests_per_second=2, requests_per_minute=3))
        )
        await take(rig)
        await take(rig)
        assert close_to(wait_of(await refused(rig)), 0.5)
        rig.advance(1.0)
        await take(rig)
        error = await refused(rig)
        assert close_to(wait_of(error), 19.0)
        assert fields_of(error)["x-ratelimit-limit-requests"] == "3"

    async def test_tokens_are_reserved_and_given_back(self: MakesRigs) -> None:
        """What was not used comes back, and no more than was taken."""
        rig = await self.make_rig(RateLimit(per_key=limits(tokens_per_minute=600)))
        grant = await take(rig, demand(tokens=400))
        assert await remaining(rig, "tokens_per_minute") == 200
        assert close_to(wait_of(await refused(rig, demand(tokens=300))), 10.0)
        await take(rig, demand(tokens=200))
        await settle(rig, grant, 50)
        assert await remaining(rig, "tokens_per_minute") == 350
        rig.advance(60.0)
        assert await remaining(rig, "tokens_per_minute") == 600

    async def test_refund_does_not_overfill(self: MakesRigs) -> None:
        """A bucket that was refilled meanwhile takes no more than fits."""
        rig = await self.make_rig(RateLimit(per_key=limits(tokens_per_minute=600)))
        grant = await take(rig, demand(tokens=600))
        rig.advance(45.0)
        await settle(rig, grant, 0)
        assert await remaining(rig, "tokens_per_minute") == 600
        await take(rig, demand(tokens=600))
        await refused(rig, demand(tokens=1))

    async def test_debt(self: MakesRigs) -> None:
        """Who used more than was reserved waits until that is refilled."""
        rig = await self.make_rig(RateLimit(per_key=limits(tokens_per_minute=60)))
        grant = await take(rig, demand(tokens=10))
        await settle(rig, grant, 90)
        assert await remaining(rig, "tokens_per_minute") == 0
        assert close_to(wait_of(await refused(rig, demand(tokens=1))), 31.0)
        rig.advance(31.0)
        await take(rig, demand(tokens=1))
        await refused(rig, demand(tokens=1))

    async def test_demand_over_the_bucket(self: MakesRigs) -> None:
        """A request for more than the bucket holds passes when it is full."""
        rig = await self.make_rig(RateLimit(per_key=limits(tokens_per_minute=60)))
        grant = await take(rig, demand(tokens=1_000))
        assert close_to(wait_of(await refused(rig, demand(tokens=1_000))), 60.0)
        await settle(rig, grant, 60)
        rig.advance(59.0)
        assert close_to(wait_of(await refused(rig, demand(tokens=1_000))), 1.0)
        rig.advance(1.0)
        await take(rig, demand(tokens=1_000))

    async def test_less_than_nothing(self: MakesRigs) -> None:
        """Whatever a client asks for or a backend tells, nobody gains tokens by it."""
        rig = await self.make_rig(RateLimit(per_key=limits(tokens_per_minute=60)))
        owner = key(quota=Quota(100))
        await take(rig, demand(owner, tokens=10))
        grant = await take(rig, demand(owner, tokens=-40))
        before = await standing(rig, owner)
        assert before.limits["tokens_per_minute"].remaining == 50
        assert before.quota == QuotaStanding(100, 0, 10, "never")
        await settle(rig, grant, -40)
        assert await standing(rig, owner) == before

    async def test_least_wait(self: MakesRigs) -> None:
        """No refusal asks for less than a millisecond."""
        rig = await self.make_rig(RateLimit(per_key=limits(requests_per_second=5_000)))
        for _ in range(5_000):
            await take(rig)
        assert wait_of(await refused(rig)) == 0.001

    async def test_headers(self: MakesRigs) -> None:
        """The fields tell the bucket that refused, else the one with the fewest left."""
        rig = await self.make_rig(
            RateLimit(
                global_=limits(requests_per_second=100, tokens_per_minute=6_000),
                per_key=limits(requests_per_minute=2, tokens_per_minute=60_000),
            )
        )
        await take(rig, demand(tokens=1_500))
        rig.advance(0.5)
        await take(rig, demand(tokens=100))
        assert fields_of(await refused(rig, demand(tokens=1))) == {
            "x-ratelimit-limit-requests": "2",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "59.5s",
            "x-ratelimit-limit-tokens": "6000",
            "x-ratelimit-remaining-tokens": "4450",
            "x-ratelimit-reset-tokens": "15.5s",
        }

    async def test_no_headers_for_what_is_not_limited(self: MakesRigs) -> None:
        """Without a bucket of tokens there are no fields about tokens."""
        rig = await self.make_rig(RateLimit(per_key=limits(requests_per_second=1)))
        await take(rig)
        assert sorted(fields_of(await refused(rig))) == [
            "x-ratelimit-limit-requests",
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
        ]


class ScopeContract:
    """Scopes, requests at once, and what holds for all of them."""

    async def test_requests_at_once(self: MakesRigs) -> None:
        """So many run at once; when one ends the next may come."""
        rig = await self.make_rig(RateLimit(per_key=limits(max_concurrent=2)))
        first = await take(rig)
        await take(rig)
        rig.advance(10.0)
        error = await refused(rig)
        assert wait_of(error) == 1.0
        assert fields_of(error) == {}
        assert await remaining(rig, "max_concurrent") == 0
        await settle(rig, first, 7)
        await take(rig)
        await refused(rig)

    async def test_settled_twice(self: MakesRigs) -> None:
        """Only the first time counts."""
        rig = await self.make_rig(
            RateLimit(per_key=limits(max_concurrent=2, tokens_per_minute=600))
        )
        owner = key(quota=Quota(1_000))
        first = await take(rig, demand(owner, tokens=100))
        await take(rig, demand(owner, tokens=100))
        for _ in range(3):
            await settle(rig, first, 30)
        stands = await standing(rig, owner)
        assert stands.limits["max_concurrent"].remaining == 1
        assert stands.limits["tokens_per_minute"].remaining == 470
        assert stands.quota == QuotaStanding(1_000, 30, 100, "never")

    async def test_each_key_by_itself(self: MakesRigs) -> None:
        """One key's requests do not count for another; a global limit counts them all."""
        rig = await self.make_rig(
            RateLimit(global_=limits(requests_per_minute=3), per_key=limits(requests_per_minute=2))
        )
        await take(rig, demand(key("a")))
        await take(rig, demand(key("a")))
        assert "key" in str(await refused(rig, demand(key("a"))))
        await take(rig, demand(key("b")))
        assert "gateway" in str(await refused(rig, demand(key("b"))))

    async def test_each_model_by_itself(self: MakesRigs) -> None:
        """A model's limits count for all keys, and for no other model."""
        rig = await self.make_rig(RateLimit(per_model={"big": limits(max_concurrent=1)}))
        await take(rig, demand(key("a"), model_id="big"))
        assert "model" in str(await refused(rig, demand(key("b"), model_id="big")))
        for _ in range(5):
            await take(rig, demand(key("b"), model_id="small"))

    async def test_all_or_nothing(self: MakesRigs) -> None:
        """What one scope refuses costs nothing in the others."""
        rig = await self.make_rig(
            RateLimit(
                global_=limits(requests_per_minute=10, max_concurrent=10),
                per_key=limits(requests_per_minute=10, tokens_per_minute=100, max_concurrent=10),
                per_model={"big": limits(max_concurrent=1)},
            )
        )
        owner = key(quota=Quota(1_000))
        grant = await take(rig, demand(owner, tokens=10, model_id="big"))
        before = await standing(rig, owner)
        for _ in range(30):
            await refused(rig, demand(owner, tokens=10, model_id="big"))
        assert await standing(rig, owner) == before
        await settle(rig, grant, 10)
        for _ in range(9):
            await take(rig, demand(owner, tokens=1, model_id="small"))
        assert "gateway" in str(await refused(rig, demand(key("b"))))

    async def test_the_longest_wait_is_told(self: MakesRigs) -> None:
        """Of several that refuse, the message and the wait are of the one that lasts longest."""
        rig = await self.make_rig(
            RateLimit(
                global_=limits(requests_per_minute=1),
                per_key=limits(requests_per_second=1, max_concurrent=1),
            )
        )
        await take(rig)
        error = await refused(rig)
        assert close_to(wait_of(error), 60.0)
        assert "gateway" in str(error)

    async def test_own_limits(self: MakesRigs) -> None:
        """A key's own limits stand in the place of those of every key; 0 lifts one."""
        rig = await self.make_rig(
            RateLimit(per_key=limits(requests_per_minute=1, max_concurrent=2))
        )
        own = key("own", own=OwnLimits(requests_per_minute=0, max_concurrent=3))
        for _ in range(3):
            await take(rig, demand(own))
        assert wait_of(await refused(rig, demand(own))) == 1.0
        assert set((await standing(rig, own)).limits) == {"max_concurrent"}
        await take(rig, demand(key("other")))
        assert close_to(wait_of(await refused(rig, demand(key("other")))), 60.0)

    async def test_own_limits_alone(self: MakesRigs) -> None:
        """They hold also where keys have no limits else."""
        rig = await self.make_rig(RateLimit())
        await take(rig, demand(key("own", own=OwnLimits(requests_per_minute=1))))
        await refused(rig, demand(key("own", own=OwnLimits(requests_per_minute=1))))
        for _ in range(5):
            await take(rig, demand(key("other")))

    async def test_limits_that_change(self: MakesRigs) -> None:
        """A key's new limits hold for its next request; what runs goes on counting."""
        rig = await self.make_rig(RateLimit())
        await take(rig, demand(key("a", own=OwnLimits(max_concurrent=1))))
        second = await take(rig, demand(key("a", own=OwnLimits(max_concurrent=2))))
        await refused(rig, demand(key("a", own=OwnLimits(max_concurrent=1))))
        await settle(rig, second)
        await refused(rig, demand(key("a", own=OwnLimits(max_concurrent=1))))
        await take(rig, demand(key("a", own=OwnLimits(max_concurrent=2))))

    async def test_cancelled(self: MakesRigs) -> None:
        """Who does not want it any more holds nothing."""
        rig = await self.make_rig(RateLimit(per_key=limits(max_concurrent=1)))
        owner = key(quota=Quota(100))
        asked = rig.limiter.acquire(demand(owner, tokens=100))
        asked.cancel()
        try:
            grant = await asked
        except CancelledError:
            pass
        else:  # it was there before it could be cancelled
            grant.settle(0)
        await rig.rest()
        stands = await standing(rig, owner)
        assert stands.limits["max_concurrent"].remaining == 1
        assert stands.quota == QuotaStanding(100, 0, 0, "never")

    async def test_switched_off(self: MakesRigs) -> None:
        """Without rate limits only quotas are held to."""
        rig = await self.make_rig(
            RateLimit(
                enabled=False,
                global_=limits(max_concurrent=1),
                per_key=limits(max_concurrent=1),
                per_model={"m": limits(max_concurrent=1)},
            )
        )
        owner = key(own=OwnLimits(requests_per_minute=1), quota=Quota(10))
        for _ in range(10):
            await take(rig, demand(owner))
        assert type(await refused(rig, demand(owner))) is QuotaReserved
        assert (await standing(rig, owner)).limits == {}

    async def test_nothing_is_limited(self: MakesRigs) -> None:
        """Then everything passes, and settling counts for nothing."""
        rig = await self.make_rig(RateLimit())
        grants = [await take(rig, demand(tokens=1_000_000)) for _ in range(50)]
        for grant in grants:
            await settle(rig, grant, 5)
        stands = await standing(rig)
        assert stands.limits == {}
        assert stands.quota is None

    async def test_odd_ids(self: MakesRigs) -> None:
        """Ids are any text, and each is only itself."""
        rig = await self.make_rig(
            RateLimit(
                per_key=limits(max_concurrent=1),
                per_model={name: limits(max_concurrent=1) for name in ODD_IDS},
            )
        )
        for name in ODD_IDS:
            owner = key(name, quota=Quota(10))
            grant = await take(rig, demand(owner, tokens=10, model_id=name))
            assert "key" in str(await refused(rig, demand(key(name), model_id="other")))
            assert "model" in str(await refused(rig, demand(key("other"), model_id=name)))
            await settle(rig, grant, 10)
            assert type(await refused(rig, demand(owner))) is QuotaExceeded

    async def test_standing(self: MakesRigs) -> None:
        """A key's holder sees each limit: its size, what is left, and when it is whole again."""
        rig = await self.make_rig(
            RateLimit(
                global_=limits(max_concurrent=100),
                per_key=limits(
                    requests_per_second=5,
                    requests_per_minute=60,
                    tokens_per_minute=6_000,
                    max_concurrent=3,
                    burst_size=20,
                ),
            )
        )
        assert (await standing(rig)).limits == {
            "requests_per_second": LimitStanding(20, 20),
            "requests_per_minute": LimitStanding(20, 20),
            "tokens_per_minute": LimitStanding(6_000, 6_000),
            "max_concurrent": LimitStanding(3, 3),
        }
        await take(rig, demand(tokens=100))
        seen = (await standing(rig)).limits
        assert {name: stands.remaining for name, stands in seen.items()} == {
            "requests_per_second": 19,
            "requests_per_minute": 19,
            "tokens_per_minute": 5_900,
            "max_concurrent": 2,
        }
        assert close_to(seen["requests_per_second"].reset_s, 0.2)
        assert close_to(seen["requests_per_minute"].reset_s, 1.0)
        assert close_to(seen["tokens_per_minute"].reset_s, 1.0)
        assert seen["max_concurrent"].reset_s == 0


class ReloadContract:
    """Other limits, while requests run."""

    async def test_another_rate(self: MakesRigs) -> None:
        """What was used stays used; what is new counts from now on."""
        rig = await self.make_rig(RateLimit(per_key=limits(requests_per_minute=10)))
        for _ in range(6):
            await take(rig)
        rig.limiter.hold_to(RateLimit(per_key=limits(requests_per_minute=8)))
        assert await remaining(rig, "requests_per_minute") == 2
        rig.limiter.hold_to(RateLimit(per_key=limits(requests_per_minute=6)))
        assert type(await refused(rig)) is RateLimited
        rig.limiter.hold_to(RateLimit(per_key=limits(requests_per_minute=60)))
        assert await remaining(rig, "requests_per_minute") == 54

    async def test_fewer_at_once_than_run(self: MakesRigs) -> None:
        """Those that run go on; the next is let in when there are few enough."""
        rig = await self.make_rig(RateLimit(per_key=limits(max_concurrent=3)))
        grants = [await take(rig) for _ in range(3)]
        rig.limiter.hold_to(RateLimit(per_key=limits(max_concurrent=2)))
        for grant in grants[:2]:
            assert type(await refused(rig)) is RateLimited
            await settle(rig, grant)
        await take(rig)
        assert type(await refused(rig)) is RateLimited

    async def test_limits_that_go_and_come(self: MakesRigs) -> None:
        """Nothing limits while there are none; who began meanwhile can be settled later."""
        settings = RateLimit(
            per_key=limits(max_concurrent=1),
            global_=limits(max_concurrent=1),
            per_model={"m": limits(max_concurrent=1)},
        )
        rig = await self.make_rig(settings)
        grants = [await take(rig)]
        rig.limiter.hold_to(RateLimit(enabled=False))
        grants += [await take(rig) for _ in range(3)]
        rig.limiter.hold_to(settings)
        for grant in grants:
            await settle(rig, grant)
        last = await take(rig)
        assert type(await refused(rig)) is RateLimited
        await settle(rig, last)
        await take(rig)


class QuotaContract:
    """Budgets of tokens."""

    async def test_spent(self: MakesRigs) -> None:
        """A spent budget is not a matter of patience."""
        rig = await self.make_rig(RateLimit())
        owner = key(quota=Quota(100))
        grant = await take(rig, demand(owner, tokens=60))
        await settle(rig, grant, 100)
        error = await refused(rig, demand(owner))
        assert type(error) is QuotaExceeded
        assert error.status == 402
        assert error.retry_after_s is None
        assert error.headers == ()

    async def test_nothing_in_it(self: MakesRigs) -> None:
        """A budget of nothing is spent from the beginning."""
        rig = await self.make_rig(RateLimit())
        assert type(await refused(rig, demand(key(quota=Quota(0))))) is QuotaExceeded

    async def test_held_by_running_requests(self: MakesRigs) -> None:
        """What is reserved may come back: so wait."""
        rig = await self.make_rig(RateLimit())
        owner = key(quota=Quota(100))
        first = await take(rig, demand(owner, tokens=80))
        await take(rig, demand(owner, tokens=80))
        assert (await standing(rig, owner)).quota == QuotaStanding(100, 0, 100, "never")
        error = await refused(rig, demand(owner))
        assert type(error) is QuotaReserved
        assert error.status == 429
        assert wait_of(error) == 1.0
        await settle(rig, first, 30)
        assert (await standing(rig, owner)).quota == QuotaStanding(100, 30, 20, "never")
        await take(rig, demand(owner, tokens=80))
        assert (await standing(rig, owner)).quota == QuotaStanding(100, 30, 70, "never")

    async def test_overdrawn(self: MakesRigs) -> None:
        """A running request may use more than was left; that is counted, not hidden."""
        rig = await self.make_rig(RateLimit())
        owner = key(quota=Quota(100))
        grant = await take(rig, demand(owner, tokens=500))
        await settle(rig, grant, 450)
        assert (await standing(rig, owner)).quota == QuotaStanding(100, 450, 0, "never")
        assert type(await refused(rig, demand(owner))) is QuotaExceeded

    async def test_spent_comes_before_rates(self: MakesRigs) -> None:
        """Waiting would not help, so waiting is not asked for."""
        rig = await self.make_rig(RateLimit(per_key=limits(requests_per_minute=1)))
        owner = key(quota=Quota(10))
        await settle(rig, await take(rig, demand(owner, tokens=10)), 10)
        assert type(await refused(rig, demand(owner))) is QuotaExceeded

    async def test_refused_by_a_rate(self: MakesRigs) -> None:
        """Nothing of the budget is reserved for a request that did not pass."""
        rig = await self.make_rig(RateLimit(per_key=limits(requests_per_minute=1)))
        owner = key(quota=Quota(100))
        await take(rig, demand(owner, tokens=10))
        assert type(await refused(rig, demand(owner, tokens=10))) is RateLimited
        assert (await standing(rig, owner)).quota == QuotaStanding(100, 0, 10, "never")

    async def test_where_counting_starts(self: MakesRigs) -> None:
        """The first time, counting starts where the key's record says; once only."""
        rig = await self.make_rig(RateLimit())
        owner = key(quota=Quota(100, used_before=90))
        await settle(rig, await take(rig, demand(owner, tokens=5)), 5)
        assert (await standing(rig, owner)).quota == QuotaStanding(100, 95, 0, "never")
        await settle(rig, await take(rig, demand(owner, tokens=50)), 5)
        assert type(await refused(rig, demand(owner))) is QuotaExceeded

    async def test_whole_again(self: MakesRigs) -> None:
        """At midnight UTC, exactly, a daily budget is whole again; with 0, not ``used_before``."""
        rig = await self.make_rig(RateLimit(), now_s=START_S + DAY_S - 1)
        owner = key(quota=Quota(100, "daily", used_before=40))
        await settle(rig, await take(rig, demand(owner, tokens=60)), 60)
        rig.advance(0.999_999)
        assert type(await refused(rig, demand(owner))) is QuotaExceeded
        rig.advance(0.000_001)
        assert (await standing(rig, owner)).quota == QuotaStanding(
            100, 0, 0, "daily", START_S + 2 * DAY_S
        )
        await take(rig, demand(owner, tokens=100))

    async def test_longer_periods(self: MakesRigs) -> None:
        """Weeks begin on Monday, months on the first."""
        rig = await self.make_rig(RateLimit())
        weekly, monthly = key("w", quota=Quota(9, "weekly")), key("m", quota=Quota(9, "monthly"))
        for owner in (weekly, monthly):
            await settle(rig, await take(rig, demand(owner, tokens=9)), 9)
        rig.advance(DAY_S - 1)
        await refused(rig, demand(monthly))
        rig.advance(1)  # Friday, 1 March
        await take(rig, demand(monthly))
        rig.advance(3 * DAY_S - 1)
        await refused(rig, demand(weekly))
        rig.advance(1)  # Monday
        await take(rig, demand(weekly))

    async def test_running_across_the_boundary(self: MakesRigs) -> None:
        """What is settled in a period counts there; its reservation is held there until then."""
        rig = await self.make_rig(RateLimit(), now_s=START_S + DAY_S - 1)
        owner = key(quota=Quota(100, "daily"))
        first = await take(rig, demand(owner, tokens=30))
        await settle(rig, await take(rig, demand(owner, tokens=70)), 70)
        rig.advance(1.0)
        stands = (await standing(rig, owner)).quota
        assert stands is not None
        assert (stands.used, stands.reserved) == (0, 30)
        await settle(rig, first, 20)
        stands = (await standing(rig, owner)).quota
        assert stands is not None
        assert (stands.used, stands.reserved) == (20, 0)

    async def test_set_and_read(self: MakesRigs) -> None:
        """An administrator reads and sets what is used; running requests stay reserved."""
        rig = await self.make_rig(RateLimit())
        one, other = Quota(100, "monthly"), Quota(100, used_before=7)
        await settle(rig, await take(rig, demand(key("one", quota=one), tokens=50)), 50)
        running = await take(rig, demand(key("one", quota=one), tokens=10))
        assert await rig.limiter.quota_used({"one": one, "other": other}) == {"one": 50, "other": 7}
        await rig.limiter.set_quota_used("one", one, 99)
        await rig.limiter.set_quota_used("other", other, 0)
        assert await rig.limiter.quota_used({"one": one, "other": other}) == {"one": 99, "other": 0}
        assert type(await refused(rig, demand(key("one", quota=one)))) is QuotaReserved
        await settle(rig, running, 3)
        assert await rig.limiter.quota_used({"one": one}) == {"one": 102}
        await rig.limiter.set_quota_used("one", one, 0)
        await take(rig, demand(key("one", quota=one), tokens=100))
        assert await rig.limiter.quota_used({}) == {}

    async def test_asking_begins(self: MakesRigs) -> None:
        """What a key brings with it counts in the period in which it is asked for, no later."""
        rig = await self.make_rig(RateLimit(), now_s=START_S + DAY_S - 1)
        quotas = {"a": Quota(100, "daily", used_before=100), "b": Quota(100, used_before=7)}
        assert await rig.limiter.quota_used(quotas) == {"a": 100, "b": 7}
        rig.advance(1.0)
        await settle(rig, await take(rig, demand(key("a", quota=quotas["a"]), tokens=10)), 10)
        assert await rig.limiter.quota_used(quotas) == {"a": 10, "b": 7}

    async def test_setting_again(self: MakesRigs) -> None:
        """What was set to nothing starts from nothing, not from ``used_before``."""
        rig = await self.make_rig(RateLimit())
        quota = Quota(100, used_before=100)
        await rig.limiter.set_quota_used("a", quota, 0)
        await settle(rig, await take(rig, demand(key("a", quota=quota), tokens=10)), 10)
        assert await rig.limiter.quota_used({"a": quota}) == {"a": 10}


class LimiterContract(RateContract, ScopeContract, ReloadContract, QuotaContract):
    """All of it."""
