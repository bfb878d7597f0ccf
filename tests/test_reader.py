"""Tests of the request reader: what it bounds, what it remembers, and that nobody can tell that.

The oracle is a reader that never learns a head, so that llhttp sees every one.
"""

from __future__ import annotations

from typing import Any

import attrs
import httptools
import pytest

from llmproxy.errors import BadRequest, GatewayError, HeadersTooLarge, UriTooLong
from llmproxy.reader import MAX_FIELDS, MAX_LESSONS, Head, RequestReader
from tests.wire.test_sse import chop

LIMIT_BYTES = 4096


class Forgetful(RequestReader):
    """A reader that parses every head: it never learns one."""

    def _learn(self, head: Head) -> None:
        """Learn nothing."""


@attrs.define
class Read:
    """What a reader told, in order, pieces of a body put together.

    Attributes:
        log: ``head``, ``body``, ``end`` and, last, ``error``, each with what belongs to it.
        heads: The heads alone.
    """

    log: list[tuple[Any, ...]] = attrs.field(factory=list)
    heads: list[Head] = attrs.field(factory=list)

    def head_received(self, head: Head) -> None:
        """Note a head, all of it but what only one reader can know."""
        self.heads.append(head)
        names = [field.name for field in attrs.fields(Head)]
        seen = {name: getattr(head, name) for name in names}
        seen.pop("started_s")
        seen.pop("repeats")
        self.log.append(("head", {**seen, "fields": list(head.fields)}))

    def body_received(self, piece: bytes) -> None:
        """Note a piece."""
        assert piece, "an empty piece is none"
        if self.log[-1][0] == "body":
            piece = self.log.pop()[1] + piece
        self.log.append(("body", piece))

    def body_ended(self) -> None:
        """Note the end."""
        self.log.append(("end",))

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of those requests that are whole; nothing for those without."""
        kinds = [entry[0] for entry in self.log]
        return [
            self.log[at - 1][1] if kinds[at - 1] == "body" else b""
            for at, kind in enumerate(kinds)
            if kind == "end"
        ]


def make(
    kind: type[RequestReader] = RequestReader, limit_bytes: int = LIMIT_BYTES
) -> tuple[RequestReader, Read]:
    """Make a reader, and what it tells."""
    read = Read()
    seconds = iter(range(1_000_000))
    return kind(read, lambda: next(seconds), limit_bytes), read


def told(pieces: list[bytes], kind: type[RequestReader] = RequestReader) -> list[tuple[Any, ...]]:
    """Feed pieces to a new reader; give what it told, to the first error."""
    reader, read = make(kind)
    for piece in pieces:
        try:
            reader.feed(piece)
        except GatewayError as error:
            seen = (type(error), error.code, str(error), reader.in_head, reader.request_id)
            return [*read.log, ("error", *seen)]
    return [*read.log, ("so far", reader.in_head)]


def post(body: bytes, *lines: bytes, length: bytes | None = None) -> bytes:
    """Write a request with a body."""
    head = (b"POST /v1/x HTTP/1.1", b"Host: a", *lines)
    number = b"%d" % len(body) if length is None else length
    return b"\r\n".join((*head, b"Content-Length: " + number, b"X-Last: z", b"", body))


_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
_LLHTTP = httptools.HttpRequestParser


class CountingParser:
    """llhttp, with the bytes counted that it is fed.

    Attributes:
        fed_bytes: By all of them.
        calls: In how many pieces.
    """

    fed_bytes = 0
    calls = 0

    def __init__(self, protocol: object) -> None:
        self._parser = _LLHTTP(protocol)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> None:
        """Count, and pass on."""
        CountingParser.fed_bytes += len(data)
        CountingParser.calls += 1
        self._parser.feed_data(data)


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> type[CountingParser]:
    """Let the readers' parsers be counted."""
    monkeypatch.setattr(CountingParser, "fed_bytes", 0)
    monkeypatch.setattr(CountingParser, "calls", 0)
    monkeypatch.setattr(httptools, "HttpRequestParser", CountingParser)
    return CountingParser


# Reading


def test_a_request() -> None:
    """A head and its body, as they are told."""
    reader, read = make()
    reader.feed(post(b"abc", b"X-Mixed:  Case \t"))
    head = read.heads[0]
    assert (head.method, head.uri, head.version, head.length) == (b"POST", b"/v1/x", "1.1", 3)
    assert head.fields == [
        (b"host", b"a"),
        (b"x-mixed", b"Case"),
        (b"content-length", b"3"),
        (b"x-last", b"z"),
    ]
    assert not head.last
    assert head.started_s == 0
    assert read.log[1:] == [("body", b"abc"), ("end",)]


def test_in_head() -> None:
    """It knows whether a part of a head has come, and when the first byte did."""
    reader, read = make()
    assert not reader.in_head
    assert "beyond" in repr(reader)
    reader.feed(b"\r\n\r\n")
    assert not reader.in_head
    reader.feed(b"P")
    assert reader.in_head
    assert "in a head" in repr(reader)
    reader.feed(post(b"abc")[1:-2])
    assert not reader.in_head
    reader.feed(b"bc" + post(b"")[:20])
    assert reader.in_head
    reader.feed(post(b"")[20:])
    assert [head.started_s for head in read.heads] == [0, 1]


def test_the_target_names_the_host() -> None:
    """An absolute target's authority stands for Host, and its path for the target."""
    reader, read = make()
    for _ in range(4):
        reader.feed(post(b"a").replace(b"/v1/x", b"http://b:1/y"))
    for head in read.heads:
        assert head.uri == b"/y"
        assert [value for name, value in head.fields if name == b"host"] == [b"b:1"]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("framing", [b"Content-Length: 3", b"Transfer-Encoding: chunked", b"X: y"])
def test_an_upgrade_is_not_taken(framing: bytes, size: int) -> None:
    """A request that asks for an Upgrade is an ordinary one, with its body and what follows."""
    body = {b"C": b"abc", b"T": b"3\r\nabc\r\n0\r\n\r\n", b"X": b""}[framing[:1]]
    request = b"\r\n".join(
        (
            b"POST / HTTP/1.1",
            b"Host: a",
            b"Connection: upgrade",
            b"Upgrade: h2c",
            framing,
            b"",
            body,
        )
    )
    stream = (request + post(b"xyz")) * 2
    reader, read = make()
    for at in range(0, len(stream), size):
        reader.feed(stream[at : at + size])
    assert read.bodies == [b"abc" if body else b"", b"xyz"] * 2


@pytest.mark.parametrize("start", [b"POST / RTSP/1.0", b"POST  / HTTP/1.1", b"POST /  HTTP/1.1"])
@pytest.mark.parametrize("pipelined", [False, True])
def test_other_protocols_and_odd_spaces(start: bytes, pipelined: bool) -> None:
    """What the parser takes for a request line, and is none, is refused, whatever came before."""
    reader, read = make()
    before = b"POST / HTTP/1.1\r\nHost: a\r\n\r\n"
    odd = start + b"\r\nHost: a\r\n\r\n"
    if not pipelined:
        reader.feed(before)
    with pytest.raises(BadRequest):
        reader.feed(before + odd if pipelined else odd)
    assert len(read.heads) == 1


# Bounds


def _fed_in_vain(start: bytes, piece: bytes, error: type[GatewayError]) -> int:
    """Feed a piece again and again until that error; give how much was fed."""
    reader, _ = make()
    reader.feed(start)
    for count in range(100_000):
        try:
            reader.feed(piece)
        except error:
            return count * len(piece)
    pytest.fail("it takes anything")


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("piece", [b"x", b"x" * 100, b"x" * 10_000])
@pytest.mark.parametrize(
    ("start", "error"),
    [
        (b"GET /", UriTooLong),
        (b"GET / HTTP/1.1\r\n", HeadersTooLarge),
        (b"GET / HTTP/1.1\r\nX: ", HeadersTooLarge),
        (CHUNKED + b"3;", BadRequest),
        (CHUNKED + b"3;a=", BadRequest),
        (CHUNKED + b"3\r\nabc\r\n0\r\n", BadRequest),
        (CHUNKED + b"3\r\nabc\r\n0\r\nX: ", BadRequest),
    ],
)
def test_what_has_no_end_is_bounded(start: bytes, error: type[GatewayError], piece: bytes) -> None:
    """An endless target, field, chunk extension or trailer ends at the bound of a head."""
    assert _fed_in_vain(start, piece, error) <= LIMIT_BYTES + 100


@pytest.mark.parametrize(
    ("start", "piece", "error"),
    [
        (b"GET / HTTP/1.1\r\n", b"X: aaaaaaaaaaaaaaaa\r\n" * 2, HeadersTooLarge),
        (b"GET / HTTP/1.1\r\n", b"X:\r\n", HeadersTooLarge),
        (CHUNKED + b"0\r\n", b"X: a\r\n", BadRequest),
    ],
)
def test_many_small_fields_are_bounded(
    start: bytes, piece: bytes, error: type[GatewayError]
) -> None:
    """Fields and trailers are bounded by their sum as well, and fields by their number."""
    assert _fed_in_vain(start, piece, error) <= LIMIT_BYTES


@pytest.mark.parametrize("size", [1, 1000, 10_000])
def test_the_bounds_are_exact(size: int) -> None:
    """What just keeps the bounds is taken, and one more is not, however it is cut."""

    def of(size_bytes: int, *, in_line: bool = False) -> bytes:
        line, rest = b"GET /%b HTTP/1.1", b"\r\nhost:a\r\nx:%b\r\n\r\n"
        filling = b"a" * (size_bytes - len((line + rest).replace(b"%b", b"")))
        return line % filling + rest % b"" if in_line else line % b"" + rest % filling

    def with_fields(count: int) -> bytes:
        return b"GET / HTTP/1.1\r\nhost:a\r\n" + b"x:\r\n" * (count - 1) + b"\r\n"

    def outcome(request: bytes) -> object:
        return told(chop(request, [size]))[-1][1]

    for fine in (of(LIMIT_BYTES), of(LIMIT_BYTES, in_line=True), with_fields(MAX_FIELDS)):
        assert outcome(fine) is False
    for fatal in (of(LIMIT_BYTES + 1), with_fields(MAX_FIELDS + 1)):
        assert outcome(fatal) is HeadersTooLarge
    assert outcome(of(LIMIT_BYTES + 100, in_line=True)) is UriTooLong


@pytest.mark.parametrize("before", [b"", _CHUNKED_HEAD + b"fffff\r\n"], ids=["head", "chunk"])
def test_empty_lines_are_not_read_one_by_one(before: bytes, parser: type[CountingParser]) -> None:
    """What ends no message costs a parser's call by the hundred, not each: one read may be full."""
    reader, _ = make()
    reader.feed(before)
    calls = parser.calls
    reader.feed(b"\r\n" * 32_000)
    assert parser.calls - calls <= 64_000 // 500


def test_empty_lines_before_a_head() -> None:
    """However many stand before it, a head is what it is, and the parser remembered it."""
    reader, read = make()
    for empty in (b"", b"\r\n", b"\r\n" * 700, b"\r\n" * 300):
        reader.feed(empty + post(b"abc"))
    assert read.bodies == [b"abc"] * 4
    assert len({id(head.repeats) for head in read.heads[1:]}) == 1


def test_long_bodies_are_not_bounded_here() -> None:
    """A body may be as long as it is, whole or in chunks, however it is cut."""
    reader, read = make()
    for _ in range(4):
        reader.feed(post(b"", length=b"100000"))
        for _ in range(100):
            reader.feed(b"x" * 1000)
        reader.feed(CHUNKED)
        for _ in range(1000):
            reader.feed(b"A\r\n0123456789\r")
            reader.feed(b"\n")
        reader.feed(b"0\r\n\r\n")
    assert [len(body) for body in read.bodies] == [100_000, 10_000] * 4


# The request id of what is refused


@pytest.mark.parametrize(
    ("lines", "request_id"),
    [
        ([b"X-Request-ID: abc", b"X: y", b"Bad Name: x"], "abc"),
        ([b"x-request-id: not sane", b"X-Request-Id: sane", b"X: y", b"Bad Name: x"], "sane"),
        ([b"X-Request-ID: a b", b"X: y", b"Bad Name: x"], ""),
        ([b"Bad Name: x", b"X-Request-ID: abc"], ""),
        ([b"X-Request-ID: abc", b"Host: b"], "abc"),
    ],
)
@pytest.mark.parametrize("before", [0, 1, 4])
def test_request_id_of_a_broken_head(lines: list[bytes], request_id: str, before: int) -> None:
    """The id that came with a head that cannot be taken is known, and none of another head's."""
    reader, _ = make()
    for _ in range(before):
        reader.feed(post(b"abc", b"X-Request-ID: of-another"))
    with pytest.raises(BadRequest):
        reader.feed(b"\r\n".join((b"GET / HTTP/1.1", b"Host: a", *lines, b"", b"")))
    assert reader.request_id == request_id


# Remembering


def test_a_head_that_repeats_is_not_parsed(parser: type[CountingParser]) -> None:
    """From the third on nothing is parsed: the first may be the only one, the second is learnt."""
    reader, read = make()
    bodies = [b"a", b"bc", b"d" * 300, b"", b"e" * 12]
    for body in bodies[:2]:
        reader.feed(post(body))
    parsed_bytes = parser.fed_bytes
    assert parsed_bytes == 2 * len(post(b"", length=b"1")), "bodies are not parsed at all"
    for body in bodies[2:]:
        reader.feed(post(body))
    assert parser.fed_bytes == parsed_bytes
    assert read.bodies == bodies
    assert [head.length for head in read.heads] == [1, 2, 300, 0, 12]
    assert [dict(head.fields)[b"content-length"] for head in read.heads] == [
        b"1",
        b"2",
        b"300",
        b"0",
        b"12",
    ]
    assert [head.started_s for head in read.heads] == [0, 1, 2, 3, 4]


def test_pipelined_repeats_are_not_parsed(parser: type[CountingParser]) -> None:
    """Several in one piece, and bodies in pieces of their own, are counted off as well."""
    reader, read = make()
    for _ in range(2):
        reader.feed(post(b"abc"))
    parsed_bytes = parser.fed_bytes
    reader.feed(post(b"one") + post(b"") + post(b"three")[:-3])
    reader.feed(b"r")
    reader.feed(b"ee" + post(b"4") + post(b"abc")[:-3])
    reader.feed(b"def" + post(b"6"))
    assert read.bodies[2:] == [b"one", b"", b"three", b"4", b"def", b"6"]
    assert parser.fed_bytes == parsed_bytes


@pytest.mark.parametrize(
    "other",
    [
        post(b"abc", b"X: other"),
        post(b"abc").replace(b"X-Last", b"x-last"),
        post(b"abc").replace(b": z", b":z"),
        post(b"abc", length=b"3 "),
        post(b"abc", length=b" 3"),
        post(b"abc", b"Expect: 100-continue"),
        CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        post(b"abc", length=b"0" * 15 + b"3"),
    ],
)
def test_a_head_that_differs_is_parsed(other: bytes, parser: type[CountingParser]) -> None:
    """One byte of difference sends a head to the parser, whole."""
    reader, _ = make()
    for _ in range(2):
        reader.feed(post(b"abc"))
    parsed_bytes = parser.fed_bytes
    reader.feed(other)
    body = b"" if other.startswith((b"GET", CHUNKED)) else b"abc"
    assert parser.fed_bytes == parsed_bytes + len(other) - len(body)


def test_an_expectation_is_not_remembered(parser: type[CountingParser]) -> None:
    """What waits for ``100 Continue`` is parsed each time."""
    reader, _ = make()
    for count in range(1, 6):
        reader.feed(post(b"abc", b"Expect: 100-continue"))
        assert parser.fed_bytes == count * len(post(b"", b"Expect: 100-continue"))


def _shared(read: Read) -> list[int]:
    """Number what the heads share in the order in which it first appears."""
    seen: list[int] = []
    for head in read.heads:
        if id(head.repeats) not in seen:
            seen.append(id(head.repeats))
    return [seen.index(id(head.repeats)) for head in read.heads]


def test_what_repeats_share() -> None:
    """Heads that repeat a learnt one share its ``repeats``; every other has its own."""
    reader, read = make()
    a, b = post(b"a" * 5), post(b"b", b"X: b")
    for request in (a, a, a, a, b, b, a, a, a):
        reader.feed(request)
    # The b's are learnt from their first on: it is a miss, and there was one before.
    assert _shared(read) == [0, 1, 1, 1, 2, 2, 3, 3, 3]
    reader.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + a)
    assert _shared(read)[-2:] == [4, 3]
    read.heads[-1].repeats["made"] = 1
    assert [head.repeats.get("made") for head in read.heads[-5:]] == [1, 1, 1, None, 1]


def test_fields_are_not_shared() -> None:
    """What is done to one head's fields shows in no other's."""
    reader, read = make()
    for body in (b"a", b"bb", b"ccc", b"dddd"):
        reader.feed(post(body))
        assert len(read.heads[-1].fields) == 3
        read.heads[-1].fields[1] = (b"x-mine", body)
    assert [head.fields[1][1] for head in read.heads] == [b"a", b"bb", b"ccc", b"dddd"]


def test_it_stops_learning(parser: type[CountingParser]) -> None:
    """A client whose heads keep differing is not learnt from any more."""
    reader, read = make()
    for number in range(MAX_LESSONS + 1):
        reader.feed(post(b"abc", b"X: %d" % number))
    reader.feed(post(b"abc", b"X: y"))
    for _ in range(5):
        parsed_bytes = parser.fed_bytes
        reader.feed(post(b"abc", b"X: y"))
        assert parser.fed_bytes == parsed_bytes + len(post(b"abc", b"X: y")) - len(b"abc")
    assert _shared(read) == list(range(len(read.heads)))


def test_a_repeat_makes_it_learn_on(parser: type[CountingParser]) -> None:
    """With a head that repeats, the count of those that do not begins anew."""
    reader, read = make()
    number = 0
    for _ in range(5):
        for _ in range(MAX_LESSONS - 1):
            number += 1
            reader.feed(post(b"abc", b"X: %d" % number))
        parsed_bytes = parser.fed_bytes
        reader.feed(post(b"abcd", b"X: %d" % number))
        assert parser.fed_bytes == parsed_bytes
    assert len(set(_shared(read))) == number


def test_a_length_of_many_digits_is_no_repeat() -> None:
    """Digits in front of those that a learnt head ended with are part of one number."""
    for digits in (16, 19):
        small = [post(b"abcde", length=b"5".zfill(digits))] * 3
        large = [post(b"x" * 10_005, length=b"10005".zfill(digits))]
        assert told([*small, *large]) == told([*small, *large], Forgetful)


def test_a_longer_length_keeps_the_bound_of_a_head() -> None:
    """A head that its length alone makes too large is refused, learnt or not."""
    value = b"x" * (LIMIT_BYTES - len(post(b"", b"X:")))
    fits, does_not = post(b"a", b"X:" + value), post(b"b" * 10, b"X:" + value)
    assert told([fits] * 4)[-1] == ("so far", False)
    assert told([fits, fits, does_not])[-1][1] is HeadersTooLarge


@pytest.mark.parametrize(
    "last",
    [
        post(b"abc", b"Connection: close"),
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        CHUNKED.replace(b"Transfer", b"Connection: close\r\nTransfer") + b"0\r\n\r\n",
    ],
)
def test_the_last_request_makes_it_forget(last: bytes, parser: type[CountingParser]) -> None:
    """What follows ``Connection: close`` is for the parser, were it a head that was learnt."""
    pieces = [post(b"abc"), post(b"abc"), last]
    told(pieces)
    parsed_bytes, parser.fed_bytes = parser.fed_bytes, 0
    pieces.append(post(b"abc"))
    seen = told(pieces)
    assert parser.fed_bytes > parsed_bytes
    assert seen == told(pieces, Forgetful)
