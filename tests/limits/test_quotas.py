"""Tests of ``llmproxy.limits.quotas``."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Sequence
from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs

from llmproxy.entitlements import Quota, QuotaStanding
from llmproxy.errors import LimitsUnavailable, StoreUnavailable
from llmproxy.limits.quota_counter import QuotaCounter
from llmproxy.limits.quotas import FLUSH_INTERVAL_S, QuotaLedger
from tests.limits.rig import START_S, now_or_never
from tests.limits.stores import FakeCounterStore

QUOTA = Quota(1_000)
DAILY = Quota(1_000, "daily", used_before=5)
DAY_S = 86_400


@attrs.define(init=False)
class Rig:
    """A ledger and its time."""

    clock: Clock
    ledger: QuotaLedger

    def __init__(self, store: FakeCounterStore | None, *, deny: bool = False) -> None:
        self.clock = Clock()
        self.clock.rightNow = START_S
        self.ledger = QuotaLedger(store, clock=self.clock, now=self.clock.seconds, deny=deny)
        self.ledger.start()

    def counter(self, key_id: str = "a", quota: Quota = QUOTA) -> QuotaCounter:
        """Give a key's counter, loaded if need be."""
        counter = self.ledger.find(key_id, quota, self.clock.seconds())
        if counter is None:
            now_or_never(self.ledger.load(key_id, quota))
            counter = self.ledger.find(key_id, quota, self.clock.seconds())
        assert counter is not None
        return counter

    def use(self, tokens: int, key_id: str = "a", quota: Quota = QUOTA) -> None:
        """Run a request of that many tokens, as the limiter does."""
        counter = self.counter(key_id, quota)
        self.ledger.note(key_id, counter)
        counter.settle(counter.reserve(tokens, quota.total), tokens, self.clock.seconds())
        self.ledger.note(key_id, counter)

    def flush(self) -> None:
        """Let a round come."""
        self.clock.advance(FLUSH_INTERVAL_S)

    def stop(self) -> None:
        """Stop; nothing is left to be done."""
        run(self.ledger.stop())
        assert self.clock.getDelayedCalls() == []

    def used(self, key_id: str = "a", quota: Quota = QUOTA) -> int:
        """Say what is used."""
        used: int = run(self.ledger.used({key_id: quota}))[key_id]
        return used


def run(coroutine: Coroutine[Deferred[Any], Any, Any]) -> Any:
    """Run what need not wait."""
    return now_or_never(Deferred.fromCoroutine(coroutine))


@pytest.fixture
def logged() -> Iterator[Sequence[LogEvent]]:
    """What is logged."""
    with capturedLogs() as events:
        yield events


def test_without_a_store() -> None:
    """Counters are there at once, and stay as long as the process."""
    rig = Rig(None)
    rig.use(30, quota=DAILY)
    assert rig.used(quota=DAILY) == 35
    assert rig.used("other", DAILY) == 5
    for _ in range(3):
        rig.ledger.sweep()
    assert rig.used(quota=DAILY) == 35
    rig.clock.advance(DAY_S)
    assert rig.used(quota=DAILY) == 0
    assert rig.clock.getDelayedCalls() == []
    rig.stop()


def test_flush() -> None:
    """What was used comes to the store in half a second, all keys in one call."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.use(10)
    rig.use(20)
    rig.use(7, "b")
    store.calls.clear()
    rig.flush()
    assert store.calls == [("add", {"a": (0, 30), "b": (0, 7)})]
    rig.flush()
    assert len(store.calls) == 1
    rig.stop()


def test_counting_goes_on_after_a_restart() -> None:
    """From what is stored, whatever ``used_before`` says by then."""
    store = FakeCounterStore()
    first = Rig(store)
    first.use(10, quota=DAILY)
    first.stop()
    second = Rig(store)
    assert second.counter(quota=attrs.evolve(DAILY, used_before=500)).used == 15
    second.stop()


def test_other_processes() -> None:
    """What they use is known after the next flush, also of a key that was only asked."""
    store = FakeCounterStore()
    one, other = Rig(store), Rig(store)
    one.use(10)
    other.use(100)
    one.flush()
    other.flush()
    assert other.counter().used == 110
    one.ledger.note("a", one.counter())
    one.flush()
    assert one.counter().used == 110
    one.stop()
    other.stop()


def test_first_met_by_two() -> None:
    """``used_before`` counts once."""
    store = FakeCounterStore()
    rigs = [Rig(store) for _ in range(3)]
    for rig in rigs:
        rig.use(1, quota=DAILY)
        rig.flush()
    assert rigs[0].used(quota=DAILY) == 8


def test_settled_while_it_is_flushed() -> None:
    """It is counted on top of the answer, and told the next time."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.use(10)
    store.holds = True
    rig.flush()
    rig.use(5)
    assert rig.counter().used == 15
    store.answer()
    assert rig.counter().used == 15
    store.holds = False
    rig.flush()
    assert store.counts["a"] == (0, 15)


def test_rounds_do_not_overlap() -> None:
    """A store that takes long is asked one thing at a time."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.use(10)
    store.holds = True
    for _ in range(5):
        rig.use(1)
        rig.flush()
    assert len([name for name, _ in store.calls if name == "add"]) == 1
    while store.waiting:
        store.answer()
        rig.flush()
    assert store.counts["a"] == (0, 15)


def test_outage(logged: Sequence[LogEvent]) -> None:
    """What could not be written is kept and tried again; it is logged once, and when it is over."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.use(10)
    store.fails = lambda: True
    for _ in range(5):
        rig.flush()
        rig.use(1)
    assert rig.counter().used == 15
    assert [event["log_level"].name for event in logged] == ["error"]
    assert "the disk is full" in logged[0]["reason"]
    assert "failing" in repr(rig.ledger)
    store.fails = None
    rig.flush()
    assert store.counts["a"] == (0, 15)
    assert [event["log_level"].name for event in logged] == ["error", "info"]
    rig.stop()


def test_a_round_that_breaks(logged: Sequence[LogEvent]) -> None:
    """Whatever is wrong with the store, the rounds go on and nothing is lost."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.use(10)

    def bug() -> bool:
        raise ZeroDivisionError

    store.fails = bug
    rig.flush()
    assert logged[0]["log_failure"].check(ZeroDivisionError)
    store.fails = None
    rig.flush()
    assert store.counts["a"] == (0, 10)


def test_last_flush() -> None:
    """Stopping writes what is left, after what is being written."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.use(10)
    store.holds = True
    rig.flush()
    rig.use(7)
    stopped = Deferred.fromCoroutine(rig.ledger.stop())
    while store.waiting:
        assert not stopped.called
        store.answer()
    now_or_never(stopped)
    assert store.counts["a"] == (0, 17)


def test_last_flush_fails(logged: Sequence[LogEvent]) -> None:
    """Then it is said how much is lost; stopping does not hang on it."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.use(10)
    store.fails = lambda: True
    rig.stop()
    assert logged[-1]["count"] == 1


@pytest.mark.parametrize("deny", [False, True])
def test_first_load_fails(deny: bool) -> None:
    """Refused, or counted from ``used_before``, and on top of what is stored when that is known."""
    store = FakeCounterStore()
    store.counts["a"] = (int(START_S), 600)
    store.fails = lambda: True
    rig = Rig(store, deny=deny)
    if deny:
        with pytest.raises(LimitsUnavailable):
            rig.counter(quota=DAILY)
        store.fails = None
        assert rig.counter(quota=DAILY).used == 600
        return
    rig.use(10, quota=DAILY)
    assert rig.counter(quota=DAILY).used == 15
    rig.flush()
    rig.use(1, quota=DAILY)
    store.fails = None
    rig.flush()
    assert rig.counter(quota=DAILY).used == 611
    assert store.counts["a"] == (START_S, 611)


def test_first_met_while_the_store_is_down() -> None:
    """When it is back, counting there begins with ``used_before``, too."""
    store = FakeCounterStore()
    store.fails = lambda: True
    rig = Rig(store)
    rig.use(10, quota=DAILY)
    store.fails = None
    rig.flush()
    assert store.counts["a"] == (START_S, 15)
    assert rig.counter(quota=DAILY).used == 15


def test_loading_breaks(logged: Sequence[LogEvent]) -> None:
    """A bug in the store refuses, is logged, and does not leave anybody waiting."""
    store = FakeCounterStore()

    def bug() -> bool:
        raise ZeroDivisionError

    store.fails = bug
    rig = Rig(store)
    with pytest.raises(LimitsUnavailable):
        rig.counter()
    assert logged[0]["log_failure"].check(ZeroDivisionError)
    assert "loading=0" in repr(rig.ledger)


def test_cancelled_while_loading() -> None:
    """Others who wait for the same counter get it all the same."""
    store = FakeCounterStore()
    store.holds = True
    rig = Rig(store)
    first, second = rig.ledger.load("a", QUOTA), rig.ledger.load("a", QUOTA)
    first.cancel()
    with pytest.raises(CancelledError):
        now_or_never(first)
    store.answer()
    now_or_never(second)
    assert len(store.calls) == 1
    assert rig.counter().used == 0


def test_next_period() -> None:
    """What was not written of a period that is over is of no more use; the new one begins at 0."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.clock.rightNow = START_S + DAY_S - 0.4
    rig.use(10, quota=DAILY)
    rig.clock.rightNow = START_S + DAY_S
    rig.use(3, quota=DAILY)
    rig.flush()
    assert store.counts["a"] == (START_S + DAY_S, 3)
    assert rig.used(quota=DAILY) == 3


def test_next_period_begins_while_it_is_flushed() -> None:
    """The answer for the old one is not taken for the new one's."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.use(10, quota=DAILY)
    store.holds = True
    rig.flush()
    rig.clock.rightNow = START_S + DAY_S
    rig.use(3, quota=DAILY)
    store.answer()
    assert rig.counter(quota=DAILY).used == 3
    store.holds = False
    rig.flush()
    assert store.counts["a"] == (START_S + DAY_S, 3)


def test_next_period_begins_while_a_flush_fails() -> None:
    """What was used in the old one does not come back in the new one."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.use(10, quota=DAILY)
    store.holds, store.fails = True, lambda: True
    rig.flush()
    rig.clock.rightNow = START_S + DAY_S
    rig.use(3, quota=DAILY)
    store.answer()
    store.holds, store.fails = False, None
    rig.flush()
    assert rig.counter(quota=DAILY).used == 3
    assert store.counts["a"] == (START_S + DAY_S, 3)


def test_set_while_it_is_loaded() -> None:
    """What was set counts, not what was read before."""
    store = FakeCounterStore()
    store.counts["a"] = (0, 900)
    store.holds = True
    rig = Rig(store)
    loaded = rig.ledger.load("a", QUOTA)
    waiting, store.waiting, store.holds = store.waiting, [], False
    run(rig.ledger.set_used("a", QUOTA, 1))
    store.waiting = waiting
    store.answer()
    now_or_never(loaded)
    assert rig.counter().used == 1
    assert store.counts["a"] == (0, 1)


def test_set_over_what_is_not_written() -> None:
    """What was used before it was set does not come on top; what is used after does."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.use(10)
    store.holds = True
    done = Deferred.fromCoroutine(rig.ledger.set_used("a", QUOTA, 100))
    rig.use(3)
    store.answer()
    now_or_never(done)
    store.holds = False
    assert rig.counter().used == 103
    rig.flush()
    assert store.counts["a"] == (0, 103)


def test_set_fails() -> None:
    """Then nothing has changed."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.use(10)
    store.fails = lambda: True
    with pytest.raises(StoreUnavailable):
        run(rig.ledger.set_used("a", QUOTA, 100))
    with pytest.raises(StoreUnavailable):
        rig.used()
    assert rig.counter().used == 10
    store.fails = None
    assert rig.used() == 10


def test_used_is_asked_during_a_flush() -> None:
    """The answer leaves nothing out, and counts nothing twice."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.use(10)
    store.holds = True
    rig.flush()
    asked = Deferred.fromCoroutine(rig.ledger.used({"a": QUOTA, "b": DAILY}))
    rig.use(5)
    while store.waiting:
        store.answer()
    assert now_or_never(asked) == {"a": 15, "b": 5}
    assert rig.counter().used == 15


def test_standing() -> None:
    """Of a key in use, of one that only the store knows, and of one while the store is down."""
    store = FakeCounterStore()
    store.counts["a"] = (int(START_S), 40)
    store.counts["b"] = (int(START_S) - DAY_S, 40)
    rig = Rig(store)
    ends_s = START_S + DAY_S
    seen = run(rig.ledger.standing("a", DAILY))
    assert seen == QuotaStanding(1_000, 40, 0, "daily", ends_s)
    assert run(rig.ledger.standing("b", DAILY)) == QuotaStanding(1_000, 0, 0, "daily", ends_s)
    rig.use(2, quota=DAILY)
    rig.counter(quota=DAILY).reserve(100, 1_000)
    store.fails = lambda: True
    seen = run(rig.ledger.standing("a", DAILY))
    assert seen == QuotaStanding(1_000, 42, 100, "daily", ends_s)
    with pytest.raises(StoreUnavailable):
        run(rig.ledger.standing("b", DAILY))


def test_sweep() -> None:
    """Counters that rest are forgotten, unless something runs or is not written yet."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.use(10, "rests")
    rig.use(10, "running")
    rig.counter("running").reserve(1, 1_000)
    rig.flush()
    rig.use(10, "unwritten")
    for _ in range(3):
        rig.ledger.sweep()
    store.calls.clear()
    for name in ("rests", "running", "unwritten"):
        assert rig.counter(name).used == 10
    assert [given for _, given in store.calls] == [{"rests": (0, 0)}]


def test_sweep_during_a_flush() -> None:
    """What is being written is not forgotten: it may have to be written again, with what is new."""
    store = FakeCounterStore()
    rig = Rig(store)
    rig.use(10)
    store.holds, store.fails = True, lambda: True
    rig.flush()
    for _ in range(3):
        rig.ledger.sweep()
    store.answer()
    rig.use(5)
    store.holds, store.fails = False, None
    rig.flush()
    assert store.counts["a"] == (0, 15)
    assert rig.counter().used == 15


@given(
    random=st.randoms(use_true_random=False),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("use"), st.integers(0, 2), st.integers(0, 100)),
            st.tuples(st.just("flush"), st.integers(0, 2), st.just(0)),
            st.tuples(st.just("set"), st.integers(0, 2), st.integers(0, 100)),
            st.tuples(st.just("sweep"), st.integers(0, 2), st.just(0)),
        ),
        max_size=60,
    ),
)
def test_totals_are_exact(random: Random, steps: list[tuple[str, int, int]]) -> None:
    """Two processes, and a store that fails at random: in the end every token counts once."""
    store = FakeCounterStore()
    rigs = [Rig(store), Rig(store), Rig(store)]
    wanted = 0
    for what, which, tokens in steps:
        rig = rigs[which]
        store.fails = lambda: random.random() < 0.5
        if what == "use":
            rig.use(tokens)
            wanted += tokens
        elif what == "flush":
            rig.flush()
        elif what == "sweep":
            rig.ledger.sweep()
        else:
            # What the others have not written comes on top; so they write it first.
            store.fails = None
            for one in rigs:
                one.flush()
            run(rig.ledger.set_used("a", QUOTA, tokens))
            wanted = tokens
    store.fails = None
    for rig in rigs:
        rig.stop()
    assert store.counts.get("a", (0, 0)) == (0, wanted)
    assert Rig(store).used() == wanted
