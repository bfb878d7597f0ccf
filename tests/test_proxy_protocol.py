"""The PROXY protocol on connections: in memory, and over sockets with TLS and the edge above it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure

from llmproxy.proxy_protocol import HeaderReader, ProxyProtocolFactory
from llmproxy.wire.forwarded import TrustedProxies

PROXY = IPv4Address("TCP", "10.0.0.5", 7777)
HEADER = b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 8000\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24"
    + bytes.fromhex("20010db8000000000000000000000007")
    + bytes(16)
    + b"\x01\x00\x1f\x40"
)
V2_UNIX = b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8" + bytes(216)
TIMEOUT_S = 10.0


class Recorder(Protocol):
    """The protocol behind the header: notes what comes."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.lost = 0

    def connectionMade(self) -> None:
        """Note who it is."""
        assert self.transport is not None
        self.peer = self.transport.getPeer()

    def dataReceived(self, data: bytes) -> None:
        """Note it."""
        self.received.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Note it."""
        self.lost += 1


class Transport(StringTransport):
    """A connection's transport, as far as the header's reader uses it."""

    protocol: Any

    def present_peer(self, peer: IAddress) -> None:
        """Have another peer."""
        self.peerAddr = peer

    def receive(self, data: bytes) -> None:
        """Give bytes to whoever is there."""
        self.protocol.dataReceived(data)

    def end(self) -> None:
        """Tell whoever is there."""
        self.protocol.connectionLost(Failure(ConnectionError()))


class World:
    """A factory behind the PROXY protocol, and its connections.

    Attributes:
        clock: Keeps time.
        made: The protocols of the wrapped factory, and for whom it was asked to make them.
        full: Whether the wrapped factory wants no more.
        factory: What is tested.
    """

    def __init__(self, trusted: list[str] | None = None, max_waiting: int = 9) -> None:
        self.clock = Clock()
        self.made: list[tuple[Any, Recorder]] = []
        self.full = False
        world = self

        class Wrapped(Factory):
            """Makes the protocols."""

            def buildProtocol(self, addr: Any) -> Recorder | None:
                """Make one."""
                if world.full:
                    return None
                world.made.append((addr, Recorder()))
                return world.made[-1][1]

        wrapped: Any = Wrapped()
        self.factory = ProxyProtocolFactory(
            wrapped,
            trusted=None if trusted is None else TrustedProxies(trusted),
            reactor=self.clock,
            header_timeout_s=TIMEOUT_S,
            max_waiting=max_waiting,
        )

    def connect(self, peer: IAddress = PROXY) -> Transport:
        """Connect; the connection must be wanted."""
        protocol = self.factory.buildProtocol(peer)
        assert isinstance(protocol, HeaderReader)
        transport = Transport(peerAddress=peer)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return transport


@pytest.mark.parametrize(
    ("header", "peer"),
    [
        (HEADER, IPv4Address("TCP", "192.0.2.7", 50000)),
        (V2, IPv6Address("TCP", "2001:db8::7", 256)),
        (V2_UNIX, UNIXAddress(None)),
        (b"PROXY UNKNOWN\r\n", PROXY),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", PROXY),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_whose_connection_it_is(header: bytes, peer: IAddress, size: int) -> None:
    """The protocol behind it begins when it is complete, and sees the client as its peer."""
    world = World()
    transport = world.connect()
    data = header + b"GET /"
    for start in range(0, len(data), size):
        assert bool(world.made) == (start >= len(header))
        transport.receive(data[start : start + size])
    ((asked_for, above),) = world.made
    assert (asked_for, above.peer) == (peer, peer)
    assert transport.protocol is above
    assert b"".join(above.received) == b"GET /"
    assert world.clock.getDelayedCalls() == []
    assert repr(world.factory) == "<ProxyProtocolFactory waiting=0>"
    transport.end()
    assert above.lost == 1


@given(
    st.sampled_from([HEADER, V2, V2_UNIX, b"PROXY UNKNOWN\r\n", b"PROXY TCP4 x\r\n", b"GET /"]),
    st.binary(max_size=50),
    st.data(),
)
def test_any_pieces(header: bytes, rest: bytes, draw: st.DataObject) -> None:
    """However the bytes come, the same is made of them."""
    data = header + rest

    def outcome(*cuts: int) -> tuple[object, ...]:
        world = World()
        transport = world.connect()
        ends = [*sorted(cuts), len(data)]
        for start, end in zip([0, *ends], ends, strict=False):
            transport.receive(data[start:end])
        received = [(above.peer, b"".join(above.received)) for _, above in world.made]
        return received, transport.disconnected, len(world.clock.getDelayedCalls())

    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=9))
    assert outcome(*cuts) == outcome()


def test_nothing_behind_it() -> None:
    """A header that comes alone is followed by nothing, not by an empty piece."""
    world = World()
    world.connect().receive(HEADER)
    assert world.made[0][1].received == []


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02", b"PROXY TCP4 x\r\n"])
def test_no_header(said: bytes) -> None:
    """It is cut, without an answer; the reason is in the log for who wants to know."""
    events: list[Any] = []
    observe: Any = events.append
    globalLogPublisher.addObserver(observe)
    world = World()
    transport = world.connect()
    transport.receive(said)
    globalLogPublisher.removeObserver(observe)
    assert transport.disconnected
    assert (transport.value(), world.made) == (b"", [])
    transport.receive(HEADER)
    transport.end()
    assert world.made == []
    assert world.clock.getDelayedCalls() == []
    (event,) = events
    assert event["log_level"] is LogLevel.debug


def test_a_header_that_does_not_come() -> None:
    """It has its time, however slowly it trickles in."""
    world = World()
    transport = world.connect()
    for byte in HEADER[:9]:
        world.clock.advance(TIMEOUT_S / 10)
        transport.receive(bytes((byte,)))
    assert not transport.disconnected
    world.clock.advance(TIMEOUT_S / 10)
    assert transport.disconnected
    transport.end()
    assert world.clock.getDelayedCalls() == []


def test_who_leaves_before() -> None:
    """Nobody above hears of it, and nothing is left."""
    world = World()
    transport = world.connect()
    transport.receive(HEADER[:5])
    transport.end()
    assert world.made == []
    assert repr(world.factory) == "<ProxyProtocolFactory waiting=0>"
    assert world.clock.getDelayedCalls() == []


def test_who_may_say_it() -> None:
    """With trusted proxies only they, and a Unix socket's peers if they are named."""
    world = World(["10.0.0.0/8"])
    world.connect(PROXY)
    world.connect(IPv6Address("TCP", "::ffff:10.0.0.5", 1))
    for stranger in (IPv4Address("TCP", "192.0.2.7", 1), UNIXAddress(None), UNIXAddress(b"")):
        assert world.factory.buildProtocol(stranger) is None
    World(["unix:"]).connect(UNIXAddress(b""))
    everybody = World()
    everybody.connect(UNIXAddress(None))
    everybody.connect(IPv4Address("TCP", "192.0.2.7", 1))


def test_no_room() -> None:
    """Neither for those that say nothing, nor for a client too many."""
    world = World(max_waiting=2)
    first, _ = world.connect(), world.connect()
    assert world.factory.buildProtocol(PROXY) is None
    world.full = True
    first.receive(HEADER + b"GET /")
    assert first.disconnected
    first.end()
    world.full = False
    world.connect().receive(HEADER)
    assert len(world.made) == 1
