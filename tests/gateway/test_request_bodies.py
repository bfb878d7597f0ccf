"""Request bodies, from the client's bytes to the resource that reads them: limits and budget."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from llmproxy.channel import LINGER_S, UNREAD_BODY_LIMIT_BYTES
from llmproxy.errors import (
    BadRequest,
    BodyTooLarge,
    ClientGone,
    MemoryBudgetSpent,
    RequestTimeout,
)
from llmproxy.proxy.budget import ByteBudget
from llmproxy.resources.base import answer_json
from llmproxy.site import SMALL_PIECE_BYTES, EdgeRequest
from tests.edge import Edge, EdgeClient, answer_only, get, ignore, post, post_chunked

CHUNKED_HEAD = get("/", "Transfer-Encoding: chunked", method="POST")


def test_body_with_a_length_is_refused_before_it_comes() -> None:
    """A length over the limit is answered before a single byte of the body is in."""
    with Edge(body_limit_bytes=10) as edge:
        client = edge.connect().send(post(b"x" * 11)[:-11])
        answer = client.answer()
        assert (answer.status, answer.error_code) == (413, "request_too_large")
        assert answer.field(b"connection") == b"close"
        assert edge.body_failures == [BodyTooLarge]
        client.send(b"x" * 11)
        assert client.connection.half_closed
        assert len(client.answers()) == 1
        edge.linger_out()


def test_body_in_chunks_is_refused_when_it_is_over_the_limit() -> None:
    """Not at the limit, but with the first byte over it."""
    with Edge(body_limit_bytes=10) as edge:
        client = edge.connect().send(CHUNKED_HEAD, b"a\r\n0123456789\r\n")
        assert client.received == b""
        client.send(b"1\r\nx")
        assert client.answer().status == 413
        assert client.connection.half_closed
        edge.linger_out()


@pytest.mark.parametrize("sent", [post(b"0123456789"), post_chunked(b"01234", b"56789")])
def test_body_of_just_the_limit_is_taken(sent: bytes) -> None:
    """The limit itself is allowed."""
    with Edge(body_limit_bytes=10) as edge:
        assert edge.connect().send(sent).answer().json["body"] == "0123456789"


def test_what_is_only_declared_takes_nothing() -> None:
    """Bytes are taken as they come: heads alone keep nobody out."""
    with Edge(budget_bytes=100) as edge:
        heads = [edge.connect().send(post(b"x" * 90)[:-89]) for _ in range(5)]
        assert edge.budget.taken_bytes == 5
        assert edge.connect().send(post(b"x" * 90)).answer().status == 200
        heads[0].send(b"x" * 89)
        assert heads[0].answer().status == 200
        assert edge.budget.taken_bytes == 4


def test_a_body_without_room_is_refused_before_it_is_sent() -> None:
    """Where its length is told, and what there is of others leaves no room for it now."""
    with Edge(budget_bytes=100) as edge:
        first = edge.connect().send(post(b"x" * 90)[:-1])
        assert edge.budget.taken_bytes == 89
        second = edge.connect().send(post(b"x" * 12)[:-12])
        answer = second.answer()
        assert (answer.status, answer.error_code) == (503, "queue_full")
        assert answer.field(b"retry-after") == b"1"
        assert edge.budget.taken_bytes == 89
        first.send(b"x")
        assert first.answer().status == 200
        assert edge.budget.taken_bytes == 0
        assert edge.body_failures == [MemoryBudgetSpent]
        edge.linger_out()


def test_bodies_that_wait_for_each_others_room() -> None:
    """Do not: whose next byte finds none is refused, and what it held lets the others end."""
    with Edge(budget_bytes=100) as edge:
        clients = [edge.connect().send(post(b"x" * 60)[:-60]) for _ in range(2)]
        for client in clients:
            client.send(b"x" * 50)
        assert edge.budget.taken_bytes == 100
        clients[0].send(b"x" * 10)
        assert clients[0].answer().error_code == "queue_full"
        assert edge.budget.taken_bytes == 50
        clients[1].send(b"x" * 10)
        assert clients[1].answer().status == 200
        assert edge.budget.taken_bytes == 0


def test_budget_is_taken_chunk_by_chunk() -> None:
    """Without a length, what came is what is taken; too much gives all of it back."""
    with Edge(budget_bytes=10) as edge:
        client = edge.connect().send(CHUNKED_HEAD, b"6\r\n012345\r\n")
        assert edge.budget.taken_bytes == 6
        client.send(b"6\r\n6789ab\r\n")
        assert client.answer().error_code == "queue_full"
        assert edge.budget.taken_bytes == 0
        edge.linger_out()


END: dict[str, tuple[Callable[[Edge, EdgeClient], object], type[Exception]]] = {
    "the client leaves": (lambda edge, client: client.leave(), ClientGone),
    "it takes too long": (lambda edge, client: edge.advance(30), RequestTimeout),
    "it breaks the rules": (lambda edge, client: client.send(b"zz\r\n"), BadRequest),
    "we cut the connection": (lambda edge, client: client.cut(), ClientGone),
}


@pytest.mark.parametrize("how", END)
def test_bytes_are_given_back_however_a_body_ends(how: str) -> None:
    """Whatever ends the body before its end also gives its bytes back."""
    end, cause = END[how]
    with Edge() as edge:
        client = edge.connect().send(CHUNKED_HEAD, b"6\r\n012345\r\n")
        assert edge.budget.taken_bytes == 6
        end(edge, client)
        assert edge.budget.taken_bytes == 0
        (failure,) = edge.body_failures
        assert issubclass(failure, cause)


def test_reading_can_be_cancelled() -> None:
    """The bytes go back, the client is answered, and what else it sends is dropped."""
    budget = ByteBudget(100)
    failures: list[Failure] = []
    readers: list[Deferred[bytes]] = []

    def read(request: EdgeRequest) -> None:
        reader = request.read_body(100, budget)
        reader.addErrback(failures.append)
        readers.append(reader)

    with Edge(read) as edge:
        client = edge.connect().send(CHUNKED_HEAD, b"6\r\n012345\r\n")
        assert budget.taken_bytes == 6
        readers[0].cancel()
        assert budget.taken_bytes == 0
        assert failures[0].check(CancelledError)
        client.send(b"6\r\n012345\r\n")
        assert budget.taken_bytes == 0
        answer_json(edge.stage.requests[0], 200, 1)
        assert client.answer().json == 1
        assert client.connection.half_closed


def test_answering_or_breaking_off_while_reading_gives_the_bytes_back() -> None:
    """Even a resource that forgets its reader leaves nothing taken."""
    for end in (answer_only, lambda request: request.break_off(b"")):
        with Edge(lambda request: None) as edge:
            edge.connect().send(CHUNKED_HEAD, b"6\r\n012345\r\n")
            (request,) = edge.stage.requests
            request.read_body(100, edge.budget).addErrback(lambda _: None)
            assert edge.budget.taken_bytes == 6
            end(request)
            edge.linger_out()


def test_continue_is_said_when_the_body_is_read() -> None:
    """Not before, and not when it is refused, nor when it came unasked, nor to HTTP/1.0."""
    expecting = ("Expect: 100-continue",)
    with Edge(ignore) as edge:
        client = edge.connect().send(post(b"abc", *expecting)[:-3])
        assert client.received == b""
        edge.echo(edge.stage.requests[0])
        assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abc")
        assert [answer.status for answer in client.answers()] == [100, 200]
    with Edge(body_limit_bytes=2) as edge:
        client = edge.connect().send(post(b"abc", *expecting)[:-3])
        assert client.answer().status == 413
        assert client.connection.half_closed
    with Edge() as edge:
        assert edge.connect().send(post(b"abc", *expecting)).answer().status == 200
        assert edge.connect().send(post(b"", *expecting)).answer().status == 200
        client = edge.connect().send(post(b"abc", *expecting, version="1.0")[:-3])
        assert client.received == b""


def test_a_body_that_nobody_reads() -> None:
    """The answer goes out first; then the client may send on for a little, into nowhere."""
    with Edge(answer_only) as edge:
        client = edge.connect().send(post(b"x" * 1000)[:-1000])
        answer = client.answer()
        assert answer.json == "answered"
        assert answer.field(b"connection") == b"close"
        assert client.connection.half_closed
        client.send(b"x" * 1000, get("/next"))
        assert len(edge.stage.requests) == 1
        edge.advance(LINGER_S)
        assert client.connection.aborted


def test_an_unread_body_that_is_in_costs_no_connection() -> None:
    """When all of it came, the next request can follow."""
    with Edge(answer_only) as edge:
        client = edge.connect().send(post(b"x" * 1000) + post(b"y"))
        assert [answer.json for answer in client.answers()] == ["answered"] * 2
        assert not client.is_closed


def test_an_unread_body_is_not_read_without_bound() -> None:
    """Beyond a bound the connection is not read until somebody wants the body."""
    with Edge(ignore) as edge:
        body = b"x" * (4 * UNREAD_BODY_LIMIT_BYTES)
        client = edge.connect().send(post(body)[: -len(body)])
        client.send(*(body[at : at + 8192] for at in range(0, len(body), 8192)))
        assert not client.connection.reading
        kept = len(body) - client.unread_bytes
        assert UNREAD_BODY_LIMIT_BYTES < kept <= UNREAD_BODY_LIMIT_BYTES + 8192
        edge.echo(edge.stage.requests[0])
        edge.turn()
        assert client.answer().json["body"] == body.decode()


def test_small_and_large_chunks_make_one_body() -> None:
    """However a body is cut, it is put together again, as bytes."""
    large = b"L" * SMALL_PIECE_BYTES
    for pieces in ([b"a", b"b"], [large, b"a", b"b", large], [b"a", large, b"b", b"c"], [large]):
        bodies: list[bytes] = []
        with Edge(ignore) as edge:
            edge.connect().send(post_chunked(*pieces))
            reader = edge.stage.requests[0].read_body(1 << 20, ByteBudget(1 << 20))
            reader.addCallback(bodies.append)
            assert bodies == [b"".join(pieces)]
            assert type(bodies[0]) is bytes


def test_many_small_chunks_are_not_kept_one_by_one() -> None:
    """A body of tiny chunks takes hardly more memory than its bytes."""
    with Edge(ignore) as edge:
        client = edge.connect().send(CHUNKED_HEAD)
        client.send(*[b"2\r\nab\r\n" * 100] * 100)
        (request,) = edge.stage.requests
        assert request.unread_bytes == 20_000
        assert len(request._pieces) <= 20_000 // SMALL_PIECE_BYTES + 2


def test_read_body_after_the_client_has_gone() -> None:
    """It fails like a body that stops in the middle."""
    with Edge(ignore) as edge:
        edge.connect().send(post(b"abc")).leave()
        failures: list[Failure] = []
        edge.stage.requests[0].read_body(100, edge.budget).addErrback(failures.append)
        assert failures[0].check(ClientGone)
