"""What `ICounterStore` says, for every implementation of it."""

from __future__ import annotations

from twisted.internet.defer import gatherResults
from zope.interface.verify import verifyObject

from llmproxy.interfaces import ICounterStore
from llmproxy.values import UsageFilter, UsageTotal
from tests.stores.reactor_case import ReactorTestCase

ONE = UsageTotal(1, 10, 5, 15, 0)
TWO = UsageTotal(2, 20, 10, 30, 1)


class CounterContract(ReactorTestCase):
    """To be mixed with a way to make the counters; not a test by itself."""

    __test__ = False

    def make(self) -> ICounterStore:
        """Make counters, all at zero."""
        raise NotImplementedError

    async def test_interface(self) -> None:
        """It is what the limits and the reports expect."""
        verifyObject(ICounterStore, self.make())

    async def test_use_adds_up(self) -> None:
        """Each key on its own; the answer is what is used now."""
        counters = self.make()
        assert await counters.add_quota_use({"a": (0, 5), "b": (100, 1)}) == {
            "a": (0, 5),
            "b": (100, 1),
        }
        assert await counters.add_quota_use({"a": (0, 2), "c": (0, 0)}) == {
            "a": (0, 7),
            "c": (0, 0),
        }
        assert await counters.add_quota_use({}) == {}

    async def test_use_is_never_negative(self) -> None:
        """What is given back counts down to zero."""
        counters = self.make()
        assert await counters.add_quota_use({"a": (0, -5)}) == {"a": (0, 0)}
        await counters.add_quota_use({"a": (0, 3)})
        assert await counters.add_quota_use({"a": (0, -2)}) == {"a": (0, 1)}
        assert await counters.add_quota_use({"a": (0, -9)}) == {"a": (0, 0)}

    async def test_later_period_stands(self) -> None:
        """In it counting starts at zero; what comes late for the older one is forgotten."""
        counters = self.make()
        await counters.add_quota_use({"a": (100, 5)})
        assert await counters.add_quota_use({"a": (200, 2)}) == {"a": (200, 2)}
        assert await counters.add_quota_use({"a": (100, 50)}) == {"a": (200, 2)}
        assert await counters.add_quota_use({"a": (200, 1)}) == {"a": (200, 3)}
        assert await counters.add_quota_use({"a": (300, 0)}) == {"a": (300, 0)}

    async def test_counting_begins_once(self) -> None:
        """Where there is a counter, of whatever period, it stays."""
        counters = self.make()
        assert await counters.begin_quota_use({"a": (100, 40)}) == {"a": (100, 40)}
        assert await counters.begin_quota_use({"a": (100, 70), "b": (0, 1)}) == {
            "a": (100, 40),
            "b": (0, 1),
        }
        assert await counters.begin_quota_use({"a": (200, 70)}) == {"a": (100, 40)}
        assert await counters.begin_quota_use({"a": (50, 70)}) == {"a": (100, 40)}
        assert await counters.add_quota_use({"a": (100, 1)}) == {"a": (100, 41)}

    async def test_use_is_set(self) -> None:
        """Whatever stood there."""
        counters = self.make()
        await counters.set_quota_use("a", 100, 5)
        assert await counters.add_quota_use({"a": (100, 1)}) == {"a": (100, 6)}
        await counters.set_quota_use("a", 50, 2)
        assert await counters.add_quota_use({"a": (50, 1)}) == {"a": (50, 3)}

    async def test_at_once(self) -> None:
        """What is asked for at the same time is not lost."""
        counters = self.make()
        results = await gatherResults([counters.add_quota_use({"a": (0, 1)}) for _ in range(100)])
        assert [result["a"] for result in results] == [(0, number + 1) for number in range(100)]

    async def test_usage(self) -> None:
        """Totals add up by place and day, and are given by any grouping, in order."""
        counters = self.make()
        assert await counters.usage(UsageFilter()) == [({}, UsageTotal())]
        assert await counters.usage(UsageFilter(group_by=("day",))) == []
        await counters.add_usage(
            {
                ("2026-03-02", "k2", "u1", "m1"): ONE,
                ("2026-03-01", "k1", "u1", "m1"): ONE,
                ("2026-03-01", "k1", "u1", "m2"): ONE,
            }
        )
        await counters.add_usage({("2026-03-01", "k1", "u1", "m1"): TWO})
        three = UsageTotal(3, 30, 15, 45, 1)
        assert await counters.usage(UsageFilter()) == [({}, UsageTotal(5, 50, 25, 75, 1))]
        assert await counters.usage(UsageFilter(group_by=("model",))) == [
            ({"model": "m1"}, UsageTotal(4, 40, 20, 60, 1)),
            ({"model": "m2"}, ONE),
        ]
        assert await counters.usage(UsageFilter(group_by=("key", "day"))) == [
            ({"key_id": "k1", "day": "2026-03-01"}, UsageTotal(4, 40, 20, 60, 1)),
            ({"key_id": "k2", "day": "2026-03-02"}, ONE),
        ]
        assert await counters.usage(
            UsageFilter(group_by=("day", "key", "user", "model"), model="m1")
        ) == [
            ({"day": "2026-03-01", "key_id": "k1", "user_id": "u1", "model": "m1"}, three),
            ({"day": "2026-03-02", "key_id": "k2", "user_id": "u1", "model": "m1"}, ONE),
        ]

    async def test_usage_filters(self) -> None:
        """All that are given must hold; both ends of the days are in."""
        counters = self.make()
        for day in range(1, 6):
            place = (f"2026-03-0{day}", f"k{day % 2}", f"u{day}", "m")
            await counters.add_usage({place: ONE})

        async def days(**wanted: str) -> list[str]:
            found = await counters.usage(UsageFilter(group_by=("day",), **wanted))
            return [values["day"][-1] for values, _ in found]

        assert await days() == ["1", "2", "3", "4", "5"]
        assert await days(since="2026-03-02", until="2026-03-04") == ["2", "3", "4"]
        assert await days(key_id="k1") == ["1", "3", "5"]
        assert await days(key_id="k1", until="2026-03-03") == ["1", "3"]
        assert await days(user_id="u4") == ["4"]
        assert await days(model="m", user_id="nobody") == []
        assert await counters.usage(UsageFilter(key_id="k0")) == [({}, TWO_OF_ONE)]


TWO_OF_ONE = UsageTotal(2, 20, 10, 30, 0)
