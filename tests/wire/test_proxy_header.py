"""The PROXY protocol's header: what is read, what is refused, in any pieces."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.wire.proxy_header import (
    LONGEST_V1_BYTES,
    LONGEST_V2_BYTES,
    ProxyHeader,
    read_proxy_header,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LONGEST_LINE = b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n"


def v2(command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    """Write a header of version 2; with a length that may be wrong."""
    size = len(body) if length is None else length
    return SIGNATURE + bytes((command, family)) + size.to_bytes(2) + body


def addresses(source: str, port: int) -> bytes:
    """Write both ends of a connection, as they are in version 2."""
    packed = ip_address(source).packed
    return packed + packed[::-1] + port.to_bytes(2) + (8000).to_bytes(2)


GOOD: list[tuple[bytes, ProxyHeader]] = [
    (
        b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 8000\r\n",
        ProxyHeader(43, "192.0.2.7", 50000),
    ),
    (b"PROXY TCP6 2001:DB8::7 ::1 0 65535\r\n", ProxyHeader(36, "2001:db8::7", 0)),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", ProxyHeader(37, "192.0.2.7", 1)),
    (b"PROXY UNKNOWN\r\n", ProxyHeader(15)),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", ProxyHeader(35)),
    (LONGEST_LINE, ProxyHeader(107)),
    (v2(0x21, 0x11, addresses("192.0.2.7", 50000)), ProxyHeader(28, "192.0.2.7", 50000)),
    (v2(0x21, 0x12, addresses("192.0.2.7", 50000)), ProxyHeader(28, "192.0.2.7", 50000)),
    (v2(0x21, 0x21, addresses("2001:db8::7", 1)), ProxyHeader(52, "2001:db8::7", 1)),
    (
        v2(0x21, 0x11, addresses("192.0.2.7", 9) + b"\x04\0\x03abc"),
        ProxyHeader(34, "192.0.2.7", 9),
    ),
    (v2(0x21, 0x31, b"/client".ljust(108, b"\0") * 2), ProxyHeader(232, is_unix=True)),
    (v2(0x21, 0x00, b""), ProxyHeader(16)),
    (v2(0x21, 0x00, b"whatever"), ProxyHeader(24)),
    (v2(0x20, 0x00, b""), ProxyHeader(16)),
    (v2(0x20, 0x11, addresses("192.0.2.7", 9)), ProxyHeader(28)),
    (v2(0x20, 0xFF, b"x"), ProxyHeader(17)),
    (v2(0x21, 0x00, b"x" * 4096), ProxyHeader(LONGEST_V2_BYTES)),
]


@pytest.mark.parametrize(("header", "said"), GOOD)
def test_read(header: bytes, said: ProxyHeader) -> None:
    """What it says, and where it ends; what follows does not matter."""
    assert read_proxy_header(header) == said
    assert read_proxy_header(header + b"GET / HTTP/1.1\r\n\r\n") == said
    assert said.size_bytes == len(header)


@pytest.mark.parametrize(("header", "said"), GOOD)
def test_in_any_pieces(header: bytes, said: ProxyHeader) -> None:
    """No part of it says anything, and none is refused."""
    for size in range(len(header)):
        assert read_proxy_header(header[:size]) is None, size


BAD: list[tuple[bytes, str]] = [
    (b"G", "no PROXY header"),
    (b"GET / HTTP/1.1\r\n", "no PROXY header"),
    (b"\x16\x03\x01", "no PROXY header"),
    (b"PROXYTCP4", "no PROXY header"),
    (b"proxy TCP4", "no PROXY header"),
    (b"\r\n\r\n\0\r\nQUIT\r", "no PROXY header"),
    (LONGEST_LINE.replace(b"f\r\n", b"ff\r\n"), "longer than 107 bytes"),
    (b"PROXY " + b"x" * 101, "longer than 107 bytes"),
    (b"PROXY \r\n", "malformed"),
    (b"PROXY TCP4\r\n", "malformed"),
    (b"PROXY UDP4 192.0.2.7 192.0.2.1 1 2\r\n", "malformed"),
    (b"PROXY UNKNOWNX\r\n", "malformed"),
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 1\r\n", "malformed"),
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3\r\n", "malformed"),
    (b"PROXY TCP4  192.0.2.7 192.0.2.1 1 2\r\n", "malformed"),
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 \r\n", "malformed"),
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 01 2\r\n", "malformed"),
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 +1 2\r\n", "malformed"),
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\n\r\n", "malformed"),
    (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "malformed"),
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 2\r\n", "a port that is none"),
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 1 65536\r\n", "a port that is none"),
    (b"PROXY TCP4 192.0.2.256 192.0.2.1 1 2\r\n", "256"),
    (b"PROXY TCP4 192.0.2.07 192.0.2.1 1 2\r\n", "07"),
    (b"PROXY TCP4 ::1 ::1 1 2\r\n", "::1"),
    (b"PROXY TCP6 192.0.2.7 ::1 1 2\r\n", "192.0.2.7"),
    (b"PROXY TCP6 ::1 ::g 1 2\r\n", "malformed"),
    (SIGNATURE + b"\x11", "version and command are 0x11"),
    (SIGNATURE + b"\x22", "version and command are 0x22"),
    (SIGNATURE + b"\x31", "version and command are 0x31"),
    (SIGNATURE + b"\x21\x10", "family and protocol are 0x10"),
    (SIGNATURE + b"\x21\x13", "family and protocol are 0x13"),
    (SIGNATURE + b"\x21\x41", "family and protocol are 0x41"),
    (SIGNATURE + b"\x21\x01", "family and protocol are 0x01"),
    (v2(0x21, 0x11, b"", 11), "too few for its addresses"),
    (v2(0x21, 0x21, b"", 35), "too few for its addresses"),
    (v2(0x21, 0x31, b"", 215), "too few for its addresses"),
    (v2(0x21, 0x11, b"", 4097), "more than 4112"),
    (v2(0x20, 0x00, b"", 65535), "more than 4112"),
]


@pytest.mark.parametrize(("header", "words"), BAD)
def test_refused(header: bytes, words: str) -> None:
    """In words; and as soon as it can be known, whatever follows."""
    for follows in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"y" * LONGEST_V1_BYTES):
        with pytest.raises(ValueError, match=words):
            read_proxy_header(header + follows)


@given(
    st.binary(max_size=300)
    | st.tuples(
        st.sampled_from([b"PROXY ", b"PROXY TCP4 192.0.2.7 ", b"PROXY UNKNOWN", SIGNATURE]),
        st.binary(max_size=300),
    ).map(b"".join)
    | st.tuples(st.sampled_from([header for header, _ in GOOD + BAD]), st.binary(max_size=99)).map(
        b"".join
    )
)
def test_what_is_once_said_stands(data: bytes) -> None:
    """Whatever comes: a verdict on a part is the verdict on the whole."""
    verdict: object = None
    for size in range(len(data) + 1):
        try:
            now: object = read_proxy_header(data[:size])
        except ValueError:
            now = "refused"
        if verdict is None:
            verdict = now
        assert now == verdict
        if isinstance(now, ProxyHeader):
            assert now.size_bytes <= size
