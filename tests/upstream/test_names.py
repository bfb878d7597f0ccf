"""Tests of `llmproxy.upstream.names`."""

from __future__ import annotations

import queue
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostnameResolver, IHostResolution
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from llmproxy.upstream.names import AGAIN_S, FRESH_S, KEPT_S, PATIENCE_S, RememberingResolver

ONE, TWO, SIX = "192.0.2.1", "192.0.2.2", "2001:db8::6"
SERVER_SILENT = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
NO_SUCH_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def infos(*addresses: str) -> list[tuple[Any, ...]]:
    """Give what ``getaddrinfo`` gives, and a kind of address that nobody knows."""
    found: list[tuple[Any, ...]] = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", (1, b""))]
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        more = (0, 0) if ":" in address else ()
        found.append((family, socket.SOCK_STREAM, 6, "", (address, 0, *more)))
    return found


class Reactor(Clock):
    """A clock to which threads may talk."""

    def callFromThread(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call at once: the test's threads run when it lets them."""
        call(*arguments)


class Asked:
    """One who asks, and what it was told."""

    def __init__(self) -> None:
        self.resolution: Any = None
        self.addresses: list[Any] = []
        self.told = 0

    def resolutionBegan(self, resolution: Any) -> None:
        """Begin."""
        self.resolution = resolution

    def addressResolved(self, address: Any) -> None:
        """Take an address."""
        assert self.resolution is not None
        self.addresses.append(address)

    def resolutionComplete(self) -> None:
        """End."""
        self.told += 1

    @property
    def hosts(self) -> list[str] | None:
        """The addresses, in their order; None: not told yet."""
        assert self.told <= 1
        return [address.host for address in self.addresses] if self.told else None


class World:
    """A resolver whose threads the test runs."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.threads: list[tuple[str, Callable[[], None]]] = []
        self.answer: Exception | Sequence[tuple[Any, ...]] = infos(ONE)
        self.looked_up: list[str] = []
        self.resolver = RememberingResolver(self.reactor, self._look_up, self._in_thread)

    def _in_thread(self, name: str, run: Callable[[], None]) -> None:
        self.threads.append((name, run))

    def _look_up(self, name: str, port: int, type: int) -> Sequence[tuple[Any, ...]]:
        assert (port, type) == (0, socket.SOCK_STREAM)
        self.looked_up.append(name)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def ask(self, name: str = "backend.test", **more: Any) -> Asked:
        """Ask for a name."""
        asked = Asked()
        receiver: Any = asked
        resolution = self.resolver.resolveHostName(receiver, name, 8001, **more)
        assert resolution is asked.resolution
        return asked

    def end_look_up(self, *addresses: str, error: Exception | None = None) -> None:
        """Let the look-up that is under way, the only one, find this."""
        self.answer = error or infos(*addresses)
        ((_, run),) = self.threads
        self.threads.clear()
        run()

    def known(self, *addresses: str) -> None:
        """Have it know addresses that are not fresh any more."""
        self.ask()
        self.end_look_up(*addresses)
        self.reactor.advance(FRESH_S)


@pytest.fixture
def world() -> Iterator[World]:
    """Make a resolver; after the test, no timer may be left."""
    world = World()
    yield world
    assert world.reactor.getDelayedCalls() == []


def test_provides_its_interface(world: World) -> None:
    """A reactor takes it, and who asks may cancel, which changes nothing."""
    assert verifyObject(IHostnameResolver, world.resolver)
    asked = world.ask()
    assert verifyObject(IHostResolution, asked.resolution)
    assert asked.resolution.name == "backend.test"
    assert repr(world.resolver) == "<RememberingResolver hosts=1 asking=1>"
    asked.resolution.cancel()
    world.end_look_up(ONE)
    assert asked.hosts == [ONE]


def test_addresses_in_their_order(world: World) -> None:
    """Both kinds, as the system orders them, with the port of who asks."""
    asked = world.ask()
    world.end_look_up(SIX, TWO, ONE)
    assert asked.addresses == [
        IPv6Address("TCP", SIX, 8001),
        IPv4Address("TCP", TWO, 8001),
        IPv4Address("TCP", ONE, 8001),
    ]
    assert world.ask(addressTypes=(IPv4Address,)).hosts == [TWO, ONE]
    (address,) = world.ask(addressTypes=(IPv6Address,), transportSemantics="UDP").addresses
    assert address == IPv6Address("UDP", SIX, 8001)


def test_one_look_up_at_a_time(world: World) -> None:
    """All who ask meanwhile are told what it finds; another name has a look-up of its own."""
    asked = [world.ask() for _ in range(3)]
    assert [one.hosts for one in asked] == [None] * 3
    other = world.ask("other.test")
    assert [name for name, _ in world.threads] == ["backend.test", "other.test"]
    world.threads.pop()[1]()
    assert (other.hosts, world.looked_up) == ([ONE], ["other.test"])
    world.end_look_up(TWO)
    assert [one.hosts for one in asked] == [[TWO]] * 3


def test_fresh_addresses_are_not_looked_up(world: World) -> None:
    """For a while; then a change is followed by the first who asks."""
    world.ask()
    world.end_look_up(ONE)
    world.reactor.advance(FRESH_S - 0.1)
    assert world.ask().hosts == [ONE]
    assert world.threads == []
    world.reactor.advance(0.1)
    asked = world.ask()
    assert asked.hosts is None
    world.end_look_up(TWO)
    assert asked.hosts == [TWO]
    assert world.ask().hosts == [TWO]


def test_a_slow_look_up_is_not_waited_for(world: World) -> None:
    """Where addresses are known; what it finds in the end is used."""
    world.known(ONE)
    asked = world.ask()
    world.reactor.advance(PATIENCE_S - 0.1)
    assert asked.hosts is None
    world.reactor.advance(0.1)
    assert asked.hosts == [ONE]
    assert world.ask().hosts == [ONE]  # at once
    world.reactor.advance(30)
    assert world.ask().hosts == [ONE]
    world.end_look_up(TWO)
    assert asked.told == 1
    assert world.ask().hosts == [TWO]


def test_a_first_look_up_is_waited_for(world: World) -> None:
    """There is nothing else; who asks has a clock of its own."""
    asked = world.ask()
    world.reactor.advance(60)
    assert asked.hosts is None
    world.end_look_up(ONE)
    assert asked.hosts == [ONE]


@pytest.mark.parametrize("error", [SERVER_SILENT, OSError("Too many open files")])
def test_the_last_known_addresses(world: World, error: Exception) -> None:
    """Are used while look-ups fail, which are tried again now and then; not for ever."""
    world.known(ONE, SIX)
    asked = world.ask()
    world.end_look_up(error=error)
    assert asked.hosts == [ONE, SIX]
    assert world.ask().hosts == [ONE, SIX]
    assert world.threads == []
    world.reactor.advance(AGAIN_S)
    asked = world.ask()
    world.end_look_up(error=error)
    assert asked.hosts == [ONE, SIX]
    world.reactor.advance(KEPT_S)
    asked = world.ask()
    world.end_look_up(error=error)
    assert asked.hosts == []
    asked = world.ask()
    world.end_look_up(TWO)
    assert asked.hosts == [TWO]


def test_a_name_that_is_gone(world: World) -> None:
    """Has no addresses any more: that is an answer, and no failure to give one."""
    world.known(ONE)
    asked = world.ask()
    world.end_look_up(error=NO_SUCH_NAME)
    assert asked.hosts == []
    world.ask()
    world.end_look_up()
    asked = world.ask()
    world.end_look_up(TWO)
    assert asked.hosts == [TWO]


def test_no_thread_to_be_had() -> None:
    """Is a look-up that failed, a turn later."""

    def in_thread(name: str, run: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    world = World()
    world.resolver = RememberingResolver(world.reactor, in_thread=in_thread)
    asked = world.ask()
    assert asked.hosts is None
    world.reactor.advance(0)
    assert asked.hosts == []


def test_the_log_says_it_once(world: World) -> None:
    """That look-ups fail or are slow, and that they do not any more."""
    with capturedLogs() as events:
        world.known(ONE)
        for _ in range(3):
            world.reactor.advance(AGAIN_S)
            world.ask()
            world.end_look_up(error=SERVER_SILENT)
        for wait_s in (PATIENCE_S, 0.1):
            world.reactor.advance(FRESH_S)
            world.ask()
            world.reactor.advance(wait_s)
            world.end_look_up(ONE)
        world.ask("other.test")
        world.end_look_up(error=NO_SUCH_NAME)
    assert [formatEvent(event) for event in events] == [
        f"the name backend.test cannot be looked up: {SERVER_SILENT}; "
        "its last addresses are used, for 60 minutes at most",
        "the name backend.test can be looked up again",
        f"the name other.test cannot be looked up: {NO_SUCH_NAME}; "
        "nothing that has it can be reached",
    ]


def test_a_real_look_up() -> None:
    """In a thread, which tells the reactor."""
    reactor: Any = Clock()
    calls: queue.Queue[tuple[Any, ...]] = queue.Queue()
    reactor.callFromThread = lambda *call: calls.put(call)
    resolver = RememberingResolver(reactor)
    for name, expected in (("127.0.0.1", ["127.0.0.1"]), ("::1", ["::1"]), ("a" * 64, [])):
        asked: Any = Asked()
        resolver.resolveHostName(asked, name, 80)
        call, *arguments = calls.get(timeout=30)
        call(*arguments)
        assert asked.hosts == expected
