"""Tests of `llmproxy.upstream.agent`: the contract, beside the stock agent, and what is ours."""

from __future__ import annotations

import errno
import gc
import socket
import threading
import time
from io import BytesIO
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectBindError, ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver
from twisted.internet.ssl import CertificateOptions
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface import implementer
from zope.interface.verify import verifyObject

from llmproxy.descriptors import DescriptorShortage
from llmproxy.errors import Overloaded
from llmproxy.upstream.agent import BackendAgent
from llmproxy.upstream.body import BytesBody
from llmproxy.upstream.pool import ConnectionPool
from llmproxy.upstream.tls import UncheckedConnections
from tests.scripted_backend import Connection
from tests.upstream import agent_contract
from tests.upstream.agent_contract import CLOSE_WITHIN_S, BadHead
from tests.upstream.loopback import UpstreamTestCase, reactor
from tests.upstream.memory import MemoryTransport
from tests.upstream.receiver import Receiver


class StockAgentTests(agent_contract.AgentContract):
    """Twisted's own agent: the oracle."""

    dead_before_head = ("ResponseNeverReceived", "ResponseFailed")
    refused_connection = "ConnectionRefusedError"
    refusals = ("ResponseFailed", "ResponseNeverReceived", "ValueError")

    def make_agent(self, url: str) -> IAgent:
        """Make one with a pool of its own."""
        pool = HTTPConnectionPool(reactor)
        self.addCleanup(pool.closeCachedConnections)
        return Agent(reactor, pool=pool)

    def make_body(self, octets: bytes) -> IBodyProducer:
        """Make a body; its consumer is no whole `IConsumer`, so ours would not do."""
        return FileBodyProducer(BytesIO(octets))

    def must_refuse(self, bad: BadHead) -> bool:
        """Those that it sees."""
        return bad.refused_by_stock


class BackendAgentTests(agent_contract.StrictAgentContract):
    """Our agent."""

    dead_before_head = ("ConnectionDied",)
    refused_connection = "ConnectFailed"

    def make_agent(self, url: str) -> IAgent:
        """Make one with a pool of its own."""
        return self.agent(url)

    def make_body(self, octets: bytes) -> IBodyProducer:
        """Make a body."""
        return BytesBody(octets)

    def test_provides_its_interface(self) -> None:
        """It is an `IAgent`."""
        self.assertTrue(verifyObject(IAgent, self.agent("http://127.0.0.1:1")))


class OurAgentTests(UpstreamTestCase):
    """What the stock agent has nothing like."""

    async def test_host_as_given(self) -> None:
        """The backend's own name for itself replaces the URL's."""

        def script(connection: Connection) -> None:
            connection.read_request()
            connection.answer(b"{}")

        backend = self.backend(script)
        agent = self.agent(backend.url, host=b"model.test")
        await self.receive(await self.ask(agent, backend.url + "/"))
        self.assertEqual(backend.seen[0].header("host"), "model.test")

    def test_refuses_other_origins(self) -> None:
        """Nothing is sent anywhere but to the backend's own origin."""
        pool = self.pool()
        agent = self.agent("http://127.0.0.1:8001/prefix", pool=pool)
        for uri in (
            b"http://127.0.0.1:80011/",
            b"http://127.0.0.1:8001",
            b"http://127.0.0.1:8001?x",
            b"http://127.0.0.1:8001@evil.test/",
            b"http://127.0.0.1:8001.evil.test/",
            b"http://user@127.0.0.1:8001/",
            b"http://127.0.0.1/",
            b"https://127.0.0.1:8001/",
            b"HTTP://127.0.0.1:8001/",
            b"//127.0.0.1:8001/",
            b"/v1/models",
            b"",
        ):
            with self.assertRaises(ValueError, msg=uri):
                agent.request(b"GET", uri)
        self.assertEqual(pool.counts, (0, 0))

    def test_refuses_what_would_end_the_request_line(self) -> None:
        """A target cannot smuggle a second line in, nor a fragment."""
        agent = self.agent("http://127.0.0.1:8001")
        for target in (b"/ HTTP/1.1\r\nA: b", b"/a b", b"/\r", b"/a\n", b"/#f", b"/\0", b"/\xe4"):
            with self.assertRaises(ValueError, msg=target):
                agent.request(b"GET", b"http://127.0.0.1:8001" + target)

    def test_refuses_a_body_of_unknown_length(self) -> None:
        """Only bodies that are wholly here go up."""
        body: Any = BytesBody(b"x")
        body.length = UNKNOWN_LENGTH
        with self.assertRaises(ValueError):
            self.agent("http://127.0.0.1:8001").request(
                b"POST", b"http://127.0.0.1:8001/", None, body
            )

    async def test_a_dead_reused_connection(self) -> None:
        """It says that it was reused, and its siblings are closed: they are as old."""
        gate: list[bool] = []

        def script(connection: Connection) -> None:
            connection.read_request()
            while len(backend.seen) < 3:
                time.sleep(0.002)
            connection.answer(b"{}")
            if connection.read_request() is not None:
                gate.append(True)
                return  # closes, with no byte back
            connection.sock.close()

        backend = self.backend(script)
        pool = self.pool()
        agent = self.agent(backend.url, pool=pool)
        url = backend.url.encode() + b"/"
        for answer in [agent.request(b"GET", url) for _ in range(3)]:
            await self.receive(await answer)
        self.assertEqual(pool.counts, (3, 3))
        failure = await self.failure_of(agent.request(b"POST", url, None, BytesBody(b"x")))
        self.assertEqual((failure, gate), ("ReusedConnectionDied", [True]))
        self.assertIn("idle=0", repr(pool))
        again = agent.request(b"GET", url)  # in the same turn
        await self.receive(await again)
        self.assertEqual(backend.connections, 4)

    async def test_a_reused_connection_that_dies_after_some_bytes(self) -> None:
        """The backend had begun to answer: that is no proof that it did not accept the request."""

        def script(connection: Connection) -> None:
            connection.read_request()
            connection.answer(b"{}")
            connection.read_request()
            connection.send(b"HTTP/1.1 200")

        backend = self.backend(script)
        agent = self.agent(backend.url)
        url = backend.url.encode() + b"/"
        await self.receive(await agent.request(b"GET", url))
        self.assertEqual(await self.failure_of(agent.request(b"GET", url)), "ConnectionDied")

    async def test_keep_alive_announced_and_not_kept(self) -> None:
        """llama-server closes after every stream and says otherwise: the next is a fresh one."""

        def script(connection: Connection) -> None:
            connection.read_request()
            connection.stream_head(b"Keep-Alive: timeout=5, max=100\r\n")
            connection.chunk(b"data: x\n\n")
            connection.chunk(b"")

        backend = self.backend(script)
        pool = self.pool()
        agent = self.agent(backend.url, pool=pool)
        for number in (1, 2, 3):
            receiver = await self.receive(await self.ask(agent, backend.url + "/"))
            self.assertEqual((receiver.body, receiver.end), (b"data: x\n\n", "ResponseDone"))
            await self.until(lambda: pool.counts == (0, 0))
            self.assertEqual(backend.connections, number)

    async def test_closed_right_behind_the_answer(self) -> None:
        """A request in the turn in which the answer before it ended goes over a fresh one."""
        closed = threading.Event()

        def script(connection: Connection) -> None:
            connection.read_request()
            connection.answer(b"{}")
            connection.sock.shutdown(socket.SHUT_RDWR)
            closed.set()

        backend = self.backend(script)
        agent = self.agent(backend.url)
        for number in (1, 2, 3):
            receiver = await self.receive(await self.ask(agent, backend.url + "/"))
            self.assertEqual((receiver.end, backend.connections), ("ResponseDone", number))
            self.assertTrue(closed.wait(5))  # and the reactor has read nothing meanwhile
            closed.clear()

    async def test_answered_before_the_request_was_sent(self) -> None:
        """The answer counts; the connection, with half a request on it, is not used again."""

        def script(connection: Connection) -> None:
            connection.sock.recv(1000)
            connection.answer(b"too large", status=b"413 Content Too Large")
            time.sleep(0.3)

        backend = self.backend(script)
        pool = self.pool()
        agent = self.agent(backend.url, pool=pool)
        body = BytesBody(bytes(32 << 20))
        response = await self.ask(agent, backend.url + "/", b"POST", body=body)
        receiver = await self.receive(response)
        self.assertEqual((response.code, receiver.body), (413, b"too large"))
        self.assertEqual(receiver.end, "ResponseDone")
        self.assertIn("idle=0", repr(pool))
        await self.until(lambda: pool.counts == (0, 0))

    async def test_cancelled_while_a_large_body_goes_up(self) -> None:
        """A backend that reads nothing sees the connection cut."""
        held: list[Connection] = []
        cut_at: list[float] = []

        def script(connection: Connection) -> None:
            connection.sock.recv(1000)
            held.append(connection)
            while not cancelled_at:
                time.sleep(0.002)
            connection.wait_for_close()
            cut_at.append(time.monotonic())

        cancelled_at: list[float] = []
        backend = self.backend(script)
        answer = self.agent(backend.url).request(
            b"POST", backend.url.encode() + b"/", None, BytesBody(bytes(32 << 20))
        )
        await self.until(lambda: bool(held))
        await self.sleep(0.05)
        answer.cancel()
        cancelled_at.append(time.monotonic())
        self.assertEqual(await self.failure_of(answer), "CancelledError")
        await self.until(lambda: bool(cut_at))
        self.assertLess(cut_at[0] - cancelled_at[0], CLOSE_WITHIN_S)

    async def test_a_head_that_never_ends(self) -> None:
        """Byte for byte it may come until the bound, not further; closed before, it has died."""

        def endless(connection: Connection) -> None:
            connection.read_request()
            connection.send(b"HTTP/1.1 200 OK\r\nA: ")
            for _ in range(200):
                connection.send(b"a" * 1024)

        backend = self.backend(endless)
        answer = self.agent(backend.url).request(b"GET", backend.url.encode() + b"/")
        self.assertEqual(await self.failure_of(answer), "BadResponse")

        def closing(connection: Connection) -> None:
            connection.read_request()
            connection.send(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 1000)

        backend = self.backend(closing)
        answer = self.agent(backend.url).request(b"GET", backend.url.encode() + b"/")
        self.assertEqual(await self.failure_of(answer), "ConnectionDied")

    async def test_backpressure(self) -> None:
        """While the receiver is paused, nothing is read: the backend is held by its socket."""
        total = 50 << 20
        sent: list[int] = [0]

        def script(connection: Connection) -> None:
            connection.read_request()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
            piece = bytes(1 << 20)
            while sent[0] < total:
                connection.send(piece)
                sent[0] += len(piece)

        backend = self.backend(script)
        response = await self.ask(self.agent(backend.url), backend.url + "/")
        size_bytes = [0]

        def count(receiver: Receiver) -> None:
            size_bytes[0] += len(receiver.pieces.pop())

        receiver = Receiver(count)
        await self.sleep(0.05)
        response.deliverBody(receiver)
        transport: Any = receiver.transport
        await self.until(lambda: size_bytes[0] > 0)
        transport.pauseProducing()
        before = size_bytes[0]
        await self.sleep(0.15)
        held_at = sent[0]
        await self.sleep(0.1)
        self.assertEqual((size_bytes[0], sent[0]), (before, held_at))
        self.assertLess(held_at - before, 16 << 20)
        transport.resumeProducing()
        await receiver.ended
        self.assertEqual((size_bytes[0], receiver.end), (total, "ResponseDone"))

    def test_repr(self) -> None:
        """It shows the origin and the pool, and no path."""
        self.assertEqual(
            repr(self.agent("http://127.0.0.1:8001/secret")),
            "<BackendAgent http://127.0.0.1:8001 "
            "<ConnectionPool idle=0 (at most 256, for 4 s) open=0>>",
        )


@implementer(IHostnameResolver)
class Resolver:
    """Finds what it is told to; or nothing; or never comes to an end."""

    def __init__(self, *addresses: str, ends: bool = True) -> None:
        self.addresses = addresses
        self.ends = ends
        self.receivers: list[Any] = []

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        """Answer at once, if at all."""
        self.receivers.append(resolutionReceiver)
        resolutionReceiver.resolutionBegan(self)
        for address in self.addresses:
            resolutionReceiver.addressResolved(IPv4Address("TCP", address, portNumber))
        if self.ends:
            resolutionReceiver.resolutionComplete()
        return self


class ConnectTests(SynchronousTestCase):
    """The way to a connection, on a reactor in memory."""

    address = IPv4Address("TCP", "192.0.2.1", 8001)

    def begin(
        self,
        url: bytes = b"http://backend.test:8001",
        resolver: Resolver | None = None,
        **more: Any,
    ) -> None:
        """Send a request.

        Args:
            url: The backend.
            resolver: Finds one address, unless another is given.
            more: Options of the agent.
        """
        self.reactor = MemoryReactorClock()
        self.assertTrue(IReactorPluggableNameResolver.providedBy(self.reactor))
        self.reactor.installNameResolver(resolver or Resolver("192.0.2.1"))
        self.pool = ConnectionPool(self.reactor)
        tls = UncheckedConnections(CertificateOptions().getContext(), "backend.test")
        agent = BackendAgent(
            self.reactor,
            url,
            self.pool,
            connect_timeout_s=more.pop("connect_timeout_s", 5.0),
            tls=tls if url.startswith(b"https") else None,
            shortage=DescriptorShortage(self.reactor),
        )
        self.answer: Deferred[IResponse] = agent.request(b"GET", url + b"/", Headers())

    def connect(self, number: int = 0) -> MemoryTransport:
        """Let a connection be made."""
        protocol: Any = self.reactor.tcpClients[number][2].buildProtocol(self.address)
        transport = MemoryTransport(cast("Any", self.reactor), protocol)
        protocol.makeConnection(transport)
        return transport

    def refuse(self) -> None:
        """Let the first attempt fail."""
        factory: Any = self.reactor.tcpClients[0][2]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def ends_with(self, error: str) -> None:
        """The request has failed so, and nothing is left of it."""
        failure = self.failureResultOf(self.answer)
        self.assertEqual(type(failure.value).__name__, error)
        self.reactor.advance(0)
        self.assertEqual(self.pool.counts, (0, 0))
        self.pool.close()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        del failure
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_no_such_name(self) -> None:
        """A name without an address is a backend out of reach."""
        self.begin(resolver=Resolver())
        self.ends_with("ConnectFailed")

    def test_no_name_at_all(self) -> None:
        """So is what cannot be a name."""
        self.begin(url=b"http://back..end:8001")
        self.ends_with("ConnectFailed")

    def test_no_descriptor_left(self) -> None:
        """It is the gateway that has too much to do; the backend is not to blame."""
        self.begin()
        factory: Any = self.reactor.tcpClients[0][2]
        lacking = ConnectBindError(errno.EMFILE, "Too many open files")
        factory.clientConnectionFailed(None, Failure(lacking))
        self.reactor.advance(0.3)
        error = self.failureResultOf(self.answer, Overloaded).value
        self.assertFalse(error.retryable or error.blames_backend)

    def test_refused(self) -> None:
        """So is a backend that refuses."""
        self.begin()
        self.refuse()
        self.reactor.advance(0.3)
        self.ends_with("ConnectFailed")

    def test_second_address(self) -> None:
        """When the first address refuses, the second is used."""
        self.begin(resolver=Resolver("192.0.2.1", "192.0.2.2"))
        self.refuse()
        self.reactor.advance(0.3)
        transport = self.connect(1)
        self.assertTrue(transport.value().startswith(b"GET / HTTP/1.1\r\nHost: backend.test:8001"))
        transport.lose(ConnectionDone())
        self.ends_with("ConnectionDied")

    def test_black_hole(self) -> None:
        """A connection that is never made is given up at ``connect_timeout``, not later."""
        self.begin(connect_timeout_s=5.0)
        self.reactor.pump([1.0, 1.0, 1.0, 1.9])
        self.assertNoResult(self.answer)
        self.reactor.advance(0.2)
        self.ends_with("ConnectFailed")
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)

    def test_black_holes(self) -> None:
        """Many addresses do not make it longer."""
        self.begin(resolver=Resolver(*(f"192.0.2.{n}" for n in range(1, 30))))
        self.reactor.pump([0.1] * 49)
        self.assertNoResult(self.answer)
        self.reactor.pump([0.1] * 2)
        self.ends_with("ConnectFailed")

    def test_silent_name_server(self) -> None:
        """Neither does the look-up of the name."""
        self.begin(resolver=Resolver(ends=False))
        self.reactor.advance(5.0)
        self.ends_with("ConnectFailed")

    def test_no_connect_timeout(self) -> None:
        """With zero there is none to speak of."""
        self.begin(connect_timeout_s=0)
        self.reactor.pump([600.0] * 3)
        self.assertNoResult(self.answer)
        self.answer.cancel()
        self.ends_with("CancelledError")

    def test_cancelled_in_the_look_up(self) -> None:
        """Nobody is told of a name that was not found, and the late answer is nobody's."""
        resolver = Resolver(ends=False)
        self.begin(resolver=resolver)
        self.answer.cancel()
        self.ends_with("CancelledError")
        resolver.receivers[0].addressResolved(IPv4Address("TCP", "192.0.2.1", 8001))
        resolver.receivers[0].resolutionComplete()
        self.assertEqual(self.reactor.tcpClients, [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_cancelled_while_connecting(self) -> None:
        """The attempt is stopped."""
        self.begin()
        self.answer.cancel()
        self.ends_with("CancelledError")
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)

    def test_cancelled_in_the_tls_handshake(self) -> None:
        """The connection is cut, and its end is no error that nobody takes."""
        self.begin(b"https://backend.test:8001")
        transport = self.connect()
        self.assertEqual(self.pool.counts, (0, 1))
        self.answer.cancel()
        self.assertTrue(transport.aborted)
        self.ends_with("CancelledError")

    def test_tls_handshake_that_hangs(self) -> None:
        """TCP and TLS have ``connect_timeout`` together."""
        self.begin(b"https://backend.test:8001", connect_timeout_s=5.0)
        self.reactor.advance(3.0)
        transport = self.connect()
        self.reactor.advance(1.9)
        self.assertNoResult(self.answer)
        self.reactor.advance(0.2)
        self.assertTrue(transport.aborted)
        self.ends_with("TlsFailed")

    def test_lost_in_the_tls_handshake(self) -> None:
        """A connection that ends before TLS is up is a failure of TLS."""
        self.begin(b"https://backend.test:8001")
        self.connect().lose(ConnectionDone())
        self.ends_with("TlsFailed")

    def test_cancelled_while_waiting_for_the_head(self) -> None:
        """The connection is cut."""
        self.begin()
        transport = self.connect()
        self.assertEqual(self.pool.counts, (0, 1))
        self.answer.cancel()
        self.assertTrue(transport.aborted)
        self.ends_with("CancelledError")
