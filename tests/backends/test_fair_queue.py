"""Tests of `llmproxy.backends.fair_queue`."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmproxy.backends.fair_queue import (
    LEAST_TURN,
    MOST_BEHIND,
    MOST_GUESSED,
    FairQueue,
    Waiting,
)


def filled(limit: int = 1000, **lengths: int) -> FairQueue[str]:
    """Make a queue where keys have so many requests, each of cost 1, one key after the other.

    Those of a key are of a kind of their own.
    """
    queue: FairQueue[str] = FairQueue(limit)
    for key, length in lengths.items():
        for number in range(length):
            entry, _ = queue.push(key, 1.0, f"{key}{number}", key)
            assert entry is not None
    return queue


def drained(queue: FairQueue[str]) -> list[str]:
    """Take all out, in order."""
    order = []
    while (entry := queue.pop()) is not None:
        order.append(entry.item)
    return order


def test_one_key_is_served_in_its_order() -> None:
    """First come, first served."""
    assert drained(filled(a=3)) == ["a0", "a1", "a2"]
    assert filled().pop() is None


def test_a_hundred_requests_do_not_stop_one() -> None:
    """Another key's one request is second, not a hundred and first."""
    assert drained(filled(a=100, b=1))[:3] == ["a0", "b0", "a1"]


def test_keys_take_turns() -> None:
    """However many each has waiting."""
    assert drained(filled(a=3, b=2)) == ["a0", "b0", "a1", "b1", "a2"]


def test_who_costs_more_has_fewer_turns() -> None:
    """A key with prompts of three times the length has a third of them."""
    queue: FairQueue[str] = FairQueue(100)
    for number in range(30):
        queue.push("long", 3.0, f"l{number}")
        queue.push("short", 1.0, f"s{number}")
    taken = Counter(item[0] for item in drained(queue)[:20])
    assert taken == {"s": 15, "l": 5}


def test_waiting_long_ago_gives_no_credit_and_no_debt() -> None:
    """A key that comes back starts at the present."""
    queue = filled(a=1)
    assert drained(queue) == ["a0"]
    for number in range(10):
        queue.push("b", 1.0, f"b{number}")
    for _ in range(5):
        queue.pop()
    queue.push("a", 1.0, "a1")
    assert queue.pop() is not None
    queue.push("a", 1.0, "a2")
    assert drained(queue).index("a2") <= 2


def test_those_that_leave_cost_their_key_nothing() -> None:
    """What was cancelled while it waited does not push back what comes after it."""
    queue: FairQueue[str] = FairQueue(100)
    left = [queue.push("a", 50.0, "gone")[0] for _ in range(10)]
    queue.push("b", 1.0, "b0")
    queue.push("b", 1.0, "b1")
    for entry in left:
        assert entry is not None
        queue.remove(entry)
        queue.remove(entry)
    queue.push("a", 1.0, "a0")
    assert sorted(drained(queue)[:2]) == ["a0", "b0"]


def test_only_what_can_be_served_now() -> None:
    """Others keep their place."""
    queue = filled(a=2, b=2)
    found = queue.pop(lambda item: item.startswith("b"))
    assert found is not None
    assert found.item == "b0"
    assert queue.pop(lambda _: False) is None
    assert drained(queue) == ["a0", "b1", "a1"]


def test_who_cannot_be_served_stops_nobody_of_its_key() -> None:
    """Another kind's first is served; then that one has its turn, where it always stood."""
    queue: FairQueue[str] = FairQueue(100)
    for item, kind in (("x0", "x"), ("y0", "y"), ("x1", "x"), ("y1", "y")):
        queue.push("a", 1.0, item, kind)
    found = queue.pop(lambda item: item.startswith("y"))
    assert found is not None
    assert found.item == "y0"
    assert drained(queue) == ["x0", "x1", "y1"]


def test_one_of_a_kind_is_asked() -> None:
    """However many wait, of however many keys."""
    queue: FairQueue[int] = FairQueue(1000)
    for number in range(1000):
        queue.push(f"key{number % 100}", 1.0, number, number % 2)
    asked: list[int] = []

    def refuses(number: int) -> bool:
        asked.append(number)
        return False

    assert queue.pop(refuses) is None
    assert sorted(number % 2 for number in asked) == [0, 1]
    assert len(drained_numbers(queue)) == 1000


def drained_numbers(queue: FairQueue[int]) -> list[int]:
    """Take all out, in order."""
    return [entry.item for entry in iter(queue.pop, None) if entry is not None]


def test_another_kind_in_the_same_place() -> None:
    """Who is moved stands before those that came later, and its old kind's next is the first."""
    queue: FairQueue[str] = FairQueue(100)
    moved, _ = queue.push("a", 1.0, "x0", "x")
    queue.push("a", 1.0, "y0", "y")
    left, _ = queue.push("a", 1.0, "x1", "x")
    queue.push("a", 1.0, "x2", "x")
    assert moved is not None
    assert left is not None
    queue.remove(left)
    queue.move(moved, "y")
    found = queue.pop(lambda item: item.startswith("x2"))
    assert found is not None
    assert drained(queue) == ["x0", "y0"]


def test_when_it_is_full_the_greediest_makes_room() -> None:
    """Its newest is turned out, for whoever has less."""
    queue = filled(limit=4, a=3, b=1)
    entry, turned_out = queue.push("c", 1.0, "c0")
    assert entry is not None
    assert turned_out is not None
    assert turned_out.item == "a2"
    assert not turned_out.is_waiting
    assert len(queue) == 4
    assert queue.push("a", 1.0, "a3") == (None, None)
    assert drained(queue) == ["a0", "b0", "c0", "a1"]


def test_no_room_at_all() -> None:
    """A queue of no places takes nobody."""
    queue: FairQueue[str] = FairQueue(0)
    assert filled(limit=1, a=1).push("b", 1.0, "b0") == (None, None)
    assert queue.push("a", 1.0, "a0") == (None, None)
    assert len(queue) == 0


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 20)), min_size=1, max_size=200),
)
def test_fair_within_the_largest_request(asked: list[tuple[str, int]]) -> None:
    """While two keys both wait, what they got differs by at most one request of each (SFQ)."""
    queue: FairQueue[tuple[str, int]] = FairQueue(1000)
    for key, cost in asked:
        queue.push(key, float(cost), (key, cost))
    got = dict.fromkeys("abcd", 0)
    left = Counter(key for key, _ in asked)
    while (entry := queue.pop()) is not None:
        key, cost = entry.item
        got[key] += cost
        left[key] -= 1
        waiting = [one for one in "abcd" if left[one]]
        for one in waiting:
            for other in waiting:
                assert got[one] - got[other] <= 40
    assert not +left


def turn(queue: FairQueue[str], took: float) -> str:
    """Serve one that takes so much; say whose it was."""
    entry = queue.pop()
    assert entry is not None
    queue.settle(entry, took)
    return entry.key


def waiting(queue: FairQueue[str], key: str, count: int, cost: float) -> None:
    """Have so many of a key wait."""
    for _ in range(count):
        queue.push(key, cost, "")


def test_what_it_really_took_counts() -> None:
    """Not what it was guessed to take, be that more or less."""
    queue: FairQueue[str] = FairQueue(1000)
    waiting(queue, "long", 100, 200.0)
    waiting(queue, "short", 100, 10_000.0)
    took = {"long": 3000.0, "short": 1000.0}
    turns: Counter[str] = Counter()
    for _ in range(40):
        entry = queue.pop()
        assert entry is not None
        turns[entry.key] += 1
        queue.settle(entry, took[entry.key])
    assert turns == {"short": 30, "long": 10}


def test_a_guess_without_bound_stops_nobody_for_long() -> None:
    """While it is not over, others go before it; and not for longer than so."""
    queue: FairQueue[str] = FairQueue(1000)
    queue.push("huge", 1e9, "")
    assert queue.pop() is not None
    queue.push("huge", 1e9, "")
    waiting(queue, "other", 100, 1000.0)
    turns = [turn(queue, 1000.0) for _ in range(20)]
    assert turns.index("huge") == 1 + MOST_GUESSED // 1000


def test_nobody_is_behind_without_bound() -> None:
    """Whatever it took."""
    queue: FairQueue[str] = FairQueue(1000)
    waiting(queue, "huge", 2, 10.0)
    waiting(queue, "other", 200, 1000.0)
    assert turn(queue, 1e9) == "huge"
    turns = [turn(queue, 1000.0) for _ in range(140)]
    assert turns.index("huge") == 1 + MOST_BEHIND // 1000


def test_what_fails_at_once_takes_turns_too() -> None:
    """It takes nothing, and is not served before all others for that."""
    queue: FairQueue[str] = FairQueue(1000)
    waiting(queue, "fails", 100, 1000.0)
    waiting(queue, "other", 100, LEAST_TURN)
    turns = [turn(queue, 0.0 if number % 2 else LEAST_TURN) for number in range(20)]
    assert Counter(turns) == {"fails": 10, "other": 10}


def test_who_comes_when_guesses_were_too_high() -> None:
    """Does not wait until those that are served meanwhile have had what was guessed of them."""
    queue: FairQueue[str] = FairQueue(1000)
    waiting(queue, "many", 100, 4000.0)
    served = [queue.pop() for _ in range(30)]
    for entry in served:
        assert entry is not None
        queue.settle(entry, LEAST_TURN)
    queue.push("late", 4000.0, "")
    assert "late" in [turn(queue, LEAST_TURN) for _ in range(2)]


def test_what_it_really_took_counts_for_those_that_came_meanwhile() -> None:
    """However few of a key wait at a time, and however many are served at once."""
    queue: FairQueue[str] = FairQueue(1000)
    took = {"long": 14_000.0, "short": 400.0}
    running: list[Waiting[str]] = []
    for key in took:
        waiting(queue, key, 2, MOST_GUESSED)
    tokens: Counter[str] = Counter()
    for _ in range(4000):
        entry = queue.pop()
        assert entry is not None
        waiting(queue, entry.key, 1, MOST_GUESSED)
        running.append(entry)
        if len(running) > 8:
            over = running.pop(0)
            queue.settle(over, took[over.key])
            tokens[over.key] += int(took[over.key])
    assert abs(tokens["long"] - tokens["short"]) < 2 * MOST_BEHIND


def test_who_comes_while_another_cannot_be_served() -> None:
    """Starts at the present, however long that one waits already: others go on taking turns."""
    queue: FairQueue[str] = FairQueue(1000)
    queue.push("stuck", 1000.0, "stuck", "others only")
    waiting(queue, "early", 100, 1000.0)

    def turns(count: int) -> Counter[str]:
        counted: Counter[str] = Counter()
        for _ in range(count):
            entry = queue.pop(lambda item: item != "stuck")
            assert entry is not None
            counted[entry.key] += 1
            queue.settle(entry, 2000.0)
        return counted

    assert turns(30) == {"early": 30}
    waiting(queue, "late", 100, 1000.0)
    assert turns(10) == {"early": 5, "late": 5}
    assert turn(queue, 1000.0) == "stuck"
    waiting(queue, "last", 100, 1000.0)
    assert max(turns(9).values()) <= 4


def test_what_was_served_long_ago_is_settled_with_nobody() -> None:
    """A key that came back since began at the present: it owed nothing, and has nothing back."""
    queue: FairQueue[str] = FairQueue(1000)
    waiting(queue, "a", 1, 1000.0)
    waiting(queue, "b", 50, 1000.0)
    old = queue.pop()
    assert old is not None
    assert [turn(queue, 1000.0) for _ in range(10)] == ["b"] * 10
    waiting(queue, "a", 3, 1000.0)
    turns = [turn(queue, 1000.0)]
    queue.settle(old, 0.0)
    turns += [turn(queue, 1000.0) for _ in range(5)]
    assert Counter(turns) == {"a": 3, "b": 3}


def test_settled_when_nothing_waits() -> None:
    """Nothing is kept of it."""
    queue: FairQueue[str] = FairQueue(10)
    waiting(queue, "a", 1, 1000.0)
    entry = queue.pop()
    assert entry is not None
    waiting(queue, "b", 1, 1000.0)
    assert turn(queue, 500.0) == "b"
    queue.settle(entry, LEAST_TURN)
    queue.settle(entry, LEAST_TURN)
    waiting(queue, "a", 1, 1000.0)
    assert turn(queue, 1.0) == "a"


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(100, 20_000), st.integers(100, 1000)),
        min_size=1,
        max_size=200,
    )
)
def test_fair_by_what_was_used(asked: list[tuple[str, int, int]]) -> None:
    """While two keys both wait, what they used differs by at most one request of each."""
    queue: FairQueue[int] = FairQueue(1000)
    for key, guess, used in asked:
        queue.push(key, float(guess), used)
    got = dict.fromkeys("abc", 0)
    left = Counter(key for key, _, _ in asked)
    while (entry := queue.pop()) is not None:
        queue.settle(entry, entry.item)
        got[entry.key] += entry.item
        left[entry.key] -= 1
        both = [one for one in "abc" if left[one]]
        for one in both:
            for other in both:
                assert got[one] - got[other] <= 2000


class Walk(RuleBasedStateMachine):
    """Anything may happen in any order: nobody is lost, nobody is served twice."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int] = FairQueue(8)
        self.waiting: dict[int, Waiting[int]] = {}
        self.kinds: dict[int, int] = {}
        self.served: list[Waiting[int]] = []
        self.number = 0

    @rule(key=st.sampled_from("abc"), cost=st.integers(1, 5), kind=st.integers(0, 1))
    def push(self, key: str, cost: int, kind: int) -> None:
        """One comes."""
        self.number += 1
        self.kinds[self.number] = kind
        entry, turned_out = self.queue.push(key, float(cost), self.number, kind)
        if turned_out is not None:
            assert self.waiting.pop(turned_out.item) is turned_out
        if entry is not None:
            self.waiting[self.number] = entry
        else:
            assert len(self.waiting) == 8

    @rule(kind=st.sampled_from((None, 0, 1)))
    def pop(self, kind: int | None) -> None:
        """The next is served."""
        entry = self.queue.pop(lambda item: kind is None or self.kinds[item] == kind)
        if entry is None:
            assert not [one for one in self.waiting if kind in (None, self.kinds[one])]
            return
        assert self.waiting.pop(entry.item) is entry
        older = [
            one
            for number, one in self.waiting.items()
            if number < entry.item and one.key == entry.key and kind in (None, one.kind)
        ]
        assert not older
        self.served.append(entry)

    @precondition(lambda self: self.served)
    @rule(choice=st.integers(0, 7), cost=st.integers(0, 9))
    def settle(self, choice: int, cost: int) -> None:
        """What was served is over."""
        self.queue.settle(self.served.pop(choice % len(self.served)), float(cost))

    @precondition(lambda self: self.waiting)
    @rule(choice=st.integers(0, 7))
    def move(self, choice: int) -> None:
        """One is of the other kind from now on."""
        number = sorted(self.waiting)[choice % len(self.waiting)]
        self.kinds[number] = 1 - self.kinds[number]
        self.queue.move(self.waiting[number], self.kinds[number])

    @precondition(lambda self: self.waiting)
    @rule(choice=st.integers(0, 7))
    def leave(self, choice: int) -> None:
        """One leaves."""
        number = sorted(self.waiting)[choice % len(self.waiting)]
        self.queue.remove(self.waiting.pop(number))

    @invariant()
    def nobody_is_lost(self) -> None:
        """Those that wait are those that came and did not go."""
        assert len(self.queue) == len(self.waiting)
        assert {entry.item for entry in self.queue} == set(self.waiting)


TestWalk = Walk.TestCase


def test_memory_of_keys_that_are_gone() -> None:
    """Thousands of keys that waited once are not remembered."""
    queue: FairQueue[str] = FairQueue(100)
    for number in range(5000):
        queue.push(f"key{number}", 1000.0, "x")
        queue.pop()
    assert int(repr(queue).split(", ")[1].split(" ")[0]) < 100
