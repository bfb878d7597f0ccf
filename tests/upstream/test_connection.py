"""Tests of `llmproxy.upstream.connection`, in memory."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ISystemHandle
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from llmproxy.upstream.body import SLICE_BYTES, BytesBody
from llmproxy.upstream.connection import MAX_FIELDS, MAX_HEAD_BYTES, BackendConnection
from llmproxy.upstream.response import UpstreamResponse
from tests import recorded
from tests.upstream.agent_contract import BAD_HEADS, BadHead
from tests.upstream.memory import Asked, MemoryTransport, Rig
from tests.upstream.receiver import Receiver

OK = b"HTTP/1.1 200 OK\r\n"
PLAIN = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

RECORDED = [
    name
    for name in recorded.names()
    if len(recorded.load(name).responses) == 1 and recorded.load(name).complete
]


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Make a pool; after the test, nothing of it may be left."""
    rig = Rig()
    yield rig
    rig.finish()


def at(octets: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut bytes into reads."""
    places = sorted({0, len(octets), *(cut % (len(octets) + 1) for cut in cuts)})
    return [octets[a:b] for a, b in pairwise(places)]


# requests


def test_what_goes_out(rig: Rig) -> None:
    """The request line, the fields as given, and the framing."""
    line = rig.line()
    assert repr(line.connection) == "<BackendConnection idle requests=0>"
    line.ask(b"POST", b"/v1/x?y", BytesBody(b"body"))
    assert line.sent == b"POST /v1/x?y HTTP/1.1\r\nHost: b.test\r\nContent-Length: 4\r\n\r\nbody"
    assert repr(line.connection) == "<BackendConnection head requests=1>"
    line.connection.abort()


@pytest.mark.parametrize(
    ("method", "framing"),
    [
        (b"GET", b""),
        (b"HEAD", b""),
        (b"DELETE", b""),
        (b"POST", b"Content-Length: 0\r\n"),
        (b"PUT", b"Content-Length: 0\r\n"),
        (b"PATCH", b"Content-Length: 0\r\n"),
    ],
)
def test_no_body(rig: Rig, method: bytes, framing: bytes) -> None:
    """Methods that should have a body say that there is none (RFC 9110, section 8.6)."""
    line = rig.line()
    line.ask(method)
    assert line.sent == method + b" / HTTP/1.1\r\nHost: b.test\r\n" + framing + b"\r\n"
    line.connection.abort()


def test_one_request_at_a_time(rig: Rig) -> None:
    """A second request before the answer is a fault of ours."""
    line = rig.line()
    line.ask()
    with pytest.raises(AssertionError):
        line.ask()
    line.connection.abort()


def test_large_body_is_pulled(rig: Rig) -> None:
    """Slice by slice, as the transport gets rid of them; then the connection can be used again."""
    line = rig.line()
    octets = bytes(range(256)) * (SLICE_BYTES * 2 // 256 + 1)
    asked = line.ask(b"POST", b"/", BytesBody(octets))
    line.transport.pull_all()
    assert line.sent.endswith(b"\r\n\r\n" + octets)
    line.say(PLAIN)
    assert asked.receive().end == "ResponseDone"
    assert rig.pool.counts == (1, 1)


def test_answered_before_the_request_was_sent(rig: Rig) -> None:
    """The answer counts, the connection is cut: the backend would read the rest as a request."""
    line = rig.line()
    asked = line.ask(b"POST", b"/", BytesBody(bytes(SLICE_BYTES * 3)))
    line.transport.pull()
    line.say(PLAIN)
    assert asked.receive().end == "ResponseDone"
    assert line.transport.aborted
    assert line.transport.producer is None
    assert rig.pool.counts == (0, 0)


def test_answered_before_the_last_slice_was_passed_on(rig: Rig) -> None:
    """What the transport still holds is not sent."""
    line = rig.line()
    asked = line.ask(b"POST", b"/", BytesBody(bytes(SLICE_BYTES + 1)))
    line.transport.pull()
    line.say(PLAIN)
    assert asked.receive().end == "ResponseDone"
    assert line.transport.aborted


@implementer(ISystemHandle)
class SocketTransport(MemoryTransport):
    """A transport in memory over a real socket, on which a connection may send directly."""

    handle: socket.socket

    def getHandle(self) -> socket.socket:
        """Give the socket."""
        return self.handle


def test_nothing_overtakes_what_is_queued(rig: Rig) -> None:
    """The kernel takes nothing; the backend answers early; the connection is not used again.

    Was it, and had the kernel room again, the next request would land in the midst of this body.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while ours.send(bytes(65536)):
                pass
        connection = BackendConnection(rig.pool)
        transport = SocketTransport(rig.clock, connection)
        transport.handle = ours
        connection.makeConnection(transport)
        rig.pool.add(connection)
        asked = Asked(connection.send(b"POST", b"/", b"Host: b.test\r\n", BytesBody(b"body")))
        transport.pull()
        assert transport.value().endswith(b"\r\n\r\nbody")  # queued, as far as anybody knows
        connection.dataReceived(PLAIN)
        assert asked.receive().body == b"hello"
        assert rig.pool.take() is None
        assert transport.aborted
        rig.turn()


@pytest.mark.parametrize("end", ["closed", "reset", "bytes"])
def test_what_waits_in_the_kernel(rig: Rig, end: str) -> None:
    """The backend's end of an idle connection is seen before the reactor reads it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        connection = BackendConnection(rig.pool)
        transport = SocketTransport(rig.clock, connection)
        transport.handle = ours
        connection.makeConnection(transport)
        assert connection.is_quiet()
        if end == "bytes":
            theirs.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        else:
            if end == "reset":
                ours.send(b"unread")
            theirs.close()
        assert not connection.is_quiet()
        connection.abort()
        rig.turn()


def test_stream_begins_before_the_request_was_sent(rig: Rig) -> None:
    """A backend may answer while it reads; when all went up, the connection is good."""
    line = rig.line()
    asked = line.ask(b"POST", b"/", BytesBody(bytes(SLICE_BYTES * 2)))
    line.say(OK + b"Content-Length: 5\r\n\r\nhe")
    receiver = asked.receive()
    line.transport.pull_all()
    line.say(b"llo")
    assert (receiver.body, receiver.end) == (b"hello", "ResponseDone")
    assert rig.pool.counts == (1, 1)


@implementer(IBodyProducer)
class BrokenBody:
    """A body that cannot be produced."""

    length = 5

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Fail."""
        return fail(ZeroDivisionError())

    def pauseProducing(self) -> None:
        """Nothing to pause."""

    def resumeProducing(self) -> None:
        """Nothing to resume."""

    def stopProducing(self) -> None:
        """Nothing to stop."""
        raise AssertionError("it has failed already")


def test_body_that_fails(rig: Rig) -> None:
    """The request fails with the producer's error, and half of it is cut off."""
    line = rig.line()
    asked = line.ask(b"POST", b"/", BrokenBody())
    assert asked.error == "ZeroDivisionError"
    assert line.transport.aborted


def test_cancelled(rig: Rig) -> None:
    """Cancelling cuts the connection, body and all, and its end tells nobody."""
    line = rig.line()
    asked = line.ask(b"POST", b"/", BytesBody(bytes(SLICE_BYTES * 3)))
    asked.answer.cancel()
    assert asked.error == "CancelledError"
    assert line.transport.aborted
    assert line.transport.producer is None
    line.say(PLAIN)  # what the transport had still in hand
    rig.turn()
    assert repr(line.connection) == "<BackendConnection closed requests=1>"


# answers


def test_one_read_is_one_piece(rig: Rig) -> None:
    """HTTP chunks that come in one read go on in one piece."""
    line = rig.line()
    asked = line.ask()
    line.say(CHUNKED)
    receiver = asked.receive()
    line.say(b"3\r\nabc\r\n2\r\nde\r\n", b"1\r\nf\r\n", b"3\r\ngh", b"i\r\n1\r\nj\r\n0\r\n\r\n")
    assert receiver.pieces == [b"abcde", b"f", b"gh", b"ij"]
    assert receiver.end == "ResponseDone"


def test_read_without_body_is_no_piece(rig: Rig) -> None:
    """A chunk's frame alone is nothing to tell (and `Receiver` would object)."""
    line = rig.line()
    asked = line.ask()
    line.say(CHUNKED)
    receiver = asked.receive()
    line.say(b"3", b"\r\n", b"abc", b"\r", b"\n0\r\n", b"\r\n")
    assert (receiver.pieces, receiver.end) == ([b"abc"], "ResponseDone")


def test_head_alone(rig: Rig) -> None:
    """The head is told the moment that it is complete, and the connection is paused."""
    line = rig.line()
    asked = line.ask()
    line.say(CHUNKED[:-1])
    assert asked.waiting
    line.say(CHUNKED[-1:])
    assert asked.response.code == 200
    assert line.transport.paused
    assert repr(line.connection) == "<BackendConnection body requests=1>"
    line.connection.abort()
    asked.receive()


def outcome(octets: bytes, reads: Sequence[bytes]) -> tuple[Any, ...]:
    """Answer a request in these reads, then close; tell all that can be seen of it."""
    assert b"".join(reads) == octets
    rig = Rig()
    line = rig.line()
    asked = line.ask()
    line.say(*reads)
    line.transport.lose(ConnectionDone())
    response = asked.response
    receiver = asked.receive()
    rig.finish()
    return (
        response.version,
        response.code,
        response.phrase,
        list(response.headers.getAllRawHeaders()),
        receiver.body,
        receiver.end,
    )


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_answers(name: str) -> None:
    """What real servers sent is read as an independent reader reads it, whole or in small reads."""
    recording = recorded.load(name)
    octets = recording.response_bytes
    whole = outcome(octets, [octets])
    assert whole[1] == recording.status
    assert whole[4] == recording.body
    assert whole[5] in ("ResponseDone", "PotentialDataLoss")
    fields = [(key.lower(), value) for key, values in whole[3] for value in values]
    assert sorted(fields) == sorted(recording.headers)
    size = 7 if len(octets) < 5000 else 1021
    reads = [octets[i : i + size] for i in range(0, len(octets), size)]
    assert outcome(octets, reads) == whole


@given(st.sampled_from(RECORDED), st.lists(st.integers(0, 1 << 20), max_size=40))
@settings(max_examples=150)
def test_any_chunking(name: str, cuts: list[int]) -> None:
    """However the same bytes come, the same is seen."""
    octets = recorded.load(name).response_bytes
    assert outcome(octets, at(octets, cuts)) == outcome(octets, [octets])


def test_byte_by_byte() -> None:
    """The smallest reads there are."""
    for octets in (
        b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\n" + PLAIN,
        CHUNKED + b"5;x=y\r\nhello\r\n0\r\nT: u\r\n\r\n",
        OK + b"\r\nuntil the end",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ):
        reads = [octets[i : i + 1] for i in range(len(octets))]
        assert outcome(octets, reads) == outcome(octets, [octets])


@pytest.mark.parametrize(
    "name", [name for name in recorded.names() if len(recorded.load(name).responses) == 2]
)
def test_recorded_keep_alive(name: str) -> None:
    """Two answers on one connection: where the first leaves it open, the second is read alike."""
    recording = recorded.load(name)
    first, second = recording.responses
    rig = Rig()
    line = rig.line()
    split = recording.response_bytes.index(second.start_line, 20)
    asked = line.ask()
    line.say(recording.response_bytes[:split])
    assert asked.receive().body == first.body
    if first.header(b"connection").lower() != b"close":
        assert rig.pool.counts == (1, 1)
        assert rig.pool.take() is line.connection
        asked = line.ask()
        line.say(recording.response_bytes[split:])
        assert asked.receive().body == second.body
    rig.finish()


@pytest.mark.parametrize(
    "name", [name for name in recorded.names() if not recorded.load(name).complete]
)
def test_recorded_cut(name: str) -> None:
    """A recording that ends in the middle is not shown as whole."""
    recording = recorded.load(name)
    octets = recording.response_bytes
    seen = outcome(octets, [octets])
    assert seen[4:] == (recording.body, "ResponseFailed")


# what breaks the rules


@pytest.mark.parametrize("bad", BAD_HEADS, ids=lambda bad: bad.name)
@pytest.mark.parametrize("size", [1 << 20, 1])
def test_bad_heads(rig: Rig, bad: BadHead, size: int) -> None:
    """Whole or byte by byte, a bad head is refused, once, and the connection is cut."""
    line = rig.line()
    asked = line.ask()
    for i in range(0, len(bad.octets), size):
        line.say(bad.octets[i : i + size])
        if not asked.waiting:
            break
    assert asked.error == "BadResponse"
    assert line.transport.aborted
    line.say(b"more", PLAIN)
    assert rig.pool.counts == (0, 0)


@pytest.mark.parametrize("size", [1 << 20, 65_536, 1000, 1])
def test_head_bound(size: int) -> None:
    """The bound of a head is exact, however it comes."""
    rest = b"\r\nContent-Length: 0\r\n\r\n"
    for over in (0, 1):
        rig = Rig()
        line = rig.line()
        asked = line.ask()
        filler = b"a: " + b"b" * (MAX_HEAD_BYTES + over - len(OK) - len(rest) - 3)
        octets = OK + filler + rest
        assert len(octets) == MAX_HEAD_BYTES + over
        line.say(*(octets[i : i + size] for i in range(0, len(octets), size)))
        if over:
            assert asked.error == "BadResponse"
        else:
            assert asked.receive().end == "ResponseDone"
        rig.finish()


def test_head_bound_is_anew_for_each_answer(rig: Rig) -> None:
    """What one answer used up is not missing for the next."""
    line = rig.line()
    for _ in range(3):
        asked = line.ask()
        line.say(OK + b"A: " + b"b" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n")
        assert asked.receive().end == "ResponseDone"


def test_interim_answers_without_end(rig: Rig) -> None:
    """They are bounded together with the head that they come before."""
    line = rig.line()
    asked = line.ask()
    interim = b"HTTP/1.1 102 Processing\r\n\r\n"
    for _ in range(MAX_HEAD_BYTES // len(interim)):
        line.say(interim)
    assert asked.waiting
    line.say(interim)
    assert asked.error == "BadResponse"


def test_number_of_fields(rig: Rig) -> None:
    """So many are taken; one more is too many."""
    line = rig.line()
    asked = line.ask()
    line.say(OK + b"A: b\r\n" * (MAX_FIELDS - 1) + b"Content-Length: 0\r\n\r\n")
    assert len(asked.response.headers.getRawHeaders(b"a") or ()) == MAX_FIELDS - 1
    asked = line.ask()
    line.say(OK + b"A: b\r\n" * MAX_FIELDS + b"Content-Length: 0\r\n\r\n")
    assert asked.error == "BadResponse"


@pytest.mark.parametrize("endless", [b"T: " + b"x" * 100, b"T: x\r\n" * 20])
def test_trailers_without_end(rig: Rig, endless: bytes) -> None:
    """What comes after the last piece is bounded too; the pieces were good."""
    line = rig.line()
    asked = line.ask()
    line.say(CHUNKED + b"2\r\nok\r\n")
    receiver = asked.receive()
    line.say(b"0\r\n" + endless)
    for _ in range(2 * MAX_HEAD_BYTES // len(endless)):
        line.say(endless if endless.endswith(b"\n") else b"x" * len(endless))
    assert (receiver.body, receiver.end) == (b"ok", "ResponseFailed")
    assert line.transport.aborted


def test_chunk_extension_without_end(rig: Rig) -> None:
    """Neither may a chunk's extension go on for ever."""
    line = rig.line()
    asked = line.ask()
    line.say(CHUNKED)
    receiver = asked.receive()
    line.say(b"2;x=")
    for _ in range(70):
        line.say(b"y" * 1000)
    assert (receiver.body, receiver.end) == (b"", "ResponseFailed")


def test_long_head_then_a_lone_chunk_size(rig: Rig) -> None:
    """The head's length is not held against what follows it."""
    line = rig.line()
    asked = line.ask()
    head = OK + b"A: " + b"b" * 65_000 + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    line.say(head)
    receiver = asked.receive()
    line.say(b"0000000000000000000000002;" + b"x" * 900, b"\r\n", b"ok\r\n0\r\n\r\n")
    assert (receiver.body, receiver.end) == (b"ok", "ResponseDone")


def test_broken_in_the_same_read_as_the_head(rig: Rig) -> None:
    """Nobody has seen anything yet: no answer at all is better than a broken one."""
    line = rig.line()
    asked = line.ask()
    line.say(CHUNKED + b"2\r\nok\r\nnonsense")
    assert asked.error == "BadResponse"


def test_broken_after_good_pieces(rig: Rig) -> None:
    """All that was good is delivered, that of the same read too."""
    line = rig.line()
    asked = line.ask()
    line.say(CHUNKED)
    receiver = asked.receive()
    line.say(b"2\r\nok\r\n", b"3\r\nyes\r\nnonsense")
    assert (receiver.pieces, receiver.end) == ([b"ok", b"yes"], "ResponseFailed")
    broken: Any = receiver.reason
    assert type(broken.value.reasons[0].value).__name__ == "BadResponse"
    line.say(b"2\r\nno\r\n")


# after an answer


def test_answer_then_unasked_bytes_in_the_next_read(rig: Rig) -> None:
    """They come too late for the answer, which was good."""
    line = rig.line()
    asked = line.ask()
    line.say(PLAIN, b"x")
    assert asked.receive().end == "ResponseDone"
    assert line.transport.aborted


def test_next_request_from_within_the_end_of_the_last(rig: Rig) -> None:
    """The owner of an answer may use the connection at once: each request gets its own answer."""
    line = rig.line()
    first = line.ask()
    line.say(CHUNKED + b"3\r\none\r\n")
    receiver = first.receive()
    again: list[Asked] = []

    def ask_again(_: object) -> None:
        assert rig.pool.take() is line.connection
        again.append(line.ask())

    receiver.ended.addCallback(ask_again)
    line.say(b"0\r\n\r\n")
    (second,) = again
    assert second.waiting
    line.say(OK + b"Content-Length: 3\r\n\r\ntwo")
    assert second.response is not first.response
    assert (receiver.body, second.receive().body) == (b"one", b"two")


def test_next_request_from_within_the_answer(rig: Rig) -> None:
    """The same when the whole answer came in one read."""
    line = rig.line()
    first = line.ask()
    again: list[Asked] = []

    def ask_again(response: UpstreamResponse) -> UpstreamResponse:
        assert rig.pool.take() is line.connection
        again.append(line.ask())
        return response

    first.answer.addCallback(lambda _: ask_again(first.response))
    line.say(PLAIN)
    (second,) = again
    assert second.waiting
    line.say(OK + b"Content-Length: 3\r\n\r\ntwo")
    assert (first.receive().body, second.receive().body) == (b"hello", b"two")


def test_stopped_at_the_last_piece(rig: Rig) -> None:
    """The client left as the end came: the cut connection goes to nobody."""
    line = rig.line()
    asked = line.ask()
    line.say(OK + b"Content-Length: 2\r\n\r\na")

    def stop_at_b(receiver: Receiver) -> None:
        if receiver.body == b"ab":
            transport: Any = receiver.transport
            transport.stopProducing()

    receiver = asked.receive(Receiver(stop_at_b))
    line.say(b"b")
    assert receiver.end == "ResponseDone"
    assert line.transport.aborted
    assert rig.pool.take() is None


def test_paused_at_the_last_piece(rig: Rig) -> None:
    """Idle, the connection reads again: it must hear the backend close it."""
    line = rig.line()
    asked = line.ask()
    line.say(OK + b"Content-Length: 2\r\n\r\na")

    def pause(receiver: Receiver) -> None:
        transport: Any = receiver.transport
        transport.pauseProducing()

    receiver = asked.receive(Receiver(pause))
    line.say(b"b")
    assert receiver.end == "ResponseDone"
    assert rig.pool.counts == (1, 1)
    assert not line.transport.paused
