"""Nobody can tell that the request reader remembers heads: against one that never learns any."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import attrs
from hypothesis import example, given
from hypothesis import strategies as st

from llmproxy.errors import GatewayError
from tests.test_reader import (
    Forgetful,
    make,
    post,
    told,
)

_LENGTH_LINES = [
    b"Content-Length: %d",
    b"content-length:%d",
    b"CONTENT-LENGTH:\t %d \t",
    b"Content-Length: %04d",
    b"Content-Length: %016d",
    b"Content-Length: %019d",
    b"Content-Length: %021d",
]
_WRONG_LENGTH_LINES = [
    b"Content-Length: +%d",
    b"Content-Length: -%d",
    b"Content-Length: %d %d",
    b"Content-Length: %d,%d",
    b"Content-Length: 0x%d",
    b"Content-Length : %d",
    b"Content-Length: %d\r\nContent-Length: %d",
    b"Content-Length: %d\r\nTransfer-Encoding: chunked",
    b"Content_Length: %d",
    b"Content-Length:\r\n %d",
    b"Content-Length: 1%d000000000000000000",
    b"Content-Length: ",
    b"X: %d",
]
_FURTHER_LINES = [
    b"X: a",
    b"X: b",
    b"x: a",
    b"X:  a",
    b"X-Content-Length: 5",
    b"X: content-length: 5",
    b"Content-Type: application/json",
    b"Connection: keep-alive",
]
_ODD_LINES = [
    b"Expect: 100-continue",
    b"Expect: x",
    b"Connection: close",
    b"Connection: upgrade\r\nUpgrade: websocket",
    b"Upgrade: websocket",
    b"Host: b",
    b"X: a\0b",
    b"X-Request-ID: id",
]
_BODIES = [
    b"",
    b"a",
    b"12345",
    b"\r\n\r\n",
    post(b"abc"),
    post(b"abc")[:40],
    b"Content-Length: 7\r\n\r\n",
    b"x" * 300,
]


_PLACE = re.compile(rb"%0?([0-9]*)d")


@attrs.frozen
class Form:
    """A head but for its length."""

    start: bytes
    before: tuple[bytes, ...]
    length: bytes
    after: tuple[bytes, ...]

    def request(self, body: bytes) -> bytes:
        """Write a request of this form."""
        if self.length == b"chunked":
            line = b"Transfer-Encoding: chunked"
            chunk = b"%x;a=b\r\n%b\r\n" % (len(body), body) if body else b""
            body = chunk + b"0\r\nX-Trailer: a\r\n\r\n"
        else:
            number = b"%d" % len(body)
            line = _PLACE.sub(lambda place: number.zfill(int(place[1] or 0)), self.length)
        return b"\r\n".join((self.start, *self.before, line, *self.after, b"", body))


def _starts(odd: bool) -> st.SearchStrategy[bytes]:
    starts = [b"POST / HTTP/1.1\r\nHost: a", b"GET /b HTTP/1.1\r\nHost: a"]
    if odd:
        starts += [
            b"POST / HTTP/1.0\r\nHost: a",
            b"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive",
            b"POST http://b/ HTTP/1.1\r\nHost: a",
            b"\r\nPOST / HTTP/1.1\r\nHost: a",
            b"CONNECT a:1 HTTP/1.1\r\nHost: a",
            b"post / HTTP/1.1\r\nHost: a",
            b"POST / HTTP/1.1",
            b"POST / HTTP/1.1\nHost: a",
            b"nonsense",
        ]
    return st.sampled_from(starts)


def _forms(odd: bool) -> st.SearchStrategy[Form]:
    lines = st.sampled_from(_FURTHER_LINES + (_ODD_LINES if odd else []))
    few = st.lists(lines, max_size=2).map(tuple)
    lengths = [*_LENGTH_LINES, *([b"chunked", *_WRONG_LENGTH_LINES] if odd else [])]
    return st.builds(Form, _starts(odd), few, st.sampled_from(lengths), few)


@st.composite
def _requests(draw: st.DrawFn) -> list[bytes]:
    """Draw requests of which most are of one form, as those of one client."""
    usual = draw(st.lists(_forms(odd=False), min_size=1, max_size=2))
    forms = st.integers(0, 9).flatmap(
        lambda odds: st.sampled_from(usual) if odds < 8 else _forms(odd=odds == 9)
    )
    bodies = st.sampled_from(_BODIES) | st.binary(max_size=20)
    count = draw(st.integers(1, 12))
    return [draw(forms).request(draw(bodies)) for _ in range(count)]


@st.composite
def _pieces(draw: st.DrawFn, streams: st.SearchStrategy[list[bytes]]) -> list[bytes]:
    """Cut a stream of requests: between most of them, before some bodies, and anywhere."""
    requests = draw(streams)
    pieces: list[bytes] = []
    glue = False
    for request in requests:
        cuts: list[int] = []
        how = draw(st.sampled_from(["whole", "whole", "at the body", "anywhere"]))
        if how == "at the body":
            cuts = [request.find(b"\r\n\r\n") + 4]
        elif how == "anywhere":
            cuts = sorted(draw(st.lists(st.integers(1, max(1, len(request) - 1)), max_size=5)))
        edges = [0, *cuts, len(request)]
        cut = [request[a:b] for a, b in pairwise(edges) if a < b]
        if glue and pieces and cut:
            cut[0] = pieces.pop() + cut[0]
        pieces += cut
        glue = draw(st.integers(0, 3)) == 0
    return pieces


@st.composite
def _damaged(draw: st.DrawFn) -> list[bytes]:
    """Draw requests of one form in which a few bytes are not what they were."""
    requests = draw(_requests())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(requests) - 1))
        request = bytearray(requests[at])
        place = draw(st.integers(0, len(request) - 1))
        what = draw(st.sampled_from([b"", b" ", b"0", b"7", b"\n", b"\r\n", b"a", b"\0", b":"]))
        request[place : place + draw(st.integers(0, 1))] = what
        requests[at] = bytes(request)
    return requests


def _agree(pieces: list[bytes]) -> None:
    """Compare a reader with one that never learns, cut the same way, and not cut at all."""
    wanted = told(pieces, Forgetful)
    assert told(pieces) == wanted
    assert told([b"".join(pieces)], Forgetful) == wanted


_A = post(b"abc")


@given(pieces=_pieces(_requests()))
@example(pieces=[_A, _A, post(b"abc", b"Connection: close"), _A])
@example(pieces=[_A, _A, _A[:-3], b"abc" + _A, b"nonsense\r\n\r\n", _A])
def test_nobody_can_tell_that_it_remembers(pieces: list[bytes]) -> None:
    """Any requests, cut anywhere, are read as the parser reads them, to the same error."""
    _agree(pieces)


@given(pieces=_pieces(_damaged()))
def test_nobody_can_tell_with_damaged_requests(pieces: list[bytes]) -> None:
    """The same with bytes that are missing, too many or wrong."""
    _agree(pieces)


@given(requests=_requests())
def test_repeats_are_shared_by_none_but_repeats(requests: list[bytes]) -> None:
    """Heads that share what was made of them differ in the digits of their length at most."""
    reader, read = make()
    try:
        for request in requests:
            reader.feed(request)
    except GatewayError:
        pass  # what came before it counts
    by_repeats: dict[int, list[Any]] = {}
    for head in read.heads:
        fields = [field if field[0] != b"content-length" else field[:1] for field in head.fields]
        seen = (head.method, head.uri, head.version, fields, head.last)
        by_repeats.setdefault(id(head.repeats), []).append(seen)
    for same in by_repeats.values():
        assert same == [same[0]] * len(same)
