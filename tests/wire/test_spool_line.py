"""Tests of `llmproxy.wire.spool_line`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.wire.spool_line import SpoolLine, decode_line, encode_line, next_start

LINE = encode_line("usage", 1_800_000_000.125, b'{"id":"a","n":1}')


def test_a_line_as_it_stands_in_the_file() -> None:
    """It is kept on disks: other versions read it."""
    assert LINE == b'9197d998 usage 1800000000125 {"id":"a","n":1}\n'


@given(
    kind=st.sampled_from(["usage", "alert", "dead"]),
    time_ms=st.integers(0, 4_000_000_000_000),
    event=st.binary().map(lambda raw: b"{" + raw.replace(b"\n", b"")),
)
def test_what_is_written_is_read(kind: str, time_ms: int, event: bytes) -> None:
    """Whatever is in it, with its end or without."""
    line = encode_line(kind, time_ms / 1000, event)
    assert line.count(b"\n") == 1
    found = decode_line(line)
    assert found is not None
    assert (found.kind, found.event) == (kind, event)
    assert abs(found.time_s - time_ms / 1000) < 0.002
    assert decode_line(line[:-1]) == found


@pytest.mark.parametrize("place", range(len(LINE) - 1))
@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_is_overlooked(place: int, bit: int) -> None:
    """In the checksum, the kind, the time, the event."""
    damaged = bytearray(LINE)
    damaged[place] ^= 1 << bit
    assert decode_line(bytes(damaged)) is None


@pytest.mark.parametrize("cut", range(len(LINE) - 1))
def test_a_cut_line_is_none(cut: int) -> None:
    """At any byte but its end."""
    assert decode_line(LINE[:cut]) is None


@pytest.mark.parametrize("text", [b"nokind", b"usage x {}", b"usage 1"])
def test_a_checksum_alone_makes_no_line(text: bytes) -> None:
    """What follows must be a kind, a time and an event."""
    from zlib import crc32

    assert decode_line(b"%08x %s\n" % (crc32(text), text)) is None


def test_a_line_behind_a_lost_end_is_found() -> None:
    """Whether what stands before it is whole or not."""
    other = encode_line("alert", 1.0, b'{"x":2}')
    joined = LINE[:-1] + b"#" + other
    start = next_start(joined)
    assert joined[start:] == other
    assert decode_line(joined[: start - 1]) == SpoolLine(
        "usage", 1_800_000_000.125, b'{"id":"a","n":1}'
    )
    broken = b"?" + LINE[1:-1] + b"#" + other
    assert broken[next_start(broken) :] == other


def test_what_looks_like_a_line_inside_a_text_is_none() -> None:
    """Clients write some of the texts; nothing of theirs becomes a record."""
    forged = encode_line("usage", 1.0, b'{"id":"forged"}')[:-1]
    event = b'{"agent":"' + forged + b'"}'
    damaged = b"?" + encode_line("usage", 1.0, event)[1:]
    assert next_start(damaged) == 0
    assert next_start(b"no line at all") == 0
