"""What the fuzzer has found, each as a test of its own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llmproxy.channel import LINGER_S, EdgeLimits
from tests.edge import Edge, get, ignore, post
from tests.fuzz.backend_target import outcome as exchanged
from tests.fuzz.stream_target import outcome as watched
from tests.raw_requests import CHUNKED

OK = b"HTTP/1.1 200 OK\r\n"


# Once: what came while an answer was made was overtaken by what came after it, if the client's
# side of the connection was full just then.
def test_what_comes_early_is_read_first() -> None:
    """A client that pipelines and takes nothing for a while: its bytes keep their order."""
    with Edge(ignore) as edge:
        client = edge.connect().send(get("/1"))
        second = post(b"abc", path="/2")
        client.send(second[:30])
        client.stop_taking()
        edge.echo(edge.stage.requests[0])
        edge.stage.behaviour = edge.echo
        client.send(second[30:])
        client.take_again()
        answers = client.answers()
        assert [answer.status for answer in answers] == [200, 200]
        assert answers[1].json["body"] == "abc"
        assert edge.refused == []


# Once: a body over its limit is refused from within the parser; what the same read holds beyond is
# parsed, and answered after the last answer.
@pytest.mark.parametrize(
    "rest",
    [b"4\r\n6789\r\n0\r\n\r\n" + get("/2"), b"nonsense\r\n"],
    ids=["another request", "nonsense"],
)
def test_nothing_follows_the_last_answer(rest: bytes) -> None:
    """After a body was refused with ``Connection: close`` there is no request and no answer."""
    with Edge(body_limit_bytes=4) as edge:
        client = edge.connect().send(CHUNKED, b"5\r\n12345\r\n" + rest)
        assert client.answer().error_code == "request_too_large"
        assert client.answer().field(b"connection") == b"close"
        assert len(edge.stage.requests) == 1
        assert edge.refused == []
        edge.advance(LINGER_S)
        assert client.connection.lost


# Once: the bound of a head counts the request line and the fields apart when they come in one read,
# together when they come in several.
def test_the_bound_of_a_head_does_not_depend_on_the_cutting() -> None:
    """The same head is taken, or is not, however it comes."""
    raw = get("/" + "a" * 300, "X: " + "b" * 300)
    statuses = []
    for step in (1 << 20, 50):
        with Edge(limits=EdgeLimits(max_header_bytes=512)) as edge:
            client = edge.connect().send(*(raw[at : at + step] for at in range(0, len(raw), step)))
            statuses.append([answer.status for answer in client.answers()])
    assert statuses[0] == statuses[1]


# Once: the parser swallows blank lines after an answer; the idle connection takes them for unasked.
def test_blank_line_after_an_answer() -> None:
    """Whether the connection is used again does not depend on how the blank line comes."""
    answer = OK + b"Content-Length: 2\r\n\r\nok"
    whole = exchanged([("GET", [answer + b"\r\n"])], at_once=True)
    assert exchanged([("GET", [answer, b"\r\n"])], at_once=True) == whole


# Once: only the first byte of all that a backend says is held to be an "H".
@pytest.mark.parametrize("protocol", [b"RTSP/1.0", b"ICE/1.0"])
def test_another_protocol_after_an_interim_answer(protocol: bytes) -> None:
    """The parser takes it for HTTP/1.0; it is refused there as it is without the interim answer."""
    final = protocol + b" 200 OK\r\nContent-Length: 2\r\n\r\nok"
    for interim in (b"", b"HTTP/1.1 100 Continue\r\n\r\n"):
        (told,) = exchanged([("GET", [interim + final])], at_once=True)
        assert told.end == "BadResponse"


# Once: a byte order mark is left out at the beginning of every block, not of the stream alone; and
# white space in the meter's patterns spans lines.
@pytest.mark.parametrize(
    "reads",
    [
        [b": a\n", b'\xef\xbb\xbfdata: {"choices":[{"finish_reason":"stop"}]}\n\n'],
        [b'data: {"content":\n', b'"x"}\n\n'],
    ],
    ids=["byte order mark", "a line within a key"],
)
def test_stream_cut_between_lines(reads: Sequence[bytes]) -> None:
    """The reading is the same when the stream comes in one piece."""
    assert watched(reads, complete=False) == watched([b"".join(reads)], complete=False)


def test_byte_order_mark_at_the_beginning() -> None:
    """There it is no part of the first line, however it is cut."""
    stream = b'\xef\xbb\xbfdata: {"choices":[{"finish_reason":"stop"}]}\n\n'
    for step in (1, 2, 5, 1000):
        reads = [stream[at : at + step] for at in range(0, len(stream), step)]
        assert watched(reads, complete=True).readings[0].finish_reason == "stop"
