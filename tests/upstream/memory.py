"""Connections to a backend in memory: a transport that ends as a real one does, and a clock."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer

from llmproxy.upstream.connection import BackendConnection
from llmproxy.upstream.pool import ConnectionPool
from llmproxy.upstream.response import UpstreamResponse
from tests.upstream.receiver import Receiver


class MemoryTransport(StringTransport):
    """A transport in memory; as on a real one, its protocol hears of the end a turn later.

    Attributes:
        aborted: Whether it was cut.
        disconnecting: Whether it was closed or cut.
    """

    def __init__(self, clock: Clock, protocol: Protocol) -> None:
        super().__init__()
        self._clock = clock
        self._protocol: Protocol | None = protocol
        self.aborted = False

    def loseConnection(self) -> None:
        """Close."""
        if not self.disconnecting:
            self.disconnecting = True
            self._clock.callLater(0, self.lose, ConnectionDone())

    def abortConnection(self) -> None:
        """Cut."""
        if not self.aborted:
            self.aborted = self.disconnecting = True
            self._clock.callLater(0, self.lose, ConnectionAborted())

    def lose(self, error: Exception) -> None:
        """Let the connection end, from either side."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            self.disconnecting = True
            if self.producer is not None:
                self.producer.stopProducing()
            protocol.connectionLost(Failure(error))

    def pull(self) -> None:
        """Ask the producer of a body for its next slice."""
        producer: Any = self.producer
        producer.resumeProducing()

    def pull_all(self) -> None:
        """Be rid of each slice of a pulled body at once."""
        while self.producer is not None:
            self.pull()

    @property
    def paused(self) -> bool:
        """Whether nothing would be read."""
        return bool(self.producerState == "paused")


class Asked:
    """A request that was sent, and what became of it."""

    def __init__(self, answer: Deferred[UpstreamResponse]) -> None:
        self.answer = answer
        self._results: list[Any] = []
        answer.addBoth(self._results.append)

    @property
    def waiting(self) -> bool:
        """Whether there is no answer yet."""
        return not self._results

    @property
    def response(self) -> UpstreamResponse:
        """The answer."""
        (result,) = self._results
        assert isinstance(result, UpstreamResponse), result
        return result

    @property
    def error(self) -> str:
        """The name of the error that came instead of an answer."""
        (result,) = self._results
        assert isinstance(result, Failure), result
        return type(result.value).__name__

    def receive(self, receiver: Receiver | None = None) -> Receiver:
        """Have the body delivered."""
        receiver = receiver or Receiver()
        self.response.deliverBody(receiver)
        return receiver


class Line:
    """One connection in memory, and both its ends."""

    def __init__(self, rig: Rig) -> None:
        self.connection = BackendConnection(rig.pool)
        self.transport = MemoryTransport(rig.clock, self.connection)
        self.connection.makeConnection(self.transport)
        rig.pool.add(self.connection)

    def ask(
        self, method: bytes = b"GET", target: bytes = b"/", body: IBodyProducer | None = None
    ) -> Asked:
        """Send a request."""
        return Asked(self.connection.send(method, target, b"Host: b.test\r\n", body))

    def say(self, *reads: bytes) -> None:
        """Let the backend say something, one read after the other."""
        for read in reads:
            self.connection.dataReceived(read)

    @property
    def sent(self) -> bytes:
        """What was sent since the last look."""
        sent = self.transport.value()
        self.transport.clear()
        return sent


class Rig:
    """A pool on a clock."""

    def __init__(self, **pool: Any) -> None:
        self.clock = Clock()
        self.pool = ConnectionPool(self.clock, **pool)

    def line(self) -> Line:
        """Make a connection."""
        return Line(self)

    def idle_line(self, head: bytes = b"") -> Line:
        """Make a connection that has carried one request and gone back to the pool."""
        line = self.line()
        line.ask()
        line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + head + b"\r\n")
        line.transport.clear()
        return line

    def turn(self) -> None:
        """Let what is due happen."""
        self.clock.advance(0)

    def finish(self) -> None:
        """Close the pool; nothing may be left then."""
        self.pool.close()
        self.turn()
        assert self.pool.counts == (0, 0)
        assert self.clock.getDelayedCalls() == []
