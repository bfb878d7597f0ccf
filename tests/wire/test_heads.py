"""The rules of heads, one by one; the parser's own share is tested with the channel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.errors import (
    BadRequest,
    BadResponse,
    ExpectationFailed,
    GatewayError,
    NotImplementedHere,
    VersionNotSupported,
)
from llmproxy.wire.heads import (
    Field,
    behind_blank_line,
    check_request_head,
    check_response_head,
    check_transfer_encoding,
    framing_head,
    split_target,
)

HOST = (b"host", b"a")


@pytest.mark.parametrize(
    ("target", "uri", "authority"),
    [
        (b"/", b"/", b""),
        (b"//a/../b?c?d=%00", b"//a/../b?c?d=%00", b""),
        (b'/"<>\\^`{|}', b'/"<>\\^`{|}', b""),
        (b"*", b"*", b""),
        (b"http://a", b"/", b"a"),
        (b"http://a:80/b?c", b"/b?c", b"a:80"),
        (b"HTTPS://a?b", b"/?b", b"a"),
        (b"http://[::1]:80/b", b"/b", b"[::1]:80"),
    ],
)
def test_targets(target: bytes, uri: bytes, authority: bytes) -> None:
    """Paths stay as they are; an absolute one is split."""
    assert split_target(target) == (uri, authority)


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"a",
        b"a:80",
        b"**",
        b"?a",
        b"/a b",
        b"/a\tb",
        b"/a\n",
        b"/a#b",
        b"/\x7f",
        b"/\x80",
        b"http:///a",
        b"http://u@a/",
        b"http://u:p@a/",
        b"http://a#b",
        b'http://a"b/',
        b"http://a:x/",
        b"http://a:123456/",
        b"ftp://a/",
        b"file:///a",
    ],
)
def test_bad_targets(target: bytes) -> None:
    """Relative, with a fragment, with a user, or none at all."""
    with pytest.raises(BadRequest):
        split_target(target)


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        ("1.1", [HOST]),
        ("1.1", [(b"host", b"gateway.example.org:8000")]),
        ("1.1", [(b"host", b"[2001:db8::1]:80")]),
        ("1.1", [(b"host", b"a:")]),
        ("1.0", []),
        ("1.0", [HOST]),
        ("1.1", [HOST, (b"content-length", b"0")]),
        ("1.1", [HOST, (b"transfer-encoding", b"chunked")]),
        ("1.1", [HOST, (b"expect", b"100-Continue")]),
        ("1.1", [HOST, (b"x", b"a\tb \xff")]),
        ("1.1", [HOST, (b"x_custom", b"a")]),
    ],
)
def test_good_request_heads(version: str, fields: list[Field]) -> None:
    """What keeps the rules passes."""
    check_request_head(version, fields)


@pytest.mark.parametrize(
    ("version", "fields", "error"),
    [
        ("2.0", [HOST], VersionNotSupported),
        ("1.2", [HOST], VersionNotSupported),
        ("0.9", [HOST], VersionNotSupported),
        ("1.1", [], BadRequest),
        ("1.1", [HOST, HOST], BadRequest),
        ("1.0", [HOST, HOST], BadRequest),
        ("1.1", [(b"host", b"a b")], BadRequest),
        ("1.1", [(b"host", b"[::1")], BadRequest),
        ("1.1", [(b"host", b"a:b")], BadRequest),
        ("1.1", [(b"host", b"a\n")], BadRequest),
        ("1.1", [HOST, (b"x", b"a\0b")], BadRequest),
        ("1.1", [HOST, (b"x", b"a\x1fb")], BadRequest),
        ("1.1", [HOST, (b"x", b"a\x7fb")], BadRequest),
        ("1.1", [HOST, (b"x", b"a\rb")], BadRequest),
        ("1.1", [HOST, (b"content-length", b"+1")], BadRequest),
        ("1.1", [HOST, (b"content-length", b"")], BadRequest),
        ("1.1", [HOST, (b"content-length", b"1, 1")], BadRequest),
        ("1.1", [HOST, (b"content-length", b"1"), (b"content-length", b"1")], BadRequest),
        ("1.1", [HOST, (b"content-length", b"1"), (b"transfer-encoding", b"chunked")], BadRequest),
        ("1.1", [HOST, (b"transfer-encoding", b"chunked")] * 2, BadRequest),
        ("1.0", [HOST, (b"transfer-encoding", b"chunked")], BadRequest),
        ("1.1", [HOST, (b"transfer-encoding", b"gzip, chunked")], NotImplementedHere),
        ("1.1", [HOST, (b"expect", b"")], ExpectationFailed),
        ("1.1", [HOST, (b"expect", b"100-continue, x")], ExpectationFailed),
        ("1.1", [HOST, (b"content_length", b"1")], BadRequest),
        ("1.1", [HOST, (b"x_forwarded_for", b"1")], BadRequest),
        ("1.1", [HOST, (b"x_admin_token", b"1")], BadRequest),
    ],
)
def test_bad_request_heads(version: str, fields: list[Field], error: type[GatewayError]) -> None:
    """What breaks a rule is refused, each with its own class."""
    with pytest.raises(error):
        check_request_head(version, fields)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"chunked", None),
        (b"\tCHUNKED ", None),
        (b"gzip, chunked", NotImplementedHere),
        (b"gzip,deflate,Chunked", NotImplementedHere),
        (b"", BadRequest),
        (b"gzip", BadRequest),
        (b"identity", BadRequest),
        (b"chunked, gzip", BadRequest),
        (b"chunked, chunked", BadRequest),
        (b", chunked", BadRequest),
        (b"chunked,", BadRequest),
        (b"xchunked", BadRequest),
        (b"chunked;a=b", BadRequest),
        (b'"chunked"', BadRequest),
    ],
)
def test_transfer_codings(value: bytes, error: type[GatewayError] | None) -> None:
    """A single ``chunked``; others before it are known but not done; all else is an error."""
    if error is None:
        check_transfer_encoding(value)
    else:
        with pytest.raises(error):
            check_transfer_encoding(value)


@pytest.mark.parametrize(
    ("fields", "framing"),
    [
        ([], b""),
        ([(b"content-length", b"0")], b""),
        ([(b"content-length", b"007")], b"content-length: 007"),
        ([HOST, (b"transfer-encoding", b"Chunked"), (b"x", b"y")], b"transfer-encoding: Chunked"),
    ],
)
def test_framing_head(fields: list[Field], framing: bytes) -> None:
    """The framing alone, and nothing for a request without a body."""
    whole = b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n"
    assert framing_head(fields) == (whole if framing else b"")


@pytest.mark.parametrize(
    ("version", "status", "fields"),
    [
        ("1.1", 200, []),
        ("1.0", 200, [(b"content-length", b"1")]),
        ("1.1", 100, []),
        ("1.1", 599, [(b"transfer-encoding", b"Chunked")]),
        ("1.1", 200, [(b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"x", b"\xe9\t")]),
    ],
)
def test_good_response_heads(version: str, status: int, fields: list[Field]) -> None:
    """What keeps the rules passes."""
    check_response_head(version, status, fields)


@pytest.mark.parametrize(
    ("version", "status", "fields"),
    [
        ("2.0", 200, []),
        ("0.9", 200, []),
        ("1.1", 99, []),
        ("1.1", 600, []),
        ("1.1", 101, []),
        ("1.1", 200, [(b"x", b"a\0b")]),
        ("1.1", 200, [(b"x", b"a\nb")]),
        ("1.1", 200, [(b"x", b"a\x7fb")]),
        ("1.1", 200, [(b"content-length", b"+1")]),
        ("1.1", 200, [(b"content-length", b"1"), (b"content-length", b"1")]),
        ("1.1", 200, [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")]),
        ("1.1", 200, [(b"transfer-encoding", b"chunked")] * 2),
        ("1.1", 200, [(b"transfer-encoding", b"gzip, chunked")]),
        ("1.1", 200, [(b"transfer-encoding", b"identity")]),
        ("1.0", 200, [(b"transfer-encoding", b"chunked")]),
    ],
)
def test_bad_response_heads(version: str, status: int, fields: list[Field]) -> None:
    """A backend that breaks a rule is a bad one."""
    with pytest.raises(BadResponse):
        check_response_head(version, status, fields)


@given(
    parts=st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"a", b"\r\n\r\n", b"0"]), max_size=12),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
)
def test_behind_blank_line(parts: list[bytes], sizes: list[int]) -> None:
    """A blank line ends a piece wherever it stands, however the bytes are cut before that."""
    data = b"".join(parts)
    ends = {at for at in range(4, len(data) + 1) if data[:at].endswith(b"\r\n\r\n")}
    found, before, done = set(), b"", 0
    for size in sizes * (len(data) + 1):
        piece, at = data[done : done + size], 0
        while at < len(piece):
            cut = behind_blank_line(before, piece, at)
            assert at < cut <= len(piece)
            before = (before + piece[at:cut])[-3:]
            found.add(done + cut)
            at = cut
        done += len(piece)
    assert ends <= found
