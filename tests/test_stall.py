"""Clients that take nothing: told from slow ones by what their kernel acknowledges."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from llmproxy.stall import StallWatch


class Transport:
    """A transport over a real socket, or none."""

    def __init__(self, handle: object) -> None:
        self._handle = handle
        self.aborted = 0

    def getHandle(self) -> object:
        """Give the socket."""
        return self._handle

    def getPeer(self) -> IPv4Address:
        """Give some address."""
        return IPv4Address("TCP", "192.0.2.1", 1)

    def abortConnection(self) -> None:
        """Count."""
        self.aborted += 1


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection, ours with a small send buffer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with ours, client:
        ours.setblocking(False)
        yield ours, client


def fill(ours: socket.socket) -> None:
    """Send until the kernel takes no more."""
    for _ in range(10_000):
        try:
            ours.send(b"x" * 65536)
        except BlockingIOError:
            return
    raise AssertionError("the kernel takes all")


def take(client: socket.socket) -> None:
    """Take some megabytes, or all that there is: how much a kernel holds hangs on much else."""
    client.settimeout(0.2)
    taken = 0
    with suppress(TimeoutError):
        while taken < 4_000_000:
            taken += len(client.recv(1 << 20))
    assert taken


def test_client_that_takes_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    """It is cut once the time is over, and not before."""
    ours, _ = pair
    fill(ours)
    clock, transport = Clock(), Transport(ours)
    watch = StallWatch(clock, transport)
    watch.begin(60)
    assert repr(watch) == "<StallWatch on>"
    clock.advance(59)
    assert not transport.aborted
    clock.advance(1)
    assert transport.aborted
    assert clock.getDelayedCalls() == []


def test_slow_client_is_spared(pair: tuple[socket.socket, socket.socket]) -> None:
    """As long as it takes something within the time it may go on."""
    ours, client = pair
    fill(ours)
    clock, transport = Clock(), Transport(ours)
    StallWatch(clock, transport).begin(60)
    for _ in range(3):
        take(client)
        fill(ours)
        clock.advance(60)
        assert not transport.aborted
    clock.advance(60)
    assert transport.aborted


def test_end() -> None:
    """What is no longer watched is not cut; what begins twice is watched once."""
    clock, transport = Clock(), Transport(None)
    watch = StallWatch(clock, transport)
    watch.begin(60)
    watch.begin(60)
    assert len(clock.getDelayedCalls()) == 1
    watch.end()
    watch.end()
    assert clock.getDelayedCalls() == []
    watch.begin(0)
    assert clock.getDelayedCalls() == []
    clock.advance(1000)
    assert not transport.aborted


class LayeredTransport(Transport):
    """A transport over another one, as TLS is: its handle is no socket."""

    def __init__(self, transport: object) -> None:
        super().__init__(object())
        self.transport = transport


def test_slow_client_under_tls(pair: tuple[socket.socket, socket.socket]) -> None:
    """What its kernel takes is seen through the layers above the socket."""
    ours, client = pair
    fill(ours)
    clock, transport = Clock(), LayeredTransport(Transport(ours))
    StallWatch(clock, transport).begin(60)
    take(client)
    fill(ours)
    clock.advance(60)
    assert not transport.aborted
    clock.advance(60)
    assert transport.aborted


@pytest.mark.parametrize("family", ["none", "unix"])
def test_where_progress_cannot_be_seen(family: str) -> None:
    """Without TCP's own counts the whole time is the bound."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        clock, transport = Clock(), Transport(ours if family == "unix" else object())
        StallWatch(clock, transport).begin(5)
        clock.advance(5)
        assert transport.aborted
