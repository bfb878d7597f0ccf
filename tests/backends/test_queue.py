"""Tests of `llmproxy.backends.queue`."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import attrs
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from llmproxy.backends.queue import LONGEST_RETRY_S, BackendQueue
from llmproxy.errors import NoBackend, QueueFull, QueueTimeout
from llmproxy.interfaces import IBackendLease
from llmproxy.values import Backend, ModelRoute
from tests.proxy.fakes import FakeLease, FakeUpstream


class World:
    """A queue over so much room for each model, and what became of those that wait."""

    def __init__(self, max_waiting: int = 100, max_wait_s: float = 60.0) -> None:
        self.clock = Clock()
        self.queue = BackendQueue(max_waiting, max_wait_s, self.clock)
        self.room: dict[str, int] = {}
        self.nobody: set[str] = set()
        self.given: list[str] = []
        self.failed: dict[str, Exception] = {}
        self.leases: dict[str, FakeLease] = {}

    def take(self, model: str, name: str) -> Callable[[frozenset[str]], IBackendLease | None]:
        """Make what gives a lease while there is room, and for who was not tried there."""

        def take(tried: frozenset[str]) -> IBackendLease | None:
            if model in self.nobody:
                raise NoBackend
            if "b" in tried:
                return None
            if not self.room.get(model):
                return None
            self.room[model] -= 1
            lease = self.leases[name] = FakeLease(
                Backend(name="b", url=b"http://b.test", host=b"b.test"),
                FakeUpstream(),
                ModelRoute(model, model),
            )
            return lease

        return take

    def wait(
        self, name: str, model: str = "m", key: str = "", room: str = "", tried: str = ""
    ) -> Deferred[IBackendLease]:
        """Have one wait for a model, in its own room or another's; 2 s not where it was tried."""
        waiting = self.queue.wait(
            model,
            key or name,
            1.0,
            self.take(room or model, name),
            tried=frozenset(tried),
            tried_for_s=2.0,
        )
        waiting.addCallbacks(
            lambda _: self.given.append(name),
            lambda failure: self.failed.setdefault(name, failure.value),
        )
        return waiting

    def make_room(self, places: int = 1, model: str = "m") -> None:
        """Make room, and let it be given."""
        self.room[model] = self.room.get(model, 0) + places
        self.queue.look()
        self.clock.advance(0)


def test_room_is_given_in_turn_to_keys() -> None:
    """One key's hundred requests do not stop another's one."""
    world = World()
    for number in range(5):
        world.wait(f"a{number}", key="a")
    world.wait("b0", key="b")
    assert world.queue.waiting == world.queue.waiting_for("m") == 6
    world.make_room()
    world.make_room()
    assert world.given == ["a0", "b0"]
    world.make_room(10)
    assert world.given == ["a0", "b0", "a1", "a2", "a3", "a4"]
    assert world.queue.waiting == 0
    assert world.clock.getDelayedCalls() == []


def test_a_lease_is_counted_before_it_is_given() -> None:
    """Whoever comes in the same turn finds the room taken."""
    world = World()
    world.wait("a")
    world.room["m"] = 1
    world.queue.look()
    assert world.room["m"] == 0
    assert world.given == []
    world.clock.advance(0)
    assert world.given == ["a"]


def test_models_wait_apart() -> None:
    """One model's queue does not stop another's."""
    world = World()
    world.wait("a", model="one")
    world.wait("b", model="two")
    world.make_room(model="two")
    assert world.given == ["b"]


def test_models_take_turns() -> None:
    """Where the same room would do for both."""
    world = World()
    for number in range(2):
        world.wait(f"a{number}", model="one", room="shared")
        world.wait(f"b{number}", model="two", room="shared")
    for _ in range(4):
        world.make_room(model="shared")
    assert world.given == ["a0", "b0", "a1", "b1"]


def test_waiting_too_long() -> None:
    """Fails after the time, and says when to come again."""
    world = World(max_wait_s=5.0)
    world.wait("a")
    world.clock.advance(4.9)
    assert not world.failed
    world.clock.advance(0.2)
    error = world.failed["a"]
    assert isinstance(error, QueueTimeout)
    assert error.status == 503
    assert error.retry_after_s is not None
    assert world.queue.waiting == 0
    assert world.queue.timed_out == 1
    world.make_room()
    assert world.given == []


def test_waiting_as_long_as_the_client() -> None:
    """0 is no limit."""
    world = World(max_wait_s=0.0)
    world.wait("a")
    world.clock.advance(100_000)
    world.make_room()
    assert world.given == ["a"]


def test_no_room_in_the_queue() -> None:
    """The greediest key makes room for others; a key alone is turned away itself."""
    world = World(max_waiting=2)
    for name in ("a0", "a1", "a2"):
        world.wait(name, key="a")
    assert isinstance(world.failed["a2"], QueueFull)
    world.wait("b0", key="b")
    world.clock.advance(0)
    assert isinstance(world.failed["a1"], QueueFull)
    assert world.queue.turned_away == 2
    world.make_room(2)
    assert world.given == ["a0", "b0"]


def test_no_queue_at_all() -> None:
    """Nobody waits."""
    world = World(max_waiting=0)
    world.wait("a")
    assert isinstance(world.failed["a"], QueueFull)


def test_nobody_left_to_wait_for() -> None:
    """They are told at once."""
    world = World()
    world.wait("a")
    world.wait("b")
    world.nobody.add("m")
    world.queue.look()
    world.clock.advance(0)
    assert {type(error) for error in world.failed.values()} == {NoBackend}
    assert world.queue.waiting == 0
    assert world.clock.getDelayedCalls() == []


def test_a_client_that_leaves_the_queue() -> None:
    """Its place is gone, and so is its clock."""
    world = World()
    waiting = world.wait("a")
    world.wait("b")
    waiting.cancel()
    assert isinstance(world.failed["a"], CancelledError)
    world.make_room()
    assert world.given == ["b"]
    assert world.clock.getDelayedCalls() == []


def test_a_client_that_leaves_between_two_turns() -> None:
    """The lease that it was to have is given back, once."""
    world = World()
    waiting = world.wait("a")
    world.room["m"] = 1
    world.queue.look()
    waiting.cancel()
    assert world.leases["a"].released == 1
    world.clock.advance(0)
    assert world.given == []
    assert world.clock.getDelayedCalls() == []


def test_one_turned_out_that_leaves_in_that_turn() -> None:
    """Is told once."""
    world = World(max_waiting=1)
    ends: list[object] = []
    waiting = world.queue.wait("m", "a", 1.0, world.take("m", "a"))
    waiting.addErrback(ends.append)
    world.nobody.add("m")
    world.queue.look()
    waiting.cancel()
    world.clock.advance(0)
    (end,) = ends
    assert isinstance(end, Failure)
    assert end.check(CancelledError)


def test_who_was_tried_there_goes_there_again_after_a_while() -> None:
    """Meanwhile it stands in nobody's way, of its own key either."""
    world = World()
    world.wait("a0", key="a", tried="b")
    world.wait("a1", key="a")
    world.make_room()
    assert world.given == ["a1"]
    world.make_room()
    world.clock.advance(1.9)
    assert world.given == ["a1"]
    world.clock.advance(0.1)
    world.clock.advance(0)
    assert world.given == ["a1", "a0"]
    assert world.clock.getDelayedCalls() == []


@pytest.mark.parametrize("ends", ["leaves", "timeout", "turned out", "nobody"])
def test_who_was_tried_there_and_waits_no_more(ends: str) -> None:
    """Nothing is left of it."""
    world = World(max_waiting=2, max_wait_s=1.0 if ends == "timeout" else 60.0)
    world.wait("a0", key="a", tried="b")
    waiting = world.wait("a1", key="a", tried="b")
    if ends == "leaves":
        waiting.cancel()
    elif ends == "timeout":
        world.clock.advance(1.0)
    elif ends == "turned out":
        world.wait("b0", key="b")
        world.clock.advance(0)
    else:
        world.clock.advance(2.0)
        world.nobody.add("m")
        world.make_room()
    assert "a1" in world.failed
    world.make_room(2)
    world.clock.advance(2.0)
    world.clock.advance(0)
    assert world.clock.getDelayedCalls() == []


def test_room_that_time_makes() -> None:
    """Is looked for when that time has come, and again at the next; by one timer."""
    world = World()
    world.queue.opens_s = lambda: 10.0 if world.clock.seconds() < 10.0 else 15.0
    world.wait("a")
    world.wait("b")
    assert len([one for one in world.clock.getDelayedCalls() if one.getTime() < 60.0]) == 1
    world.clock.advance(9.0)
    world.room["m"] = 1
    world.clock.advance(1.0)
    world.clock.advance(0)
    assert world.given == ["a"]
    world.room["m"] = 1
    world.clock.advance(5.0)
    world.clock.advance(0)
    assert world.given == ["a", "b"]
    assert world.clock.getDelayedCalls() == []


def test_room_that_time_made_just_now() -> None:
    """Is looked for, though others come and go between that moment and the timer's."""
    world = World()
    world.queue.opens_s = lambda: 10.0 if world.clock.seconds() < 10.0 else inf
    world.wait("a")
    world.room["m"] = 1
    world.clock.rightNow = 10.001  # the reactor is at sockets, and turns to timers after that
    world.wait("b").cancel()
    world.clock.pump([0, 0])
    assert world.given == ["a"]


@pytest.mark.parametrize("ends", ["given", "leaves", "timeout"])
def test_no_timer_when_nobody_waits(ends: str) -> None:
    """However the last one ended."""
    world = World(max_wait_s=5.0)
    world.queue.opens_s = lambda: 10.0
    world.queue.look()
    assert world.clock.getDelayedCalls() == []
    waiting = world.wait("a")
    if ends == "given":
        world.make_room()
    elif ends == "leaves":
        waiting.cancel()
    else:
        world.clock.advance(5.0)
    assert world.clock.getDelayedCalls() == []


@attrs.frozen
class Pace:
    """How fast room comes."""

    every_s: float
    told_s: float


@pytest.mark.parametrize("pace", [Pace(0.1, 2.0), Pace(2.0, 22.0), Pace(100.0, LONGEST_RETRY_S)])
def test_when_to_come_again(pace: Pace) -> None:
    """What it takes until those that wait have been given room, as fast as that comes lately."""
    world = World(max_waiting=10, max_wait_s=0.0)
    for number in range(40):
        world.wait(f"first{number}", key=f"k{number}")
        world.clock.advance(pace.every_s)
        world.make_room()
    for number in range(10):
        world.wait(f"then{number}", key=f"k{number}")
    world.wait("last", key="k0")
    error = world.failed["last"]
    assert isinstance(error, QueueFull)
    assert error.retry_after_s == pytest.approx(pace.told_s, abs=1.0)


def test_when_to_come_again_after_a_night() -> None:
    """Time in which nobody waited is not time in which no room came."""
    world = World(max_waiting=1, max_wait_s=0.0)
    for number in range(20):
        world.wait(f"a{number}")
        world.clock.advance(0.2)
        world.make_room()
        world.clock.advance(3600.0)
    world.wait("b")
    world.wait("c", key="b")
    error = world.failed["c"]
    assert isinstance(error, QueueFull)
    assert error.retry_after_s == 1.0


def test_other_limits() -> None:
    """Hold those that come; nobody who waits is turned out, or waits longer than was said."""
    world = World(max_waiting=2, max_wait_s=60.0)
    world.wait("a")
    world.wait("b")
    world.queue.hold_to(1, 10.0)
    assert world.queue.waiting == 2
    world.wait("c")
    assert type(world.failed.pop("c")) is QueueFull
    world.queue.hold_to(3, 10.0)
    world.wait("d")
    world.wait("e", model="other")
    world.clock.advance(10.0)
    assert sorted(world.failed) == ["d", "e"]
    world.clock.advance(50.0)
    assert sorted(world.failed) == ["a", "b", "d", "e"]
