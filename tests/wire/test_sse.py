"""Tests of the line scanner of event streams."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.wire.sse import BOM, LONGEST_BOUNDARY, LineScanner, data_payloads, ends_at_event


def chop(stream: bytes, sizes: list[int]) -> list[bytes]:
    """Cut a stream into pieces of these sizes, again and again; no sizes: one piece."""
    pieces = []
    at = 0
    for size in itertools.cycle(sizes or [len(stream)]):
        if at >= len(stream):
            break
        pieces.append(stream[at : at + size])
        at += size
    return pieces


SIZES = st.lists(st.integers(1, 40), max_size=8)
_STREAMS = st.lists(
    st.sampled_from(
        [b"data:", b"data: ", b"data", b": c", b"event: x", b"\n", b"\r", b"\r\n", b"\n\n", b"\xc3"]
    )
    | st.binary(max_size=12),
    max_size=30,
).map(b"".join)


def test_whole_lines_are_given_on_as_they_are() -> None:
    """A piece that ends with a line is not copied."""
    scanner = LineScanner()
    piece = b"data: x\n\n"
    assert scanner.feed(piece) is piece
    assert scanner.feed(b"data: y") == b""
    assert scanner.feed(b"z\r\ndata") == b"data: yz\r\n"
    assert scanner.feed(b"\r") == b"data\r"
    assert scanner.feed(piece) is piece
    assert scanner.rest() == b""


def test_rest() -> None:
    """The unfinished line is given once."""
    scanner = LineScanner()
    scanner.feed(b"a\nb")
    assert scanner.rest() == b"b"
    assert scanner.rest() == b""


@pytest.mark.parametrize(
    ("block", "payloads"),
    [
        (b"data: x\n\n", [b"x"]),
        (b"data:x\r\rdata:  y\r\n\r\n", [b"x", b" y"]),
        (BOM + b"data: x\ndata: y\n", [b"y"]),  # whoever knows a stream's beginning takes it off
        (b": data: x\nevent: data: y\n data: z\ndatax: w\n", []),
        (b"id: 1\ndata: a\ndata: b\n", [b"a", b"b"]),
        (b"data:\n\ndata: [DONE]", [b"", b"[DONE]"]),
        ("data: é\x0bé\u2028\n".encode(), ["é\x0bé\u2028".encode()]),
    ],
)
def test_data_payloads(block: bytes, payloads: list[bytes]) -> None:
    """Payloads of data lines only, less one space; only LF, CR and CRLF end a line."""
    assert data_payloads(block) == payloads


@given(stream=_STREAMS, sizes=SIZES)
def test_any_chunking_gives_the_same_lines(stream: bytes, sizes: list[int]) -> None:
    """However a stream is cut, its payloads are the same, and no byte is lost."""
    scanner = LineScanner()
    blocks = [scanner.feed(piece) for piece in chop(stream, sizes)]
    rest = scanner.rest()
    assert b"".join(blocks) + rest == stream
    found = [payload for block in [*blocks, rest] for payload in data_payloads(block)]
    assert found == data_payloads(stream)


@given(stream=_STREAMS, sizes=SIZES)
def test_long_lines_are_left_out(stream: bytes, sizes: list[int]) -> None:
    """Lines over the limit are left out and counted, the same at any chunking."""
    scanner = LineScanner(limit_bytes=8)
    seen = b"".join(scanner.feed(piece) for piece in chop(stream, sizes)) + scanner.rest()
    lines = re.split(rb"\r\n|\r|\n", stream)
    assert [line for line in re.split(rb"\r\n|\r|\n", seen) if line] == [
        line for line in lines if 0 < len(line) <= 8
    ]
    assert scanner.skipped_lines == sum(len(line) > 8 for line in lines)


def test_a_line_without_end_takes_bounded_memory() -> None:
    """After the limit nothing of a line is kept, and the next line is whole."""
    scanner = LineScanner(limit_bytes=100)
    for _ in range(1000):
        assert scanner.feed(b"x" * 50) == b""
    assert scanner.rest() == b""
    assert scanner.feed(b"x\ndata: y\n") == b"data: y\n"
    assert scanner.skipped_lines == 1


@pytest.mark.parametrize(
    ("stream", "boundary"),
    [
        (b"", True),
        (b"\n", True),
        (b"\r\n", True),
        (b"data: x", False),
        (b"data: x\n", False),
        (b"data: x\r", False),
        (b"data: x\r\n", False),
        (b"data: x\n\n", True),
        (b"data: x\r\r", True),
        (b"data: x\r\n\r\n", True),
        (b"data: x\r\n\r", True),
        (b"data: x\r\n\n", True),
        (b"data: x\n\r\n", True),
        (b"data: x\n\n: c\n", False),
        (b": c\n\n", True),
    ],
)
def test_boundary(stream: bytes, boundary: bool) -> None:
    """A blank line ends an event, with any line ends, and the last few bytes tell it."""
    assert ends_at_event(stream) is boundary
    assert ends_at_event(stream[-LONGEST_BOUNDARY:]) is boundary
