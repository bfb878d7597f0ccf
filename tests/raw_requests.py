"""Requests byte by byte: those that must be refused, with what, and those that must not."""

from __future__ import annotations

from llmproxy.reader import MAX_FIELDS
from tests.edge import get

HOST = b"Host: gateway.test\r\n"
CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


def head(*lines: bytes, target: bytes = b"/", version: bytes = b"1.1") -> bytes:
    """Write a head, byte by byte as given."""
    return b"\r\n".join((b"GET " + target + b" HTTP/" + version, *lines, b"", b""))


def posted(*lines: bytes, body: bytes = b"abc") -> bytes:
    """Write a request whose body is framed as the lines say, or fail to."""
    return b"\r\n".join((b"POST / HTTP/1.1", b"Host: gateway.test", *lines, b"", body))


def fields(count: int) -> list[bytes]:
    """Write that many fields, Host being one of them."""
    return [HOST.rstrip(), *(b"X-%d: a" % number for number in range(count - 1))]


REFUSED: dict[str, tuple[bytes, int, str]] = {
    # Host (RFC 9112, section 3.2)
    "no Host": (head(), 400, "bad_request"),
    "empty Host": (head(b"Host:"), 400, "bad_request"),
    "two Hosts": (head(b"Host: a", b"Host: a"), 400, "bad_request"),
    "Host with a space": (head(b"Host: a b"), 400, "bad_request"),
    "Host with a path": (head(b"Host: a/b"), 400, "bad_request"),
    "Host with a user": (head(b"Host: a@b"), 400, "bad_request"),
    "Host with a word for a port": (head(b"Host: a:b"), 400, "bad_request"),
    "absolute target without Host": (head(target=b"http://a/"), 400, "bad_request"),
    # versions
    "HTTP/2.0": (head(b"Host: a", version=b"2.0"), 505, "version_not_supported"),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505, "version_not_supported"),
    "HTTP/3.0": (head(b"Host: a", version=b"3.0"), 400, "bad_request"),
    "two spaces in the first line": (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
    "RTSP": (b"GET / RTSP/1.0\r\n\r\n", 400, "bad_request"),
    "ICE": (b"SOURCE / ICE/1.0\r\n\r\n", 400, "bad_request"),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
    "TLS on a plain port": (b"\x16\x03\x01\x00\xc8\x01\x00" + b"\0" * 60, 400, "bad_request"),
    # fields
    "NUL in a value": (head(b"Host: a", b"X: a\0b"), 400, "bad_request"),
    "control byte in a value": (head(b"Host: a", b"X: a\x01b"), 400, "bad_request"),
    "escape in a value": (head(b"Host: a", b"X: a\x1b[2Jb"), 400, "bad_request"),
    "DEL in a value": (head(b"Host: a", b"X: a\x7fb"), 400, "bad_request"),
    "bare CR in a value": (head(b"Host: a", b"X: a\rb"), 400, "bad_request"),
    "folded line": (head(b"Host: a", b"X: a", b" b"), 400, "bad_request"),
    "space before the colon": (head(b"Host : a"), 400, "bad_request"),
    "no colon": (head(b"Host: a", b"nonsense"), 400, "bad_request"),
    "no name": (head(b"Host: a", b": b"), 400, "bad_request"),
    "no ASCII in a name": (head(b"Host: a", b"X\xc3: b"), 400, "bad_request"),
    "bare LF everywhere": (b"GET / HTTP/1.1\nHost: a\n\n", 400, "bad_request"),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "bad_request"),
    "look-alike of Content-Length": (posted(b"Content_Length: 3"), 400, "bad_request"),
    "look-alike of a key": (head(b"Host: a", b"X_Api_Key: b"), 400, "bad_request"),
    "half a look-alike": (head(b"Host: a", b"X-Forwarded_For: b"), 400, "bad_request"),
    "look-alike of a prefix": (head(b"Host: a", b"X_Forwarded_Prefix: b"), 400, "bad_request"),
    "one field too many": (head(*fields(MAX_FIELDS + 1)), 431, "headers_too_large"),
    "one field too long": (head(b"Host: a", b"X: " + b"a" * 40_000), 431, "headers_too_large"),
    "fields too long": (head(*[b"X: " + b"a" * 1000] * 40), 431, "headers_too_large"),
    "unknown expectation": (head(b"Host: a", b"Expect: x"), 417, "expectation_failed"),
    # framing
    "coding, then length": (
        posted(b"Transfer-Encoding: chunked", b"Content-Length: 3"),
        400,
        "bad_request",
    ),
    "length, then coding": (
        posted(b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        400,
        "bad_request",
    ),
    "two lengths": (posted(b"Content-Length: 3", b"Content-Length: 3"), 400, "bad_request"),
    "length with a sign": (posted(b"Content-Length: +3"), 400, "bad_request"),
    "negative length": (posted(b"Content-Length: -3"), 400, "bad_request"),
    "list of lengths": (posted(b"Content-Length: 3,3"), 400, "bad_request"),
    "hexadecimal length": (posted(b"Content-Length: 0x3"), 400, "bad_request"),
    "empty length": (posted(b"Content-Length:"), 400, "bad_request"),
    "endless length": (posted(b"Content-Length: " + b"9" * 30), 400, "bad_request"),
    "identity": (posted(b"Transfer-Encoding: identity"), 400, "bad_request"),
    "another coding first": (
        posted(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
        501,
        "not_implemented",
    ),
    "another coding alone": (posted(b"Transfer-Encoding: gzip"), 400, "bad_request"),
    "another coding last": (posted(b"Transfer-Encoding: chunked, gzip"), 400, "bad_request"),
    "chunked twice": (posted(b"Transfer-Encoding: chunked, chunked"), 400, "bad_request"),
    "coding that looks alike": (posted(b"Transfer-Encoding: xchunked"), 400, "bad_request"),
    "coding after a control": (posted(b"Transfer-Encoding: \x0bchunked"), 400, "bad_request"),
    "coding in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    # chunks
    "chunk size of junk": (CHUNKED + b"zz\r\n", 400, "bad_request"),
    "negative chunk size": (CHUNKED + b"-1\r\n", 400, "bad_request"),
    "prefixed chunk size": (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", 400, "bad_request"),
    "chunk size that overflows": (CHUNKED + b"f" * 17 + b"\r\n", 400, "bad_request"),
    "space after a chunk size": (CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", 400, "bad_request"),
    "no chunk size": (CHUNKED + b"\r\nabc\r\n", 400, "bad_request"),
    "chunk longer than said": (CHUNKED + b"3\r\nabcX\r\n0\r\n\r\n", 400, "bad_request"),
    "bare LF after a chunk": (CHUNKED + b"3\r\nabc\n0\r\n\r\n", 400, "bad_request"),
    "bare LF in an extension": (CHUNKED + b"3;a\nabc\r\n0\r\n\r\n", 400, "bad_request"),
    "length among trailers": (
        CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
        400,
        "bad_request",
    ),
    "coding among trailers": (
        CHUNKED + b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "bad_request",
    ),
    "folded trailer": (CHUNKED + b"0\r\nX: a\r\n b\r\n\r\n", 400, "bad_request"),
    # targets and methods
    "relative target": (head(b"Host: a", target=b"v1/models"), 400, "bad_request"),
    "fragment": (head(b"Host: a", target=b"/a#b"), 400, "bad_request"),
    "space in a target": (head(b"Host: a", target=b"/a b"), 400, "bad_request"),
    "control byte in a target": (head(b"Host: a", target=b"/\x01"), 400, "bad_request"),
    "no ASCII in a target": (head(b"Host: a", target=b"/\xc3\xa9"), 400, "bad_request"),
    "user in a target": (head(b"Host: a", target=b"http://u@b/"), 400, "bad_request"),
    "absurd port in a target": (head(b"Host: a", target=b"http://b:999999/"), 400, "bad_request"),
    # RFC 9110, section 4.2.1
    "absolute target without a host": (head(b"Host: a", target=b"http://:80/"), 400, "bad_request"),
    "another scheme": (head(b"Host: a", target=b"ftp://b/"), 400, "bad_request"),
    "long target": (head(b"Host: a", target=b"/" + b"a" * 40_000), 414, "uri_too_long"),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, "method_not_allowed"),
    "lower-case method": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    "unknown method": (b"MAKE / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
}
"""Bytes in -> status, error code; the connection closes after each."""

TAKEN: dict[str, tuple[bytes, dict[str, str]]] = {
    "HTTP/1.0 without Host": (b"GET / HTTP/1.0\r\n\r\n", {"host": ""}),
    "empty lines first": (b"\r\n\r\n" + get(), {"uri": "/"}),
    "absolute target": (
        head(b"Host: a", target=b"http://b.test:80/x?y"),
        {"uri": "/x?y", "host": "b.test:80"},
    ),
    "absolute target of a query": (
        head(b"Host: a", target=b"HTTPS://b.test?y"),
        {"uri": "/?y", "host": "b.test"},
    ),
    "encoded target": (get("/%2e%2E//a%00?%23"), {"uri": "/%2e%2E//a%00?%23"}),
    "IPv6 Host": (head(b"Host: [::1]:80"), {"host": "[::1]:80"}),
    "tab in a value": (get("/", "X: a\tb"), {}),
    "high bytes in a value": (get("/", "X: \xe9"), {}),
    "as many fields as may be": (head(*fields(MAX_FIELDS)), {}),
    "OPTIONS": (get(method="OPTIONS"), {"method": "OPTIONS"}),
    "OPTIONS *": (get("*", method="OPTIONS"), {"uri": "*"}),
    "length of nothing": (posted(b"Content-Length: 0", body=b""), {"body": ""}),
    "coding in capitals": (
        posted(b"Transfer-Encoding: Chunked", body=b"3\r\nabc\r\n0\r\n\r\n"),
        {"body": "abc"},
    ),
    "chunk with an extension": (CHUNKED + b'3;a="b"\r\nabc\r\n0\r\n\r\n', {"body": "abc"}),
    "trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n\r\n", {"body": "abc"}),
}
"""Bytes in -> what the resource saw, as far as it matters."""
