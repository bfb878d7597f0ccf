"""The channel: what it takes for a request, in which order it answers, and all its clocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address

from llmproxy.channel import (
    EARLY_LIMIT_BYTES,
    LINGER_LIMIT_BYTES,
    LINGER_S,
    UNREAD_BODY_LIMIT_BYTES,
    EdgeLimits,
)
from llmproxy.errors import RequestTimeout
from llmproxy.resources.base import answer_json
from llmproxy.site import EdgeRequest
from tests.edge import Edge, EdgeClient, get, post, post_chunked
from tests.raw_requests import CHUNKED, HOST, REFUSED, TAKEN, head


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    """One answer in JSON with the true status, then our half is closed, later the whole."""
    sent, status, code = REFUSED[name]
    with Edge() as edge:
        client = edge.connect().send(sent)
        answer = client.answer()
        assert (answer.status, answer.error_code) == (status, code)
        assert answer.reason
        assert answer.field(b"x-request-id")
        assert answer.field(b"date") == b"Tue, 14 Nov 2023 22:13:20 GMT"
        assert answer.field(b"connection") == b"close"
        assert client.connection.half_closed
        edge.advance(LINGER_S / 2)
        assert not client.connection.lost
        edge.linger_out()
        assert client.connection.aborted
        assert client.connection.lost


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_in_single_bytes(name: str) -> None:
    """The answer does not depend on how the bytes come; only which limit is named may differ."""
    sent, status, _ = REFUSED[name]
    if len(sent) > 1000:
        pytest.skip("the limits have tests of their own")
    with Edge() as edge:
        client = edge.connect().send(*(sent[at : at + 1] for at in range(len(sent))))
        assert client.answer().status == status
        assert client.connection.half_closed


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken(name: str) -> None:
    """The resource sees the request as it came; the connection lives on, but with HTTP/1.0."""
    sent, seen = TAKEN[name]
    with Edge() as edge:
        client = edge.connect().send(sent)
        answer = client.answer()
        assert answer.status == 200
        assert {key: answer.json[key] for key in seen} == seen
        assert client.is_closed == (b"HTTP/1.0" in sent)


def test_refused_connect_tells_what_is_allowed() -> None:
    """A 405 always has Allow (RFC 9110, section 15.5.6)."""
    with Edge() as edge:
        client = edge.connect().send(REFUSED["CONNECT"][0])
        assert client.answer().field(b"allow") == b"GET, HEAD, POST, OPTIONS"


def test_refused_request_keeps_its_request_id() -> None:
    """The id of a request that breaks the rules is known once it was read, and echoed."""
    with Edge() as edge:
        client = edge.connect("198.51.100.1").send(
            head(b"X-Request-ID: no good", b"X-Request-ID: mine")
        )
        assert client.answer().field(b"x-request-id") == b"mine"
        assert edge.refused == [("bad_request", "198.51.100.1", "mine")]
        assert edge.logged == []


def test_refused_bytes_get_a_request_id() -> None:
    """Bytes that are no request at all get an id of ours."""
    with Edge() as edge:
        client = edge.connect().send(b"\x16\x03\x01")
        given_id = client.answer().field(b"x-request-id").decode()
        assert given_id == "018bcfe5-6800-7000-8000-000000000001"
        assert edge.refused == [("bad_request", "192.0.2.7", given_id)]


@pytest.mark.parametrize("step", [1, 100, 4096, 40_000])
def test_endless_field(step: int) -> None:
    """A single field beyond the limit is refused however slowly it comes, and long before its end.

    What is kept meanwhile stays near the limit.
    """
    with Edge(limits=EdgeLimits(max_header_bytes=2048)) as edge:
        client = edge.connect().send(b"GET / HTTP/1.1\r\n" + HOST + b"X: ")
        sent = 0
        while not client.is_closed:
            client.send(b"a" * step)
            sent += step
            assert sent <= 2048 + step
        assert client.answer().error_code == "headers_too_large"


@pytest.mark.parametrize("step", [1, 1000])
def test_endless_target(step: int) -> None:
    """A target beyond the limit is refused long before its end."""
    with Edge(limits=EdgeLimits(max_header_bytes=2048)) as edge:
        client = edge.connect().send(b"GET /")
        sent = 0
        while not client.is_closed:
            client.send(b"a" * step)
            sent += step
            assert sent <= 2048 + step
        assert client.answer().error_code == "uri_too_long"


@pytest.mark.parametrize("tail", [b"0\r\nX: ", b"3;"])
def test_endless_framing(tail: bytes) -> None:
    """Trailers and chunk extensions without end are no way round the limits."""
    with Edge(limits=EdgeLimits(max_header_bytes=2048)) as edge:
        client = edge.connect().send(CHUNKED + tail)
        for _ in range(30):
            client.send(b"a" * 100)
        assert client.answer().error_code == "bad_request"
        assert client.connection.half_closed


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA"),
        post(b"abc", "Connection: Upgrade", "Upgrade: h2c", path="/1"),
        get("/1", "Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked")
        + b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
    ],
    ids=["none", "length", "chunked"],
)
def test_upgrade_is_ignored(request_bytes: bytes) -> None:
    """A request that asks for another protocol is answered in this one, and so is the next."""
    with Edge() as edge:
        client = edge.connect().send(request_bytes + request_bytes + post(b"x", path="/3"))
        client.send(*(request_bytes[at : at + 1] for at in range(len(request_bytes))))
        client.send(get("/5"))
        answers = [(answer.json["uri"], answer.json["body"]) for answer in client.answers()]
        body = "" if request_bytes.endswith(b"AAMA\r\n\r\n") else "abc"
        assert answers == [("/1", body), ("/1", body), ("/3", "x"), ("/1", body), ("/5", "")]
        assert not client.is_closed


def test_many_upgrades_in_one_read() -> None:
    """As many as fit into one read are answered."""
    with Edge() as edge:
        client = edge.connect().send(get("/", "Connection: Upgrade", "Upgrade: h2c") * 1500)
        assert len(client.answers()) == 1500


# the order of answers


PIPELINE: tuple[tuple[bytes, tuple[str, str, str]], ...] = (
    (get("/1"), ("GET", "/1", "")),
    (post(b"one body", path="/2?q"), ("POST", "/2?q", "one body")),
    (post_chunked(b"in", b" chunks", path="/3"), ("POST", "/3", "in chunks")),
    (b"\r\n" + get("/4", method="HEAD"), ("HEAD", "/4", "")),
    (post(b"", path="/5"), ("POST", "/5", "")),
    (get("/6", "Connection: Upgrade", "Upgrade: h2c"), ("GET", "/6", "")),
)


def cut(raw: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut bytes into reads at those places."""
    edges = sorted({0, len(raw), *(place % len(raw) for place in places)})
    return [raw[start:end] for start, end in pairwise(edges)]


@given(
    order=st.lists(st.sampled_from(PIPELINE), min_size=1, max_size=5),
    places=st.lists(st.integers(0, 1000), max_size=12),
    at_once=st.booleans(),
)
def test_any_chunking_gives_the_same_requests(
    order: list[tuple[bytes, tuple[str, str, str]]], places: list[int], at_once: bool
) -> None:
    """However a pipeline is cut into reads, and whenever it is answered, the answers are the same.

    When they are not answered at once, each is when all has been sent that is taken.
    """
    held: list[EdgeRequest] = []
    with Edge() as edge:
        if not at_once:
            edge.stage.behaviour = held.append
        client = edge.connect().send(*cut(b"".join(raw for raw, _ in order), places))
        while held:
            edge.echo(held.pop(0))
            edge.turn()
        seen = [(one.method.decode(), one.uri.decode()) for one in edge.stage.requests]
        assert seen == [(method, uri) for _, (method, uri, _) in order]
        answers = client.answers(*(method for method, _ in seen))
        assert [answer.status for answer in answers] == [200] * len(order)
        assert [answer.json["body"] for answer in answers if answer.body] == [
            body for _, (method, _, body) in order if method != "HEAD"
        ]
        assert not client.is_closed


def test_two_requests_in_one_read_are_answered_in_turn() -> None:
    """The second is not begun before the first is answered."""
    with Edge(lambda request: None) as edge:
        client = edge.connect().send(get("/1") + get("/2"))
        (first,) = edge.stage.requests
        answer_json(first, 200, 1)
        first, second = edge.stage.requests
        assert second.uri == b"/2"
        answer_json(second, 200, 2)
        assert [answer.json for answer in client.answers()] == [1, 2]
        assert [request.uri for request in edge.logged] == [b"/1", b"/2"]


def test_a_body_may_come_while_the_one_before_is_answered() -> None:
    """The body of the next request is kept, up to a bound, until its turn."""
    with Edge(lambda request: None) as edge:
        body = b"x" * (3 * UNREAD_BODY_LIMIT_BYTES)
        sent = post(body, path="/2")
        client = edge.connect().send(get("/1") + sent[:100])
        client.send(*(sent[at : at + 4096] for at in range(100, len(sent), 4096)))
        kept = len(sent) - client.unread_bytes
        assert UNREAD_BODY_LIMIT_BYTES < kept <= UNREAD_BODY_LIMIT_BYTES + 8192
        answer_json(edge.stage.requests[0], 200, 1)
        edge.echo(edge.stage.requests[1])
        edge.turn()
        assert client.answers()[1].json["body"] == body.decode()


def test_what_comes_early_has_a_bound() -> None:
    """Beyond it the connection is not read; once the answer is out, it is."""
    with Edge(lambda request: None) as edge:
        many = [get(f"/{number}", "X: " + "x" * 1000) for number in range(60)]
        client = edge.connect().send(get("/first")).send(*many)
        taken = sum(map(len, many)) - client.unread_bytes
        assert EARLY_LIMIT_BYTES < taken <= EARLY_LIMIT_BYTES + 2000
        assert not client.connection.reading
        edge.stage.behaviour = edge.echo
        edge.echo(edge.stage.requests[0])
        edge.turn()
        assert client.unread_bytes == 0
        assert [answer.json["uri"] for answer in client.answers()] == [
            "/first",
            *(f"/{number}" for number in range(60)),
        ]


@pytest.mark.parametrize("apart", [True, False])
def test_an_error_is_answered_in_its_turn(apart: bool) -> None:
    """A third request that breaks the rules is answered after the first two, then all is over."""
    with Edge(lambda request: None) as edge:
        sent = [get("/1"), get("/2"), head(b"Host : a"), get("/4")]
        client = edge.connect().send(*(sent if apart else [b"".join(sent)]))
        assert client.received == b""
        for number in (0, 1):
            edge.echo(edge.stage.requests[number])
        edge.turn()
        assert [answer.status for answer in client.answers()] == [200, 200, 400]
        assert client.connection.half_closed
        edge.linger_out()


def test_junk_after_the_last_request_is_ignored() -> None:
    """Whoever says that a request is the last is not answered what follows."""
    with Edge() as edge:
        client = edge.connect().send(get("/", "Connection: close") + b"junk\r\n\r\n")
        assert client.answer().field(b"connection") == b"close"
        assert client.is_closed
        edge.linger_out()


# clocks


def test_a_head_has_an_absolute_deadline() -> None:
    """One byte a second does not extend it; the answer names the limit."""
    with Edge(limits=EdgeLimits(header_timeout_s=10)) as edge:
        client = edge.connect()
        edge.advance(100)  # waiting for a first byte is another clock's matter
        for byte in b"GET / HTTP":
            assert not client.received
            client.send(bytes((byte,)))
            edge.advance(1)
        answer = client.answer()
        assert (answer.status, answer.error_code) == (408, "request_timeout")
        assert "server.header_timeout" in answer.json["error"]["message"]
        assert edge.refused[0][0] == RequestTimeout.code
        edge.linger_out()


def test_a_pipelined_head_has_its_deadline_from_its_turn() -> None:
    """A part of a head that came with the request before cannot wait for ever either."""
    with Edge() as edge:
        client = edge.connect().send(get("/1") + b"GET /2")
        assert client.answer().status == 200
        edge.advance(10)
        assert [answer.status for answer in client.answers()] == [200, 408]
        edge.linger_out()


def test_early_part_of_a_head_has_its_deadline_too() -> None:
    """The same when the part came while the request before was being answered."""
    with Edge(lambda request: None) as edge:
        client = edge.connect().send(get("/1"), b"GET /2")
        edge.advance(1000)
        edge.echo(edge.stage.requests[0])
        edge.turn()
        edge.advance(9)
        assert len(client.answers()) == 1
        edge.advance(1)
        assert [answer.status for answer in client.answers()] == [200, 408]
        edge.linger_out()


def test_a_body_may_pause_only_so_long() -> None:
    """Each piece begins the clock anew; silence ends it with a 408 that names the limit."""
    with Edge(limits=EdgeLimits(body_timeout_s=30)) as edge:
        client = edge.connect().send(post(b"abcdef")[:-6])
        for byte in b"abcde":
            edge.advance(29)
            client.send(bytes((byte,)))
        edge.advance(29)
        assert client.received == b""
        edge.advance(1)
        answer = client.answer()
        assert (answer.status, answer.error_code) == (408, "request_timeout")
        assert "server.body_timeout" in answer.json["error"]["message"]
        assert answer.field(b"connection") == b"close"
        assert edge.body_failures == [RequestTimeout]
        edge.linger_out()


def test_framing_alone_does_not_push_the_body_clock() -> None:
    """A chunk extension that never ends is silence."""
    with Edge() as edge:
        client = edge.connect().send(CHUNKED + b"3;")
        for _ in range(29):
            edge.advance(1)
            client.send(b"a")
        edge.advance(1)
        assert client.answer().status == 408
        edge.linger_out()


def test_the_body_clock_stands_still_while_nobody_reads() -> None:
    """A client is not blamed for a body that we have stopped reading."""
    with Edge(lambda request: None) as edge:
        body = b"x" * (2 * UNREAD_BODY_LIMIT_BYTES)
        client = edge.connect().send(post(body)[:-1], b"x")
        assert not client.connection.reading
        edge.advance(30, 30, 29)
        edge.echo(edge.stage.requests[0])
        edge.turn()
        assert client.answer().json["body"] == body.decode()


def test_the_body_clock_waits_for_us_to_say_continue() -> None:
    """A client that waits for ``100 Continue`` is not late; after it, it can be."""
    with Edge(lambda request: None) as edge:
        client = edge.connect().send(post(b"abc", "Expect: 100-continue")[:-3])
        edge.advance(30, 29)
        edge.echo(edge.stage.requests[0])
        edge.advance(29)
        assert [answer.status for answer in client.answers()] == [100]
        edge.advance(1)
        assert [answer.status for answer in client.answers()] == [100, 408]
        edge.linger_out()


@pytest.mark.parametrize("first", [b"", b"\r\n", get()])
def test_an_idle_connection_is_closed(first: bytes) -> None:
    """Silence between requests ends the connection without a word."""
    with Edge(limits=EdgeLimits(idle_timeout_s=120)) as edge:
        client = edge.connect().send(first)
        received = client.received
        edge.advance(119)
        assert not client.connection.lost
        edge.advance(1)
        assert client.connection.lost
        assert not client.connection.aborted
        assert client.received == received


def test_no_clock_runs_while_an_answer_is_made() -> None:
    """A model may think as long as its own limits let it."""
    with Edge(lambda request: None) as edge:
        client = edge.connect().send(post(b"abc"))
        assert edge.clock.getDelayedCalls() == []
        edge.advance(10_000)
        edge.echo(edge.stage.requests[0])
        assert client.answer().status == 200


def test_timeouts_of_zero_are_off() -> None:
    """Then nothing is ever scheduled while the connection lives."""
    limits = EdgeLimits(
        header_timeout_s=0, body_timeout_s=0, idle_timeout_s=0, write_stall_timeout_s=0
    )
    with Edge(limits=limits) as edge:
        client = edge.connect()
        for part in (b"GET / HT", b"TP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\n", b"a"):
            client.send(part)
            client.stop_taking()
            assert edge.clock.getDelayedCalls() == []
            client.take_again()
        client.send(b"bc")
        assert client.answer().json["body"] == "abc"


# what the client does not take


class Recorder:
    """A producer that notes what it is told.

    Attributes:
        told: What it was told, in order.
    """

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        """Note it."""
        self.told.append("pause")

    def resumeProducing(self) -> None:
        """Note it."""
        self.told.append("resume")

    def stopProducing(self) -> None:
        """Note it."""
        self.told.append("stop")


def streaming(edge: Edge) -> tuple[EdgeClient, EdgeRequest, Recorder]:
    """Begin an answer with a producer."""
    client = edge.connect().send(get())
    (request,) = edge.stage.requests
    request.begin(200, b"", ())
    request.write(b"first")
    producer = Recorder()
    request.registerProducer(producer, True)
    return client, request, producer


def test_a_full_connection_pauses_the_producer() -> None:
    """And lets it go on when the client has taken what there was."""
    with Edge(lambda request: None) as edge:
        client, request, producer = streaming(edge)
        assert producer.told == []
        client.stop_taking()
        assert producer.told == ["pause"]
        client.take_again()
        assert producer.told == ["pause", "resume"]
        request.unregisterProducer()
        client.stop_taking()
        assert producer.told == ["pause", "resume"]
        client.take_again()
        request.finish()
        assert client.answer().body == b"first"


def test_a_producer_on_a_full_connection_is_paused_at_once() -> None:
    """It must not produce before it learns that there is no room."""
    with Edge(lambda request: None) as edge:
        client = edge.connect().send(get())
        client.stop_taking()
        (request,) = edge.stage.requests
        producer = Recorder()
        request.registerProducer(producer, True)
        assert producer.told == ["pause"]
        request.unregisterProducer()


def test_a_client_that_takes_nothing_is_cut_off() -> None:
    """After ``write_stall_timeout``; taking something in time saves it."""
    with Edge(lambda request: None, limits=EdgeLimits(write_stall_timeout_s=60)) as edge:
        client, request, _ = streaming(edge)
        gone: list[str] = []
        request.on_gone(lambda: gone.append("gone"))
        client.stop_taking()
        edge.advance(59)
        client.take_again()
        edge.advance(59)
        client.stop_taking()
        edge.advance(59)
        assert not client.connection.aborted
        edge.advance(1)
        assert client.connection.aborted
        assert gone == ["gone"]


def test_a_last_answer_that_is_not_taken_is_cut_off() -> None:
    """Closing waits for the client only as long as writing does."""
    with Edge() as edge:
        client = edge.connect()
        client.channel.registerProducer(Recorder(), True)
        client.send(get("/", "Connection: close")[:-1])
        client.channel.unregisterProducer()
        client.connection.full = True
        client.send(b"\n")
        edge.advance(59)
        assert not client.connection.lost
        edge.advance(1)
        assert client.connection.aborted


def test_answers_do_not_pile_up_for_a_client_that_takes_none() -> None:
    """Pipelined requests wait, unread in the end, until the client takes what it was sent."""
    with Edge() as edge:
        client = edge.connect()
        client.stop_taking()
        client.send(*[get("/", "X: " + "x" * 1000)] * 100)
        assert client.received == b""
        assert not client.connection.reading
        edge.advance(30)
        client.take_again()
        assert len(client.answers()) == 100
        assert client.unread_bytes == 0


def test_a_refusal_has_time_to_be_read() -> None:
    """What the client goes on sending is dropped, up to a bound, and answered no more."""
    with Edge() as edge:
        client = edge.connect().send(b"junk\r\n\r\n")
        step = b"x" * 1024 * 1024
        client.send(*[step] * (LINGER_LIMIT_BYTES // len(step)))
        assert client.unread_bytes == 0
        assert not client.connection.lost
        assert len(client.answers()) == 1
        client.send(b"x")
        assert client.connection.aborted


def test_a_refusal_over_tls_closes_the_whole_connection() -> None:
    """TLS knows no half that could be closed alone."""
    with Edge() as edge:
        client = edge.connect(tls=True).send(b"junk\r\n\r\n")
        assert client.answer().status == 400
        assert client.connection.closing
        assert not client.connection.half_closed


# the site's and the resource's part of a connection


def test_state_shows() -> None:
    """The channel's repr tells where it stands."""
    with Edge(lambda request: None) as edge:
        client = edge.connect()
        assert repr(client.channel) == "<EdgeChannel idle waiting=0>"
        client.send(get() * 3)
        assert repr(client.channel) == "<EdgeChannel answering waiting=2>"
        client.leave()
        assert repr(client.channel) == "<EdgeChannel closing waiting=0>"


def test_the_connection_is_told_not_to_delay() -> None:
    """Small pieces of a stream go out at once."""
    with Edge() as edge:
        assert edge.connect().connection.no_delay
        peer = IPv4Address("TCP", "192.0.2.9", 1)
        client = edge.try_connect(peer)
        assert client is not None
        assert client.channel.getPeer() == peer
        assert client.channel.getHost() == IPv4Address("TCP", "192.0.2.1", 8000)
