"""The edge in memory: a site and its channels over fake connections and a `Clock`.

`Edge` is the daemon's side, `EdgeClient` the client's. Leaving ``with Edge() as edge:`` checks that
nothing is left over: no delayed call, no connection, no byte taken out of the budget.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

import attrs
import msgspec
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IAddress, ISSLTransport, ITransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import directlyProvides, implementer

from llmproxy.channel import LINGER_S, EdgeChannel, EdgeLimits
from llmproxy.errors import ClientGone, GatewayError
from llmproxy.proxy.answer import answer_error
from llmproxy.proxy.budget import ByteBudget
from llmproxy.resources.base import answer_json
from llmproxy.site import EdgeRequest, EdgeSite
from llmproxy.wire.forwarded import TrustedProxies

NOW_S = 1_700_000_000.0
"""What the edge under test takes for the time of day."""

Behaviour = Callable[[EdgeRequest], object]

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ([^\r\n]*)\Z")


@attrs.frozen
class Answer:
    """One answer, as a client reads it.

    Attributes:
        status: Its status.
        reason: Its reason phrase.
        fields: Its fields in order, names lower-cased.
        body: Its body, chunks put together.
        complete: Whether it ended as its framing says.
    """

    status: int
    reason: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes = b""
    complete: bool = True

    def field(self, name: bytes) -> bytes:
        """Give a field's value, of exactly one field of that name; nothing if there is none."""
        values = [value for field, value in self.fields if field == name]
        assert len(values) <= 1, f"{name!r} stands there {len(values)} times"
        return values[0] if values else b""

    @property
    def json(self) -> Any:
        """The body's JSON."""
        assert self.field(b"content-type") == b"application/json"
        return msgspec.json.decode(self.body)

    @property
    def error_code(self) -> str:
        """The code of the error that it tells of, its shape checked."""
        error = self.json["error"]
        assert sorted(error) == ["code", "message", "param", "type"]
        assert error["message"]
        assert error["type"]
        code: str = error["code"]
        return code


def read_answers(raw: bytes, methods: Sequence[str] = (), *, closed: bool = False) -> list[Answer]:
    """Read a client's input as a sequence of answers.

    Args:
        raw: All that the client received.
        methods: Of the requests, in order; GET where it ends.
        closed: Whether the connection is closed, so that an unframed body is complete.
    """
    answers: list[Answer] = []
    asked = deque(methods)
    while raw:
        head, found, raw = raw.partition(b"\r\n\r\n")
        assert found, f"an incomplete head: {head!r}"
        first, *lines = head.split(b"\r\n")
        matched = _STATUS_LINE.match(first)
        assert matched, f"not a status line of ours: {first!r}"
        status, reason = int(matched[1]), matched[2]
        split = [line.partition(b": ") for line in lines]
        assert all(colon for _, colon, _ in split), head
        answer = Answer(status, reason, tuple((name.lower(), value) for name, _, value in split))
        if 100 <= status < 200:
            answers.append(answer)
            continue
        method = asked.popleft() if asked else "GET"
        body, complete = b"", True
        if method != "HEAD" and status not in (204, 304):
            body, complete, raw = _read_body(answer, raw, closed)
        answers.append(attrs.evolve(answer, body=body, complete=complete))
    return answers


def _read_body(answer: Answer, raw: bytes, closed: bool) -> tuple[bytes, bool, bytes]:
    """Give the body, whether it is complete, and what follows it."""
    if answer.field(b"transfer-encoding"):
        assert answer.field(b"transfer-encoding") == b"chunked"
        assert not answer.field(b"content-length")
        body = b""
        while True:
            size_line, found, rest = raw.partition(b"\r\n")
            if not found:
                return body, False, b""
            size = int(size_line, 16)
            piece, end, raw = rest[:size], rest[size : size + 2], rest[size + 2 :]
            assert end == b"\r\n"
            if not size:
                return body, True, raw
            body += piece
    length = answer.field(b"content-length")
    if length:
        size = int(length)
        return raw[:size], len(raw) >= size, raw[size:]
    return raw, closed, b""


@implementer(ITransport)
class MemoryConnection:
    """The daemon's end of a TCP connection, as far as the channel uses one.

    Attributes:
        written: All that was sent to the client.
        reading: Whether what the client sends is read.
        full: Whether the client takes nothing any more.
        closing: Closed as soon as the client has taken all.
        half_closed: Nothing more is written, but read.
        aborted: Cut, with a reset.
        lost: Whether the channel was told of the end.
        producer: Who is paused while it is full.
        no_delay: Whether small pieces go out at once.
        closed_below: Whether TLS was told to wait no longer for the client's own close.
        subject: Of the client's certificate.
    """

    disconnecting = False

    def __init__(self, peer: IAddress) -> None:
        self.written = bytearray()
        self.reading = True
        self.full = self.closing = self.half_closed = self.aborted = self.lost = False
        self.producer: Any = None
        self.no_delay = self.closed_below = False
        self.subject = ""
        self._peer = peer

    def write(self, data: bytes) -> None:
        """Take what is sent to the client."""
        assert not self.half_closed, f"written after the end: {data!r}"
        if not self.lost and not self.aborted:
            self.written += data

    def writeSequence(self, pieces: Iterable[bytes]) -> None:
        """Take several pieces."""
        self.write(b"".join(pieces))

    def loseConnection(self) -> None:
        """Close when all is written; nothing is read any more."""
        self.closing = True

    def loseWriteConnection(self) -> None:
        """Close the half that we write to."""
        self.half_closed = True

    def abortConnection(self) -> None:
        """Cut it."""
        self.aborted = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Note it."""
        self.no_delay = enabled

    def getHandle(self) -> object:
        """Give no socket: there is none."""
        return None

    def client_subject(self) -> str:
        """Give the subject of the client's certificate, as TLS would."""
        return self.subject

    def close_below(self) -> None:
        """Note that nobody waits for the client's close, as TLS would."""
        assert self.closing
        self.closed_below = True

    def getPeer(self) -> IAddress:
        """Give the client's address."""
        return self._peer

    def getHost(self) -> IAddress:
        """Give our own address."""
        return IPv4Address("TCP", "192.0.2.1", 8000)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Attach who is to be paused."""
        assert self.producer is None
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        """Detach it; once more does nothing, as with Twisted's."""
        self.producer = None

    def pauseProducing(self) -> None:
        """Read no further."""
        self.reading = False

    def resumeProducing(self) -> None:
        """Read on."""
        self.reading = True

    def stopProducing(self) -> None:
        """Close."""
        self.loseConnection()


class EdgeClient:
    """A client of the edge under test.

    Attributes:
        connection: The daemon's end.
        channel: What is under test.
    """

    def __init__(self, edge: Edge, connection: MemoryConnection, channel: EdgeChannel) -> None:
        self._edge = edge
        self._sent: deque[bytes] = deque()
        self.connection = connection
        self.channel = channel

    def send(self, *reads: bytes) -> EdgeClient:
        """Send bytes, each argument arriving as one read, as soon as the daemon reads."""
        self._sent.extend(reads)
        self._edge.turn()
        return self

    def turn(self) -> bool:
        """Do what the reactor would do in one turn; tell whether there was anything to do."""
        connection = self.connection
        if connection.lost:
            return False
        if connection.aborted:
            self._lose(ConnectionAborted())
        elif connection.closing:
            if connection.full:
                return False
            self._lose(ConnectionDone())
        elif self._sent and connection.reading:
            self.channel.dataReceived(self._sent.popleft())
        else:
            return False
        return True

    def _lose(self, reason: Exception) -> None:
        self.connection.lost = True
        self.channel.connectionLost(Failure(reason))

    @property
    def unread_bytes(self) -> int:
        """How much of what was sent the daemon has not read."""
        return sum(map(len, self._sent))

    def leave(self) -> None:
        """Close the client's end."""
        if not self.connection.lost:
            self._lose(ConnectionDone())
        self._edge.turn()

    def cut(self) -> None:
        """Have the daemon cut the connection."""
        self.channel.abort()
        self._edge.turn()

    def stop_taking(self) -> None:
        """Take nothing any more: the daemon's buffer is full."""
        self.connection.full = True
        if self.connection.producer is not None:
            self.connection.producer.pauseProducing()

    def take_again(self) -> None:
        """Take all that is there."""
        self.connection.full = False
        if self.connection.producer is not None:
            self.connection.producer.resumeProducing()
        self._edge.turn()

    @property
    def received(self) -> bytes:
        """All that was received."""
        return bytes(self.connection.written)

    @property
    def is_closed(self) -> bool:
        """Whether the daemon has closed the connection, or at least its half of it."""
        return self.connection.half_closed or self.connection.lost

    def answers(self, *methods: str) -> list[Answer]:
        """Read what was received; see `read_answers`."""
        ended_well = self.is_closed and not self.connection.aborted
        return read_answers(self.received, methods, closed=ended_well)

    def answer(self, method: str = "GET") -> Answer:
        """Give the only answer."""
        (answer,) = self.answers(method)
        return answer


class Stage(Resource):
    """The resource under test: takes every path, and does what the test says.

    Attributes:
        behaviour: What it does with a request.
        requests: Those that came, in order.
    """

    isLeaf = True

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__()
        self.behaviour = behaviour
        self.requests: list[EdgeRequest] = []

    def render(self, request: Any) -> int:
        """Let the behaviour answer."""
        self.requests.append(request)
        self.behaviour(request)
        return NOT_DONE_YET


class Edge:
    """The edge under test.

    Args:
        behaviour: What the resource does with a request; None: it echoes it, as `echo` does.
        resource: Instead of that resource.
        limits: Of each connection.
        max_connections: Of the site.
        replaces_idle: Of the site.
        trusted: Networks of trusted proxies.
        budget_bytes: What all bodies may take.
        body_limit_bytes: What `echo` allows a body.
        cors_fields: Gives fields to add to answers.
        reactor: Keeps time for the site; None: ``clock``.

    Attributes:
        clock: All deadlines' clock.
        stage: The resource, when it is ours.
        logged: The requests that the site had logged.
        refused: The code, client and request id of each error that met no request.
        budget: Where `echo` takes its bytes from.
        body_failures: How bodies ended that `echo` could not read.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        resource: IResource | None = None,
        limits: EdgeLimits | None = None,
        max_connections: int = 100,
        replaces_idle: bool = False,
        trusted: Sequence[str] = (),
        budget_bytes: int = 1 << 20,
        body_limit_bytes: int = 1 << 20,
        cors_fields: Callable[[EdgeRequest], Sequence[tuple[bytes, bytes]]] = lambda _: (),
        reactor: Any = None,
    ) -> None:
        self.clock = Clock()
        self.stage = Stage(behaviour or self.echo)
        self.logged: list[EdgeRequest] = []
        self.refused: list[tuple[str, str, str]] = []
        self.budget = ByteBudget(budget_bytes)
        self.body_failures: list[type[BaseException]] = []
        self._body_limit_bytes = body_limit_bytes
        self._clients: list[EdgeClient] = []
        self._ids = 0
        self.site = EdgeSite(
            self.stage if resource is None else resource,
            reactor=reactor or self.clock,
            limits=limits or EdgeLimits(),
            max_connections=max_connections,
            replaces_idle=replaces_idle,
            trusted_proxies=TrustedProxies(trusted),
            now=lambda: NOW_S,
            random_bytes=self._next_bytes,
            cors_fields=cors_fields,
            log_request=self.logged.append,
            log_refused=lambda error, ip, name: self.refused.append((error.code, ip, name)),
        )

    def __enter__(self) -> Edge:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            return
        for client in self._clients:
            client.leave()
        left = [str(call) for call in self.clock.getDelayedCalls()]
        assert left == [], "delayed calls are left"
        assert repr(self.site) == "<EdgeSite 0 connections>"
        assert self.budget.taken_bytes == 0, "bytes were not given back"

    def _next_bytes(self, size: int) -> bytes:
        self._ids += 1
        return self._ids.to_bytes(size, "big")

    def connect(self, host: str = "192.0.2.7", *, tls: bool = False) -> EdgeClient:
        """Open a connection."""
        client = self.try_connect(IPv4Address("TCP", host, 50000), tls=tls)
        assert client is not None
        return client

    def try_connect(self, peer: IAddress, *, tls: bool = False) -> EdgeClient | None:
        """Open a connection, if the site takes it."""
        channel = self.site.buildProtocol(peer)
        if channel is None:
            return None
        connection = MemoryConnection(peer)
        if tls:
            directlyProvides(connection, ISSLTransport)
        client = EdgeClient(self, connection, channel)
        self._clients.append(client)
        channel.makeConnection(connection)
        return client

    def turn(self) -> None:
        """Let the reactor turn until nothing happens any more."""
        while any(client.turn() for client in self._clients):
            pass

    def advance(self, *steps_s: float) -> None:
        """Let time pass."""
        for step_s in steps_s:
            self.clock.advance(step_s)
            self.turn()

    def linger_out(self) -> None:
        """Let so much time pass that no connection lingers any more."""
        self.advance(LINGER_S)

    def echo(self, request: EdgeRequest) -> None:
        """Read the body and tell what came."""

        def tell(body: bytes) -> None:
            self.budget.give_back(len(body))
            answer_json(request, 200, echoed(request, body))

        def refuse(failure: Failure) -> None:
            error = failure.value
            assert error is not None
            self.body_failures.append(type(error))
            if isinstance(error, GatewayError):
                answer_error(request, error)
            elif not isinstance(error, ClientGone):
                failure.raiseException()

        request.read_body(self._body_limit_bytes, self.budget).addCallbacks(tell, refuse)


def ignore(request: EdgeRequest) -> None:
    """Leave a request unanswered."""


def answer_only(request: EdgeRequest) -> None:
    """Answer without ever asking for the body."""
    answer_json(request, 200, "answered")


def echoed(request: EdgeRequest, body: bytes) -> dict[str, str]:
    """Give what `Edge.echo` tells of a request."""
    return {
        "method": request.method.decode("latin-1"),
        "uri": request.uri.decode("latin-1"),
        "host": request.header(b"host").decode("latin-1"),
        "body": body.decode("latin-1"),
    }


def get(path: str = "/", *lines: str, version: str = "1.1", method: str = "GET") -> bytes:
    """Write a request without a body."""
    head = [f"{method} {path} HTTP/{version}", "Host: gateway.test", *lines]
    return ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")


def post(body: bytes, *lines: str, path: str = "/", version: str = "1.1") -> bytes:
    """Write a request whose body has a length."""
    lines = (*lines, f"Content-Length: {len(body)}")
    return get(path, *lines, method="POST", version=version) + body


def post_chunked(*pieces: bytes, path: str = "/") -> bytes:
    """Write a request whose body comes in those chunks."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return get(path, "Transfer-Encoding: chunked", method="POST") + chunks + b"0\r\n\r\n"
