"""The edge under the fuzzer: what a client may send, and what must hold whatever it sends.

The words of its cases: ``alike`` (any cutting, and answering at once or late, gives the same),
``limits`` (over the bounds of a head only the cause of the refusal may differ), ``wild`` (clients
that stall and leave, resources that answer as they like: nothing breaks and nothing is left).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from llmproxy.channel import EdgeLimits
from llmproxy.errors import ClientGone, GatewayError
from llmproxy.proxy.answer import answer_error
from llmproxy.resources.base import answer_json
from llmproxy.site import EdgeRequest
from tests import recorded
from tests.edge import Answer, Edge, EdgeClient, answer_only, echoed, get, post, post_chunked
from tests.fuzz.case import Case, Difference, Part, mutated, random_cuts
from tests.raw_requests import REFUSED, TAKEN

BODY_LIMIT_BYTES = 1 << 20
MAX_HEADER_BYTES = 32 * 1024
TIGHT_HEADER_BYTES = 512

STEPS_S = (9.5, 0.5, 5, 14.5, 0.5, 5, 84.5, 0.5, 5)
"""By their end every clock of a connection on which nothing happens has run out."""

TOKENS: tuple[bytes, ...] = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b"\t", b" ", b":", b";", b",", b"/", b"*", b"\xff",
    b"GET ", b"POST ", b"HEAD / HTTP/1.1\r\n", b"OPTIONS ", b"CONNECT ", b"PRI * HTTP/2.0\r\n",
    b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/0.9\r\n", b"HTTP/1.1 200 OK\r\n", b"get /",
    b"Host: gateway.test\r\n", b"Host:\r\n", b"Host: a b\r\n", b"X-Request-ID: mine\r\n",
    b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Content-Length: 00003\r\n",
    b"Content-Length: 1000000\r\n", b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: \xb3\r\n", b"Content_Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding:\r\n", b"Expect: 100-continue\r\n",
    b"Expect: x\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Upgrade: websocket\r\n", b"Connection: \r\n",
    b"X: \xe9\r\n", b" folded\r\n", b"X : a\r\n", b": a\r\n", b"X:\r\n", b"0\r\n\r\n",
    b"3\r\nabc\r\n", b"3;a=b\r\nabc\r\n", b"3 ; a\r\n",
    b'3;a="b;c"\r\nabc\r\n', b"0\r\nX: y\r\n\r\n", b"0;a\r\n",
    b"0000000000000003\r\n", b"ffffffffffffffff\r\n", b"fffffffffffffffff\r\n", b"-1\r\n",
    b"0x3\r\n",
)  # fmt: skip

_UPGRADE = ("Connection: Upgrade", "Upgrade: h2c")
_KNOWN = tuple(
    raw
    for raw in (*(sent[0] for sent in REFUSED.values()), *(sent[0] for sent in TAKEN.values()))
    if len(raw) < 4000
)
_RECORDED = tuple(
    raw for name in recorded.names() if len(raw := recorded.load(name).request_bytes) < 4000
)


def request(rng: random.Random) -> tuple[bytes, bytes | None]:
    """Write one request, most of the time a good one.

    Returns:
        It, and its body; None for the body of one that is not taken, or is the last.
    """
    body = rng.randbytes(rng.choice((0, 1, 3, 20, 20, 300, 5000)))
    path = rng.choice(("/", "/1", "/v1/models?x", "//a%00", "http://b.test/x", "*"))
    lines = [
        line
        for line in (
            "Connection: close", "Connection: keep-alive", "Expect: 100-continue",
            "X-Request-ID: mine", "X-Forwarded-For: 198.51.100.1", "Accept:", "X: \xe9\t",
        )
        if rng.random() < 0.06
    ]  # fmt: skip
    if rng.random() < 0.1:
        lines += _UPGRADE
    version = "1.0" if rng.random() < 0.05 else "1.1"
    way = rng.randrange(12)
    lasts = version == "1.0" or "Connection: close" in lines
    if way < 3:
        return get(path, *lines, version=version), None if lasts else b""
    if way == 3:
        method = rng.choice(("HEAD", "OPTIONS", "DELETE", "PUT"))
        return get(path, *lines, method=method), None if lasts else b""
    if way < 7:
        return post(body, *lines, path=path, version=version), None if lasts else body
    if way < 10:
        raw, body = _chunked(rng, body, lines)
        return raw, None if lasts else body
    return rng.choice(_KNOWN if way == 10 else _RECORDED), None


def _chunked(rng: random.Random, body: bytes, lines: Sequence[str]) -> tuple[bytes, bytes]:
    """Write a chunked request with extensions and trailers; give it and its body."""
    if not lines and rng.random() < 0.3:
        body = body[:300]
        return post_chunked(*(body[at : at + 7] for at in range(0, len(body), 7))), body
    taken = b""
    sent = [get("/c", *lines, "Transfer-Encoding: chunked", method="POST")]
    while body:
        size = rng.choice((1, 2, 15, 16, 300, 5000))
        piece, body = body[:size], body[size:]
        taken += piece
        extension = rng.choice((b"", b"", b"", b";a", b";a=b;c", b';a="b\\";c"'))
        sent.append(
            rng.choice((b"%x", b"%X", b"%05x")) % len(piece) + extension + b"\r\n%b\r\n" % piece
        )
        if len(sent) > 40:
            break
    sent.append(rng.choice((b"0\r\n", b"0\r\n", b"0;a=b\r\n", b"000\r\n")))
    sent.append(rng.choice((b"", b"", b"", b"X: y\r\n", b"X: y\r\nTrailer-Two: \r\n")))
    return b"".join((*sent, b"\r\n")), taken


def generate(rng: random.Random) -> Case:
    """Make an input."""
    kind = rng.random()
    word = "alike" if kind < 0.7 else "limits" if kind < 0.8 else "wild"
    expected: tuple[object, ...] | None = None
    if rng.random() < 0.04:
        octets = rng.randbytes(rng.choice((1, 10, 100)))
    else:
        requests = [request(rng) for _ in range(rng.choice((1, 1, 2, 2, 3, 6, 6, 20)))]
        octets = b"".join(raw for raw, _ in requests)
        if all(body is not None for _, body in requests):
            expected = tuple(body for _, body in requests)
        if rng.random() < 0.1:
            octets = b"\r\n" * rng.randrange(4) + octets
        if rng.random() < 0.02:
            octets += post(rng.randbytes(200_000))
            expected = None
    if rng.random() < 0.5:
        octets = mutated(rng, octets, TOKENS)
        expected = None
        if word == "alike" and len(octets) > MAX_HEADER_BYTES:
            word = "limits"
    part = Part(octets, random_cuts(rng, octets), expected=expected)
    return Case((part,), word, rng.randrange(1 << 30))


# what is the same


@attrs.frozen
class Told:
    """What became of a connection.

    Attributes:
        requests: Method, target, version and fields of each request that a resource got.
        bodies: Each one's body, or the name of the error that came instead.
        answers: All final answers when everything was sent.
        closed: Whether the connection was closed by then, on our side at least.
        late: The answers that only time brought.
        refused: The codes of the errors that met no request.
    """

    requests: tuple[object, ...]
    bodies: tuple[bytes | str, ...]
    answers: tuple[Answer, ...]
    closed: bool
    late: tuple[Answer, ...]
    refused: tuple[str, ...]


class Resource:
    """A resource that reads each body and echoes it, at once or when it is told to."""

    def __init__(self, edge: Edge, *, at_once: bool) -> None:
        self._edge = edge
        self._at_once = at_once
        self._held: deque[EdgeRequest] = deque()
        self.requests: list[EdgeRequest] = []
        self.bodies: dict[int, bytes | str] = {}

    def __call__(self, request: EdgeRequest) -> None:
        """Take a request."""
        self.requests.append(request)
        if self._at_once:
            self.answer(request)
        else:
            self._held.append(request)

    def answer_all(self) -> None:
        """Answer those that are held, and those that come by that."""
        while self._held:
            self.answer_next()

    def answer_next(self) -> None:
        """Answer one that is held."""
        if self._held:
            self.answer(self._held.popleft())
            self._edge.turn()

    def answer(self, request: EdgeRequest) -> None:
        """Read the body and tell what came."""
        number = self.requests.index(request)

        def tell(body: bytes) -> None:
            self._edge.budget.give_back(len(body))
            self.bodies[number] = body
            answer_json(request, 200, echoed(request, body))

        def refuse(failure: Failure) -> None:
            error = failure.value
            self.bodies[number] = type(error).__name__
            if isinstance(error, GatewayError):
                answer_error(request, error)
            elif not isinstance(error, ClientGone):
                failure.raiseException()

        request.read_body(BODY_LIMIT_BYTES, self._edge.budget).addCallbacks(tell, refuse)


def outcome(
    reads: Sequence[bytes],
    *,
    at_once: bool = True,
    limits: EdgeLimits | None = None,
    tls: bool = False,
    pace: random.Random | None = None,
) -> Told:
    """Send these reads, then let time pass until the connection is closed; tell what came of it.

    Args:
        reads: What the client sends.
        at_once: Whether each request is answered as it comes, or when all has been sent.
        limits: Of the connection.
        tls: Whether it is TLS.
        pace: Has the client stop taking and take again as it sends, and answers come in between.
    """
    with Edge(limits=limits, budget_bytes=BODY_LIMIT_BYTES) as edge:
        resource = Resource(edge, at_once=at_once)
        edge.stage.behaviour = resource
        client = edge.connect(tls=tls)
        if pace is None:
            client.send(*reads)
        else:
            _send_paced(client, reads, resource, pace)
        resource.answer_all()
        early = _answers(client, resource)
        closed = client.is_closed
        for step_s in STEPS_S:
            edge.advance(step_s)
            resource.answer_all()
        late = _answers(client, resource)
        if not client.connection.lost:
            raise Difference("a connection that outlives its deadlines", repr(client.channel))
        if late[: len(early)] != early:
            raise Difference("an answer that changes")
        return Told(
            requests=tuple(
                (one.method, one.uri, one.clientproto, tuple(one.raw_headers))
                for one in resource.requests
            ),
            bodies=tuple(resource.bodies[number] for number in range(len(resource.requests))),
            answers=early,
            closed=closed,
            late=late[len(early) :],
            refused=tuple(code for code, _, _ in edge.refused),
        )


def _send_paced(
    client: EdgeClient, reads: Sequence[bytes], resource: Resource, pace: random.Random
) -> None:
    connection = client.connection
    for read in reads:
        client.send(read)
        way = pace.randrange(5)
        if way == 0 and not connection.full and not connection.lost:
            client.stop_taking()
        elif way == 1 and connection.full:
            client.take_again()
        elif way == 2:
            resource.answer_next()
    if connection.full:
        client.take_again()


def _answers(client: EdgeClient, resource: Resource) -> tuple[Answer, ...]:
    """Read the final answers, without what may differ."""
    methods = [one.method.decode() for one in resource.requests]
    answers = [one for one in client.answers(*methods) if one.status >= 200]
    for answer in answers:
        if not answer.complete:
            raise Difference("an answer that is not complete", repr(answer))
        if not answer.field(b"x-request-id") or not answer.field(b"date"):
            raise Difference("an answer without Date or X-Request-ID", repr(answer))
    return tuple(
        attrs.evolve(
            answer,
            fields=tuple(
                field for field in answer.fields if field[0] not in (b"date", b"x-request-id")
            ),
        )
        for answer in answers
    )


def compare(wanted: Any, seen: Any, where: str) -> None:
    """Raise if two outcomes differ, and say in what."""
    if wanted == seen:
        return
    for field in attrs.fields(type(wanted)):
        one, other = getattr(wanted, field.name), getattr(seen, field.name)
        if one != other:
            raise Difference(
                f"{field.name} differ {where}", f"\n  whole: {one!r}\n  other: {other!r}"
            )


def check(case: Case) -> None:
    """Raise if something does not hold."""
    (part,) = case.parts
    if case.word == "wild":
        Wild(case).run()
    elif case.word == "limits":
        _check_limits(part)
    else:
        tls = case.seed % 16 == 0
        wanted = outcome(part.whole, tls=tls)
        if part.expected is not None and (
            part.expected != wanted.bodies or any(one.status != 200 for one in wanted.answers)
        ):
            raise Difference("good requests are not taken as they are", repr(wanted))
        compare(wanted, outcome(part.reads, tls=tls), "by the cutting")
        if case.seed % 3 == 1:
            late = outcome(part.whole, at_once=False, tls=tls)
            compare(wanted, late, "by the time of answering")
            late = outcome(part.reads, at_once=False, tls=tls)
            compare(wanted, late, "by cutting and time of answering")
        elif case.seed % 3 == 2:
            pace = random.Random(case.seed)
            paced = outcome(part.reads, at_once=pace.random() < 0.5, tls=tls, pace=pace)
            compare(wanted, paced, "by the client's pace")


def _check_limits(part: Part) -> None:
    """Over a bound, a message may be refused earlier or later, but not in another way."""
    limits = EdgeLimits(max_header_bytes=TIGHT_HEADER_BYTES)
    told = [outcome(reads, limits=limits) for reads in (part.whole, part.reads)]
    answers = [(*one.answers, *one.late) for one in told]
    for one, other in zip(*answers, strict=False):
        if one.status == other.status == 200 and one != other:
            raise Difference("good answers differ by the cutting under tight limits")
        if one.status != 200 or other.status != 200:
            break


# what must only not break


class _Pieces:
    """A producer of an answer that may be told to wait."""

    def __init__(self) -> None:
        self.paused = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.paused = True


class Wild:
    """A client and a resource that do as they like, as the case's seed says."""

    def __init__(self, case: Case) -> None:
        self._rng = random.Random(case.seed)
        (part,) = case.parts
        self._reads = deque(part.reads)
        self._edge = Edge(
            self._take,
            limits=EdgeLimits(max_header_bytes=self._rng.choice((300, MAX_HEADER_BYTES))),
            budget_bytes=self._rng.choice((100, 1 << 16, 1 << 20)),
        )
        self._open: list[Callable[[], None]] = []
        self._faults: list[Failure] = []

    def run(self) -> None:
        """Let it happen."""
        rng = self._rng
        with self._edge as edge:
            client = edge.connect(tls=rng.random() < 0.1)
            steps: list[Callable[[], None]] = [
                lambda: None if client.connection.lost else client.stop_taking(),
                client.take_again,
                lambda: edge.advance(rng.choice((0, 1, 5, 10, 30, 60, 120))),
                self._go_on,
            ]
            while self._reads or self._open:
                if self._reads and rng.random() < 0.7:
                    client.send(self._reads.popleft())
                if self._open and rng.random() < 0.5:
                    self._go_on()
                if rng.random() < 0.15:
                    rng.choice(steps)()
                if rng.random() < 0.01:
                    rng.choice((client.leave, client.cut, edge.site.close_idle))()
                edge.turn()
                for failure in self._faults:
                    failure.raiseException()
            if rng.random() < 0.3:
                for step_s in (*STEPS_S, 60, 60):
                    edge.advance(step_s)
                    while self._open:  # a request that waited for the client to take an answer
                        self._go_on()
                        edge.turn()
                if not client.connection.lost:
                    raise Difference("a connection that outlives its deadlines, wild")

    def _go_on(self) -> None:
        if self._open:
            self._open.pop(self._rng.randrange(len(self._open)))()

    def _take(self, request: EdgeRequest) -> None:
        ways: list[Callable[[EdgeRequest], object]] = [
            answer_only, self._read, self._read, self._stream, self._give_up, self._give_up_reading,
        ]  # fmt: skip
        way = self._rng.choice(ways)
        if self._rng.random() < 0.4:
            way(request)
        else:

            def later() -> None:
                way(request)

            self._open.append(later)

    def _read(self, request: EdgeRequest) -> None:
        limit_bytes = self._rng.choice((10, 1 << 20))

        def tell(body: bytes) -> None:
            self._edge.budget.give_back(len(body))
            self._rng.choice((self._stream, answer_only))(request)

        def refuse(failure: Failure) -> None:
            if isinstance(failure.value, ClientGone):
                return
            assert isinstance(failure.value, GatewayError), failure
            answer_error(request, failure.value)

        reading = request.read_body(limit_bytes, self._edge.budget)
        reading.addCallbacks(tell, refuse).addErrback(self._faults.append)

    def _give_up_reading(self, request: EdgeRequest) -> None:
        """Begin to read, think better of it, then answer."""
        reading: Deferred[Any] = request.read_body(1 << 20, self._edge.budget)
        reading.addCallback(lambda body: self._edge.budget.give_back(len(body)))
        reading.addErrback(lambda failure: failure.trap(CancelledError, GatewayError, ClientGone))
        reading.addErrback(self._faults.append)

        def give_up() -> None:
            reading.cancel()
            answer_only(request)

        self._open.append(give_up)

    def _give_up(self, request: EdgeRequest) -> None:
        """Begin an answer that is broken off."""
        if self._rng.random() < 0.5:
            request.begin(200, b"", ((b"Content-Length", b"5"),))
            request.write(b"abc")
        else:
            request.begin(200, b"", ())
            request.write(b"")
        self._open.append(lambda: request.break_off(self._rng.choice((b"", b"x"))))

    def _stream(self, request: EdgeRequest) -> None:
        """Answer piece by piece."""
        rng = self._rng
        gone: list[bool] = []
        request.on_gone(lambda: gone.append(True))
        if gone:
            return
        if rng.random() < 0.2:
            request.refuse_further()
        fields: Any = () if rng.random() < 0.7 else ((b"Content-Length", b"6"),)
        request.begin(rng.choice((200, 200, 204, 304, 500)), b"", fields)
        request.registerProducer(_Pieces(), True)
        request.write(b"")
        pieces = [b"abc", b"def"]

        def next_piece() -> None:
            if gone:
                return
            if pieces:
                request.write(pieces.pop())
                self._open.append(next_piece)
            else:
                request.unregisterProducer()
                request.finish()

        self._open.append(next_piece)
