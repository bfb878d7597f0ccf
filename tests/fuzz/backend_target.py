"""The connection to a backend under the fuzzer: what a backend may answer, and what must hold.

The words of its cases: ``alike`` (any cutting, and a body delivered at once or late, gives the
same), ``wild`` (receivers that pause and cut, requests that are cancelled: nothing breaks).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed

from llmproxy.errors import BadResponse
from llmproxy.upstream.body import SLICE_BYTES, BytesBody
from llmproxy.upstream.connection import MAX_HEAD_BYTES
from llmproxy.upstream.response import UpstreamResponse
from tests import recorded
from tests.fuzz.case import Case, Difference, Part, mutated, random_cuts
from tests.upstream.agent_contract import BAD_HEADS
from tests.upstream.memory import Asked, Line, Rig
from tests.upstream.receiver import Receiver

METHODS = ("GET", "GET", "GET", "POST", "POST", "HEAD", "DELETE")

TOKENS: tuple[bytes, ...] = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b"\t", b" ", b":", b";", b"\xff", b"H", b"HTTP/1.1 ",
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\n", b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\n", b"HTTP/1.1 205 R\r\n",
    b"HTTP/2.0 200 OK\r\n", b"RTSP/1.0 200 OK\r\n", b"ICE/1.0 200 OK\r\n", b"GET / HTTP/1.1\r\n",
    b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Content-Length: 00003\r\n",
    b"Content-Length: 99999999999999999999\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n", b"Transfer-Encoding:\r\n", b"Connection: close\r\n",
    b"Connection: keep-alive\r\n", b"Keep-Alive: timeout=2\r\n", b"Keep-Alive: timeout=1\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"X: \xe9\r\n", b" folded\r\n", b"X : a\r\n",
    b": a\r\n", b"X:\r\n", b"0\r\n\r\n", b"3\r\nabc\r\n", b"3;a=b\r\nabc\r\n", b"3 ; a\r\n",
    b"0\r\nX: y\r\n\r\n",
    b"ffffffffffffffff\r\n", b"fffffffffffffffff\r\n", b"-1\r\n", b"0;a\r\n",
)  # fmt: skip

_RECORDED = tuple(
    response
    for name in recorded.names()
    if len(response := recorded.load(name).response_bytes) < 12_000
)


def answer(rng: random.Random, method: str) -> tuple[bytes, tuple[object, ...] | None]:
    """Write one answer, most of the time a good one.

    Returns:
        It, and for a good one the status, body and end that the data path is to see.
    """
    way = rng.randrange(12)
    if way == 0:
        return rng.choice(_RECORDED), None
    if way == 1:
        return rng.choice(BAD_HEADS).octets, None
    interim = rng.choice((b"", b"", b"", b"", TOKENS[14], TOKENS[15], TOKENS[14] * 3))
    status = rng.choice((200, 200, 200, 200, 404, 503, 204, 304, 205))
    version = b"1.0" if rng.random() < 0.1 else b"1.1"
    head = [b"HTTP/%b %d %b\r\n" % (version, status, rng.choice((b"OK", b"", b"\xe9 x")))]
    head += [
        line
        for line in (
            b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Keep-Alive: timeout=5\r\n",
            b"Keep-Alive: timeout=0\r\n", b"Date: x\r\n", b"X: \xe9\t\r\n",
            b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
        )
        if rng.random() < 0.1
    ]  # fmt: skip
    if rng.random() < 0.01:
        head.append(b"A: %b\r\n" % (b"b" * (MAX_HEAD_BYTES - rng.randrange(200))))
    body = rng.randbytes(rng.choice((0, 1, 3, 20, 300, 5000)))
    if way < 5:
        head.append(b"Content-Length: %d\r\n" % len(body))
        framed = body
    elif way < 10:
        head.append(b"Transfer-Encoding: chunked\r\n")
        framed, body = chunked(rng, body)
    else:
        framed = body  # until the end
    empty = method == "HEAD" or status in (204, 304)
    if empty and rng.random() < 0.9:
        framed = b""
    raw = interim + b"".join((*head, b"\r\n", framed))
    is_good = not (empty and framed) and not (version == b"1.0" and 5 <= way < 10)
    if not is_good or b"Connection: Upgrade\r\n" in b"".join(head) or len(raw) > MAX_HEAD_BYTES:
        return raw, None
    if empty:
        return raw, (status, b"", "ResponseDone")
    return raw, (status, body, "PotentialDataLoss" if way >= 10 else "ResponseDone")


def chunked(rng: random.Random, body: bytes) -> tuple[bytes, bytes]:
    """Write a body in chunks, with extensions and trailers; give it, and as much as it holds."""
    out: list[bytes] = []
    taken = b""
    while body and len(out) < 40:
        size = rng.choice((1, 2, 15, 16, 300, 5000))
        piece, body = body[:size], body[size:]
        taken += piece
        extension = rng.choice((b"", b"", b"", b";a", b";a=b;c", b';a="b\\";c"'))
        out.append(rng.choice((b"%x", b"%X", b"%05x")) % len(piece) + extension)
        out.append(b"\r\n%b\r\n" % piece)
    out.append(rng.choice((b"0\r\n", b"0\r\n", b"0;a=b\r\n", b"000\r\n")))
    out.append(rng.choice((b"", b"", b"", b"X: y\r\n", b"X: y\r\nTrailer-Two: \r\n")))
    return b"".join((*out, b"\r\n")), taken


def generate(rng: random.Random) -> Case:
    """Make an input: one to three requests' answers."""
    parts = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        method = rng.choice(METHODS)
        octets, expected = answer(rng, method)
        if rng.random() < 0.03:
            octets, expected = rng.randbytes(rng.choice((1, 10, 100))), None
        if rng.random() < 0.1:
            expected = None
            octets += rng.choice((b"x", b"junk\r\n\r\n", b"\r\n", octets[:4000], b"H"))
        if rng.random() < 0.5:
            octets, expected = mutated(rng, octets, TOKENS), None
        parts.append(Part(octets, random_cuts(rng, octets), method, expected))
    return Case(tuple(parts), "alike" if rng.random() < 0.75 else "wild", rng.randrange(1 << 30))


# what is the same


@attrs.frozen
class Exchanged:
    """What became of one request.

    Attributes:
        head: Version, status, phrase and fields of its answer; None without one.
        body: The body as far as it came.
        end: How the body ended, or the error that came instead of an answer.
        broken: Whether it ended because the bytes were no HTTP.
        reused: Whether the connection went back to the pool.
    """

    head: tuple[Any, ...] | None
    body: bytes
    end: str
    broken: bool
    reused: bool


def outcome(parts: Sequence[tuple[str, Sequence[bytes]]], *, at_once: bool) -> list[Exchanged]:
    """Send requests on one connection as long as it is reused, answer each in these reads.

    Args:
        parts: Method, and the reads of the answer.
        at_once: Whether a body is received from its head on, or when all has been said.
    """
    rig = Rig()
    line = rig.line()
    asked: list[tuple[Asked, list[Receiver]]] = []
    reused: list[bool] = []
    for method, reads in parts:
        asking, receivers = _ask(line, method, at_once)
        asked.append((asking, receivers))
        line.say(*reads)
        rig.turn()
        reused.append(rig.pool.take() is line.connection)
        if not reused[-1]:
            break
    line.transport.lose(ConnectionDone())
    told = [
        _exchanged(asking, receivers, again)
        for (asking, receivers), again in zip(asked, reused, strict=True)
    ]
    rig.finish()
    return told


def _ask(line: Line, method: str, at_once: bool) -> tuple[Asked, list[Receiver]]:
    receivers: list[Receiver] = []
    body = BytesBody(b"{}") if method == "POST" else None
    asking = line.ask(method.encode(), b"/", body)

    def receive(_: object) -> None:
        if _response(asking) is not None:
            receivers.append(asking.receive())

    if at_once:
        asking.answer.addCallback(receive)
    return asking, receivers


def _response(asking: Asked) -> UpstreamResponse | None:
    """Give the answer, if it is not an error."""
    try:
        return asking.response
    except AssertionError:
        return None


def _exchanged(asking: Asked, receivers: list[Receiver], reused: bool) -> Exchanged:
    if asking.waiting:
        raise Difference("a request without an end")
    response = _response(asking)
    if response is None:
        return Exchanged(None, b"", asking.error, asking.error == "BadResponse", reused)
    receiver = receivers[0] if receivers else asking.receive()
    if receiver.reason is None:
        raise Difference("a body without an end")
    return Exchanged(
        (response.version, response.code, response.phrase, tuple(response.fields)),
        receiver.body,
        receiver.end,
        _is_broken(receiver.reason),
        reused,
    )


def _is_broken(reason: Failure) -> bool:
    error: Any = reason.value
    return isinstance(error, ResponseFailed) and any(
        one.check(BadResponse) is not None for one in error.reasons
    )


def compare(wanted: list[Exchanged], seen: list[Exchanged], where: str) -> None:
    """Raise if two outcomes differ.

    An answer that breaks the rules in the very read that completes its head is none at all; in a
    later read it is one that breaks off.
    """
    if len(wanted) != len(seen):
        raise Difference(f"the number of requests differs {where}", f"{wanted} {seen}")
    for one, other in zip(wanted, seen, strict=True):
        broken = one.broken and other.broken and not one.reused and not other.reused
        if broken and (one.head is None or other.head is None):
            continue
        for field in attrs.fields(Exchanged):
            if getattr(one, field.name) != getattr(other, field.name):
                raise Difference(f"{field.name} differs {where}", f"\n  {one}\n  {other}")


def check(case: Case) -> None:
    """Raise if something does not hold."""
    if case.word == "wild":
        Wild(case).run()
        return
    whole = [(part.word, part.whole) for part in case.parts]
    cut = [(part.word, part.reads) for part in case.parts]
    wanted = outcome(whole, at_once=True)
    for part, seen in zip(case.parts, wanted, strict=False):
        told = seen.head and (seen.head[1], seen.body, seen.end)
        if part.expected is not None and part.expected != told:
            raise Difference("a good answer is not taken as it is", f"{part.expected!r} {told!r}")
    compare(wanted, outcome(cut, at_once=True), "by the cutting")
    for later, seen in zip(cut[1:], wanted[1:], strict=False):
        fresh = outcome([later], at_once=True)
        if seen.end == "ReusedConnectionDied":
            seen = attrs.evolve(seen, end="ConnectionDied")
        compare([seen], fresh, "by what the connection carried before")
    if case.seed % 2:
        compare(wanted, outcome(whole, at_once=False), "by the time of receiving")
        compare(wanted, outcome(cut, at_once=False), "by cutting and time of receiving")


# what must only not break


class Wild:
    """A data path that pauses, resumes, cancels and cuts, as the case's seed says."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._rng = random.Random(case.seed)
        self._rig = Rig(idle_s=self._rng.choice((0.5, 4.0)))
        self._receivers: list[Receiver] = []
        self._faults: list[Failure] = []

    def run(self) -> None:
        """Let it happen."""
        rng, rig = self._rng, self._rig
        line = rig.line()
        asked: list[Asked] = []
        for part in self._case.parts:
            body = None
            if rng.random() < 0.4:
                body = BytesBody(bytes(rng.choice((0, 2, SLICE_BYTES + 1, 2 * SLICE_BYTES + 7))))
            asking = line.ask(part.word.encode(), b"/", body)
            asked.append(asking)
            if rng.random() < 0.85:
                asking.answer.addCallback(self._receive, asking)
            asking.answer.addErrback(self._faults.append)
            steps: list[Callable[[], object]] = [
                asking.answer.cancel,
                line.connection.abort,
                lambda: line.transport.lose(rng.choice((ConnectionDone(), ConnectionLost()))),
                lambda: rig.clock.advance(rng.choice((0, 1, 5))),
                self._pause,
                self._pause,
            ]
            for read in part.reads:
                if line.transport.producer is not None and rng.random() < 0.7:
                    line.transport.pull()
                line.say(read)
                if rng.random() < 0.06:
                    rng.choice(steps)()
                rig.turn()
            line.transport.clear()
            if rig.pool.take() is not line.connection:
                break
        line.transport.lose(rng.choice((ConnectionDone(), ConnectionLost())))
        for failure in self._faults:
            failure.raiseException()
        if any(asking.waiting for asking in asked):
            raise Difference("a request without an end, wild")
        if any(receiver.reason is None for receiver in self._receivers):
            raise Difference("a body without an end, wild")
        rig.finish()

    def _receive(self, _: object, asking: Asked) -> None:
        if _response(asking) is None:
            return
        rng = self._rng
        moves = rng.choice(("", "", "pauseProducing", "stopProducing", "loseConnection"))

        def move(receiver: Receiver) -> None:
            if moves and rng.random() < 0.3:
                getattr(receiver.transport, moves)()

        self._receivers.append(Receiver(move))
        asking.receive(self._receivers[-1])

    def _pause(self) -> None:
        if self._receivers:
            transport: Any = self._receivers[-1].transport
            self._rng.choice((transport.pauseProducing, transport.resumeProducing))()
