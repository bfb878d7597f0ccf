"""The site and its requests: bodies, ends of answers, connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from llmproxy.channel import EdgeLimits, ip_of
from llmproxy.resources.base import answer_json
from llmproxy.site import SURPLUS_CONNECTIONS, EdgeRequest
from llmproxy.wire.forwarded import TrustedProxies
from tests.edge import NOW_S, Edge, Stage, answer_only, get, ignore, post


def begun(request: EdgeRequest) -> None:
    """Begin an answer of unknown length."""
    request.begin(200, b"", ())
    request.write(b"first")


# heads of answers


def test_what_every_answer_carries() -> None:
    """Our version, the date, the request id; no word about who serves."""
    with Edge() as edge:
        answer = edge.connect().send(get()).answer()
        assert answer.reason == b"OK"
        assert [name for name, _ in answer.fields] == [
            b"content-type",
            b"content-length",
            b"cache-control",
            b"date",
            b"x-request-id",
        ]
        assert answer.field(b"date") == b"Tue, 14 Nov 2023 22:13:20 GMT"
        assert answer.field(b"x-request-id") == b"018bcfe5-6800-7000-8000-000000000001"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("a-1.B_2:/+=@~", True), ("no good", False), ('"', False), ("x" * 129, False), ("", False)],
)
def test_request_ids(sent: str, kept: bool) -> None:
    """A sane id of the client's is kept; any other is replaced."""
    with Edge() as edge:
        answer = edge.connect().send(get("/", f"X-Request-ID: {sent}")).answer()
        (request,) = edge.stage.requests
        assert answer.field(b"x-request-id").decode() == request.request_id
        assert (request.request_id == sent) is kept


def test_a_backend_overrules_date_but_not_the_request_id() -> None:
    """There is one of each."""

    def relayed(request: EdgeRequest) -> None:
        request.begin(299, b"Fine", ((b"date", b"then"), (b"x-request-id", b"theirs")))
        request.finish()

    with Edge(relayed) as edge:
        answer = edge.connect().send(get("/", "X-Request-ID: mine")).answer()
        assert (answer.status, answer.reason) == (299, b"Fine")
        assert answer.field(b"date") == b"then"
        assert answer.field(b"x-request-id") == b"mine"
        assert answer.field(b"content-type") == b""


def test_a_second_head_replaces_the_first() -> None:
    """What an answer that never began had set is forgotten."""

    def twice(request: EdgeRequest) -> None:
        request.begin(200, b"", ((b"X-First", b"1"),))
        answer_json(request, 500, "second")

    with Edge(twice) as edge:
        answer = edge.connect().send(get()).answer()
        assert (answer.status, answer.field(b"x-first")) == (500, b"")


def test_head_has_the_fields_but_no_body() -> None:
    """And the next answer follows directly."""
    with Edge() as edge:
        client = edge.connect().send(get(method="HEAD") + get("/2"))
        first, second = client.answers("HEAD", "GET")
        assert int(first.field(b"content-length")) > 0
        assert first.body == b""
        assert second.json["uri"] == "/2"


def test_no_content_has_no_body_and_no_length() -> None:
    """Whatever the resource says of one (RFC 9110, section 8.6)."""

    def nothing(request: EdgeRequest) -> None:
        request.begin(204, b"", ((b"Content-Length", b"0"),))
        request.write(b"not to be sent")
        request.finish()

    with Edge(nothing) as edge:
        client = edge.connect().send(get() + get())
        for answer in client.answers():
            assert answer.status == 204
            assert answer.field(b"content-length") == answer.field(b"transfer-encoding") == b""


def test_an_answer_of_unknown_length_is_chunked() -> None:
    """And ends with the last chunk."""

    def stream(request: EdgeRequest) -> None:
        begun(request)
        request.write(b" second")
        request.finish()

    with Edge(stream) as edge:
        client = edge.connect().send(get() + get())
        for answer in client.answers():
            assert (answer.body, answer.complete) == (b"first second", True)


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_http_1_0(connection: str) -> None:
    """It gets our version, no chunks, and the connection closed after the answer."""

    def stream(request: EdgeRequest) -> None:
        begun(request)
        request.finish()

    with Edge(stream) as edge:
        client = edge.connect().send(get("/", f"Connection: {connection}", version="1.0"))
        answer = client.answer()
        assert (answer.body, answer.complete) == (b"first", True)
        assert answer.field(b"connection") == b"close"
        assert client.connection.lost
        assert edge.stage.requests[0].clientproto == b"HTTP/1.0"


@pytest.mark.parametrize(
    "reads",
    [
        [get("/", "Connection: close")],
        [post(b"abc", "Connection: close")],
        [post(b"abc", "Connection: close")[:-2], b"bc"],
        [post(b"abc", "Connection: x, Close")[:-3], b"abc"],
    ],
)
def test_a_client_that_wants_to_close(reads: list[bytes]) -> None:
    """Its wish is heard, however its request comes in, and the answer says so."""
    with Edge() as edge:
        client = edge.connect().send(*reads)
        assert client.answer().field(b"connection") == b"close"
        assert client.connection.lost


def test_an_announced_close_is_kept() -> None:
    """An answer that begins before the body is in says close; the body's end changes nothing."""
    with Edge(begun) as edge:
        client = edge.connect().send(post(b"abc")[:-3])
        client.send(b"abc")
        edge.stage.requests[0].finish()
        edge.turn()
        assert client.answer().field(b"connection") == b"close"
        assert client.is_closed


def test_refuse_further() -> None:
    """The answer is the connection's last; what was pipelined is not begun."""

    def refuse(request: EdgeRequest) -> None:
        request.refuse_further()
        answer_only(request)

    with Edge(refuse) as edge:
        client = edge.connect().send(get() + get())
        assert client.answer().field(b"connection") == b"close"
        assert len(edge.stage.requests) == 1


# ends


def test_break_off_of_chunks() -> None:
    """The farewell goes out, the last chunk never."""
    with Edge(begun) as edge:
        client = edge.connect().send(get())
        edge.stage.requests[0].break_off(b" farewell")
        edge.turn()
        answer = client.answer()
        assert (answer.body, answer.complete) == (b"first farewell", False)
        assert client.connection.lost
        assert not client.connection.aborted


def test_break_off_of_a_length() -> None:
    """The bytes that are missing tell."""

    def some(request: EdgeRequest) -> None:
        request.begin(200, b"", ((b"Content-Length", b"10"),))
        request.write(b"first")
        request.break_off(b"")

    with Edge(some) as edge:
        client = edge.connect().send(get())
        assert not client.answer().complete
        assert client.connection.lost
        assert not client.connection.aborted


def test_break_off_of_an_answer_that_the_close_ends() -> None:
    """Only a reset shows that it is not complete."""
    with Edge(begun) as edge:
        client = edge.connect().send(get(version="1.0"))
        edge.stage.requests[0].break_off(b" farewell")
        edge.turn()
        assert client.connection.aborted
        assert not client.answer().complete


def test_break_off_before_anything_was_written() -> None:
    """The connection ends without an answer."""
    with Edge(lambda request: request.break_off(b"")) as edge:
        client = edge.connect().send(get())
        assert client.received == b""
        assert client.connection.lost


def test_nothing_follows_a_break_off() -> None:
    """Writes do nothing, and nobody is told that the client has gone."""
    gone: list[int] = []
    with Edge(begun) as edge:
        client = edge.connect().send(get())
        (request,) = edge.stage.requests
        request.on_gone(lambda: gone.append(1))
        request.break_off(b"")
        received = client.received
        for _ in range(2):
            request.write(b"more")
            request.finish()
            request.break_off(b"more")
            edge.turn()
        assert client.received == received
        assert gone == []


def test_farewell_of_an_answer_without_a_body() -> None:
    """A HEAD's answer has no place for one."""
    with Edge(begun) as edge:
        client = edge.connect().send(get(method="HEAD"))
        edge.stage.requests[0].break_off(b"farewell")
        edge.turn()
        assert b"farewell" not in client.received


@pytest.mark.parametrize("begin", [ignore, begun])
def test_the_client_leaves(begin: Callable[[EdgeRequest], None]) -> None:
    """Who answers is told once; what it then writes goes nowhere."""
    gone: list[int] = []
    with Edge(begin) as edge:
        client = edge.connect().send(get())
        (request,) = edge.stage.requests
        request.on_gone(lambda: gone.append(1))
        client.leave()
        assert gone == [1]
        received = client.received
        request.begin(500, b"", ())
        request.write(b"more")
        request.refuse_further()
        request.finish()
        request.break_off(b"x")
        assert client.received == received
        assert gone == [1]
        late: list[int] = []
        request.on_gone(lambda: late.append(1))
        assert late == [1]


def test_leaving_after_the_answer_is_no_event() -> None:
    """Nobody is told of a client that goes when it has its answer."""
    gone: list[int] = []
    with Edge(ignore) as edge:
        client = edge.connect().send(get())
        (request,) = edge.stage.requests
        request.on_gone(lambda: gone.append(1))
        answer_only(request)
        client.leave()
        assert gone == []


def test_waiting_requests_are_dropped_with_the_connection() -> None:
    """Requests whose turn had not come are never begun, nor logged."""
    with Edge(ignore) as edge:
        client = edge.connect().send(get() + post(b"abc")[:-1])
        client.leave()
        assert len(edge.stage.requests) == 1
        assert edge.logged == []


def test_notify_finish() -> None:
    """twisted.web's own way of telling works, and an unheeded end is no unhandled error."""
    ends: list[str] = []
    with Edge(ignore) as edge:
        for leave in (False, True):
            client = edge.connect().send(get())
            request = edge.stage.requests[-1]
            request.notifyFinish().addCallback(lambda _: ends.append("over"))
            if leave:
                client.leave()
            else:
                answer_only(request)
        assert ends == ["over", "over"]


def test_a_recorded_request_is_not_logged_again() -> None:
    """The exchange writes its own line."""

    def record(request: EdgeRequest) -> None:
        request.recorded = request.path == b"/relayed"
        answer_only(request)

    with Edge(record) as edge:
        edge.connect().send(get("/relayed") + get("/here"))
        assert [request.path for request in edge.logged] == [b"/here"]


class Faults(SynchronousTestCase):
    """A resource that fails."""

    def test_before_the_answer(self) -> None:
        """It is a 500 without a word about what happened; the log has the traceback."""

        def fail(request: EdgeRequest) -> None:
            raise ZeroDivisionError("inner life")

        with Edge(fail) as edge:
            client = edge.connect().send(get() + get())
            for answer in client.answers():
                self.assertEqual((answer.status, answer.error_code), (500, "internal_error"))
                self.assertNotIn(b"inner life", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_within_the_answer(self) -> None:
        """It is broken off."""

        def fail(request: EdgeRequest) -> None:
            begun(request)
            raise ZeroDivisionError

        with Edge(fail) as edge:
            client = edge.connect().send(get())
            self.assertFalse(client.answer().complete)
            self.assertTrue(client.connection.lost)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_tree_that_fails(self) -> None:
        """The same when the resource cannot even be found."""

        class Broken(Resource):
            def getChildWithDefault(self, path: bytes, request: Any) -> Any:
                raise ZeroDivisionError

        with Edge(resource=Broken()) as edge:
            answer = edge.connect().send(get("/a/b")).answer()
            self.assertEqual(answer.error_code, "internal_error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


# connections


def test_connections_over_the_limit() -> None:
    """Their requests know, and are their last; many more are closed, until one has gone."""
    seen: list[bool] = []

    def answer(request: EdgeRequest) -> None:
        seen.append(request.surplus)
        answer_only(request)

    with Edge(answer, max_connections=2) as edge:
        peer = IPv4Address("TCP", "192.0.2.7", 1)
        first = edge.connect()
        assert not edge.connect().send(get()).is_closed
        surplus = [edge.connect() for _ in range(SURPLUS_CONNECTIONS)]
        assert surplus[0].send(get()).answer().status == 200
        assert surplus[0].is_closed
        assert seen == [False, True]
        surplus.append(edge.connect())
        assert edge.site.connection_count == 2 + SURPLUS_CONNECTIONS
        assert edge.try_connect(peer) is None
        first.leave()
        assert edge.try_connect(peer) is not None


def test_a_new_connection_for_an_idle_one() -> None:
    """Where that is wanted, the oldest idle one goes; those in use stay, and none is left then."""
    with Edge(ignore, max_connections=3, replaces_idle=True) as edge:
        peer = IPv4Address("TCP", "192.0.2.7", 1)
        busy = edge.connect().send(get())
        idle = [edge.connect(), edge.connect()]
        edge.connect().send(get()[:-1])
        edge.turn()
        assert [one.connection.lost for one in (busy, *idle)] == [False, True, False]
        idle[1].send(get())
        assert edge.try_connect(peer) is None
        for request in edge.stage.requests:
            answer_only(request)


def test_the_next_answer_is_the_last() -> None:
    """Once nothing is to be kept, each answer says so, and its connection closes after it."""
    with Edge() as edge:
        kept, fresh = edge.connect().send(get()), edge.connect()
        edge.site.keep_no_more()
        edge.turn()
        assert not kept.connection.lost
        for client in (kept, fresh):
            *before, last = client.send(get()).answers()
            assert last.field(b"connection") == b"close"
            assert not any(answer.field(b"connection") for answer in before)
            edge.turn()
            assert client.connection.lost


def test_connections_that_nothing_was_asked_on_yet() -> None:
    """They are told apart, up to the end of their first head, and closed only if that is wanted."""
    with Edge() as edge:
        assert not edge.site.expects_requests
        used, unused = edge.connect().send(get()), edge.connect().send(get()[:-1])
        assert edge.site.expects_requests
        edge.site.close_idle(unused=False)
        edge.turn()
        assert [one.connection.lost for one in (used, unused)] == [True, False]
        assert unused.send(b"\n").answer().status == 200
        assert not edge.site.expects_requests


def test_another_tree() -> None:
    """It is asked from the next request on, and what was found in the old one is forgotten."""

    def named(name: str) -> Stage:
        return Stage(lambda request: answer_json(request, 200, name))

    with Edge(resource=named("old")) as edge:
        client = edge.connect().send(post(b"{}"))
        edge.site.replace(
            named("new"),
            limits=EdgeLimits(),
            max_connections=1,
            trusted_proxies=TrustedProxies(()),
            cors_fields=lambda _: ((b"X-New", b"1"),),
        )
        old, new = client.send(post(b"{}")).answers()
        assert (old.json, old.field(b"x-new")) == ("old", b"")
        assert (new.json, new.field(b"x-new")) == ("new", b"1")
        assert edge.connect().send(get()).is_closed  # one connection too many


def test_close_idle() -> None:
    """Idle connections close now, others with their answer, which says so."""
    with Edge(ignore) as edge:
        idle = edge.connect()
        busy = edge.connect().send(get() + get("/pipelined"))
        begins = edge.connect().send(get()[:-1])
        edge.site.close_idle()
        edge.turn()
        assert idle.connection.lost
        assert not busy.connection.lost
        answer_only(edge.stage.requests[0])
        begins.send(b"\n")
        answer_only(edge.stage.requests[1])
        edge.turn()
        for client in (busy, begins):
            assert client.answer().field(b"connection") == b"close"
            assert client.connection.lost


def test_close_idle_over_tls() -> None:
    """Who was asked nothing need not close as well; who is left to read an answer has the time."""
    with Edge() as edge:
        idle = edge.connect(tls=True)
        busy, refused = edge.connect(tls=True), edge.connect(tls=True)
        busy.send(get()[:-1])
        refused.connection.full = True
        refused.send(b"nonsense\r\n\r\n")
        edge.site.close_idle()
        busy.send(b"\n")
        assert idle.connection.lost
        assert [one.connection.closing for one in (idle, busy, refused)] == [True] * 3
        below = [one.connection.closed_below for one in (idle, busy, refused)]
        assert below == [True, False, False]
        refused.connection.full = False
        edge.turn()


def test_answers_that_are_delivered() -> None:
    """Until the client has taken all, and closed where it is left the time to read."""
    with Edge() as edge:
        idle, slow, begins = (edge.connect() for _ in range(3))
        begins.send(get()[:-1])
        slow.send(get()).stop_taking()
        slow.send(get()[:-1])
        assert edge.site.delivering == 1
        slow.take_again()
        assert edge.site.delivering == 0
        slow.send(b"\n").stop_taking()
        edge.site.close_idle()
        edge.turn()
        assert idle.connection.lost
        assert edge.site.delivering == 1
        slow.take_again()
        assert slow.connection.lost
        assert edge.site.delivering == 0
    with Edge(ignore) as edge:
        asks, refused = edge.connect().send(get()), edge.connect().send(b"nonsense\r\n\r\n")
        assert refused.connection.half_closed
        assert edge.site.delivering == 2
        answer_only(edge.stage.requests[0])
        refused.leave()
        assert edge.site.delivering == 0
        assert not asks.connection.lost


def test_abort_all() -> None:
    """Every connection is cut."""
    with Edge(ignore) as edge:
        clients = [edge.connect(), edge.connect().send(get())]
        edge.site.abort_all()
        edge.turn()
        assert all(client.connection.aborted for client in clients)


@pytest.mark.parametrize(
    ("peer", "lines", "client_ip", "trusted"),
    [
        ("192.0.2.7", ["X-Forwarded-For: 198.51.100.1"], "192.0.2.7", False),
        ("10.0.0.1", ["X-Forwarded-For: 198.51.100.1"], "198.51.100.1", True),
        (
            "10.0.0.1",
            ["X-Forwarded-For: 203.0.113.9, 198.51.100.1", "X-Forwarded-For: 10.9.9.9"],
            "198.51.100.1",
            True,
        ),
        ("10.0.0.1", [], "10.0.0.1", True),
    ],
)
def test_who_calls(peer: str, lines: list[str], client_ip: str, trusted: bool) -> None:
    """Only trusted proxies are believed."""
    with Edge(trusted=["10.0.0.0/8"]) as edge:
        edge.connect(peer).send(get("/", *lines))
        (request,) = edge.stage.requests
        assert (request.peer_ip, request.client_ip) == (peer, client_ip)
        assert request.from_trusted_proxy is trusted


@pytest.mark.parametrize(
    ("address", "ip"),
    [
        (IPv4Address("TCP", "192.0.2.7", 1), "192.0.2.7"),
        (IPv6Address("TCP", "2001:db8::1", 1), "2001:db8::1"),
        (IPv6Address("TCP", "fe80::1%eth0", 1), "fe80::1"),
        (IPv6Address("TCP", "::ffff:192.0.2.7", 1), "192.0.2.7"),
        (UNIXAddress(b"/run/llmproxy.sock"), ""),
    ],
)
def test_peer_ip(address: IAddress, ip: str) -> None:
    """An IPv4 peer of an IPv6 socket is IPv4; a Unix socket's has none."""
    assert ip_of(address) == ip


def test_who_a_client_is_by_its_certificate() -> None:
    """Its subject, if it has shown one; no header has a part in it."""
    with Edge(ignore) as edge:
        client = edge.connect(tls=True)
        client.connection.subject = "CN=alice"
        client.send(get("/", "Certificate-Subject: CN=bob"))
        edge.connect(tls=True).send(get("/"))
        plain = edge.connect()
        plain.connection.subject = "CN=nobody can have one without TLS"
        plain.send(get("/"))
        subjects = [request.certificate_subject for request in edge.stage.requests]
    assert subjects == ["CN=alice", "", ""]


def test_what_a_resource_sees_of_a_request() -> None:
    """Head, times and security as the interface has them."""
    with Edge() as edge:
        edge.clock.advance(7)
        client = edge.connect(tls=True).send(get("/a?b", "X-One: 1", "x-one:  2 ")[:-4])
        edge.clock.advance(2)
        client.send(b"\r\n\r\n")
        (request,) = edge.stage.requests
        assert request.raw_headers == [
            (b"host", b"gateway.test"),
            (b"x-one", b"1"),
            (b"x-one", b"2"),
        ]
        assert (request.path, request.uri) == (b"/a", b"/a?b")
        assert request.header(b"x-one") == b"1"
        assert request.header(b"x-two") == b""
        assert request.started_s == 7
        assert request.secure
        assert repr(request) == f"<EdgeRequest {request.request_id} b'GET' b'/a?b'>"
        assert edge.site.now() == NOW_S
