"""Any cutting of the same bytes gives the same result, on both sides of the gateway.

The streams are valid, mutated and garbage: whole messages, and the pieces that messages are made of
in any order. What is compared is in `edge_target.Told` and `backend_target.Exchanged`.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.edge import get, post, post_chunked
from tests.fuzz import backend_target, edge_target, stream_target
from tests.fuzz.case import cut_at
from tests.raw_requests import CHUNKED, REFUSED, TAKEN
from tests.upstream.agent_contract import BAD_HEADS

OK = b"HTTP/1.1 200 OK\r\n"
UPGRADE = ("Connection: Upgrade", "Upgrade: h2c")

CUTS = st.lists(st.integers(0, 400), max_size=20) | st.just(list(range(1, 400)))

REQUESTS = (
    get("/1"),
    get("/head", method="HEAD"),
    get("/close", "Connection: close"),
    get("/old", version="1.0"),
    get("/old", "Connection: keep-alive", version="1.0"),
    get("/upgrade", *UPGRADE),
    post(b"a body", path="/2"),
    post(b"a body", "Expect: 100-continue"),
    post(b"a body", *UPGRADE),
    post(b"cut short")[:-3],
    post_chunked(b"in", b" chunks"),
    CHUNKED + b'2;a;b="c;\\""\r\nin\r\n7 ;x\r\n chunks\r\n0\r\n\r\n',
    CHUNKED + b"2;a=b\r\nin\r\n0;c\r\nX: y\r\nTrailer: \r\n\r\n",
    get("/c", *UPGRADE, "Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\nX: y\r\n\r\n",
    *(sent[0] for sent in TAKEN.values()),
    *(sent[0] for sent in REFUSED.values() if len(sent[0]) < 1000),
)
ANSWERS = (
    OK + b"Content-Length: 5\r\n\r\nhello",
    OK + b"Content-Length: 0\r\n\r\n",
    OK + b"Content-Length: 9\r\n\r\nhello",
    OK + b"\r\nuntil the end",
    OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello",
    OK + b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: u\r\n\r\n",
    OK + b'Transfer-Encoding: chunked\r\n\r\n1;a="b;c"\r\nh\r\n4\r\nello\r\n000;z\r\n\r\n',
    OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
    *(bad.octets for bad in BAD_HEADS if len(bad.octets) < 1000),
)


def streams(whole: tuple[bytes, ...], tokens: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Give byte streams: messages, pieces of messages, and bytes of any kind, in any order."""
    messages = st.sampled_from(whole)
    garbage = st.sampled_from(tokens) | st.binary(max_size=6)
    return st.lists(messages, min_size=1, max_size=4).map(b"".join) | st.lists(
        messages | garbage, max_size=8
    ).map(b"".join)


@given(
    octets=streams(REQUESTS, edge_target.TOKENS),
    cuts=CUTS,
    at_once=st.booleans(),
    tls=st.booleans(),
)
@settings(max_examples=150)
def test_what_a_client_sends(octets: bytes, cuts: list[int], at_once: bool, tls: bool) -> None:
    """The same requests with the same bodies, the same answers and the same end of it.

    However it is cut, and whether each request is answered as it comes or when all was sent.
    """
    wanted = edge_target.outcome([octets] if octets else [], tls=tls)
    assert edge_target.outcome(cut_at(octets, cuts), at_once=at_once, tls=tls) == wanted


@given(octets=streams(REQUESTS, edge_target.TOKENS), cuts=CUTS, seed=st.integers(0, 1000))
@example(octets=get("/1") + post(b"abc"), cuts=list(range(1, 400)), seed=14)
@settings(max_examples=100)
def test_what_a_client_sends_that_takes_its_time(octets: bytes, cuts: list[int], seed: int) -> None:
    """The same, when the client takes nothing for a while now and then."""
    pace = random.Random(seed)
    wanted = edge_target.outcome([octets] if octets else [])
    at_once = bool(seed % 2)
    assert edge_target.outcome(cut_at(octets, cuts), at_once=at_once, pace=pace) == wanted


@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(("GET", "POST", "HEAD")),
            streams(ANSWERS, backend_target.TOKENS),
            CUTS,
        ),
        min_size=1,
        max_size=3,
    ),
    at_once=st.booleans(),
)
@example(parts=[("GET", ANSWERS[0] + b"\r\n", [len(ANSWERS[0])])], at_once=True)
@settings(max_examples=300)
def test_what_a_backend_sends(parts: list[tuple[str, bytes, list[int]]], at_once: bool) -> None:
    """The same heads, bodies and ends, and the connection is used again or not.

    However it is cut, and whether a body is received from its head on or later.
    """
    whole = [(method, [octets] if octets else []) for method, octets, _ in parts]
    cut = [(method, cut_at(octets, cuts)) for method, octets, cuts in parts]
    wanted = backend_target.outcome(whole, at_once=True)
    backend_target.compare(wanted, backend_target.outcome(cut, at_once=at_once), "")


@pytest.mark.parametrize("octets", [*ANSWERS[:2], *ANSWERS[3:16]])
@pytest.mark.parametrize("junk", [b"junk", b"H", b"\0", OK + b"Content-Length: 0\r\n\r\n"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_junk_after_an_answer(octets: bytes, junk: bytes, method: str) -> None:
    """No connection is used again on which there was more than an answer, wherever it was cut."""
    sent = octets + junk
    for cuts in ((), (len(octets),), (len(octets) + 1,), range(len(sent))):
        (told, *_) = backend_target.outcome([(method, cut_at(sent, cuts))], at_once=True)
        interim = octets.startswith(b"HTTP/1.1 1") and junk.startswith(OK)
        assert not told.reused or (interim and method == "GET")


@given(
    octets=st.lists(st.sampled_from(stream_target.TOKENS) | st.binary(max_size=6), max_size=20).map(
        b"".join
    ),
    cuts=CUTS,
)
def test_what_passes_the_withholder(octets: bytes, cuts: list[int]) -> None:
    """Nothing but usage chunks is missing, at any cutting."""
    passed = stream_target.outcome(cut_at(octets, cuts), complete=True).passed
    assert passed == stream_target.outcome([octets] if octets else [], complete=True).passed
    stream_target.check_withheld(octets, passed)
