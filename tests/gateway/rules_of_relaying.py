"""What goes out of a request that is relayed, and of its answer, by rule."""

from __future__ import annotations

import attrs

from tests.daemon import KEY
from tests.gateway.raw_client import chat_body
from tests.gateway.rules import BODY, CHUNKED, GOOD, TARGET, asked, in_chunks
from tests.upstream.agent_contract import EMPTY, OK


@attrs.frozen
class Crossing:
    """A request that is relayed, and its answer.

    Attributes:
        rule: Its rule.
        name: What it is.
        sent: What the client sends.
        answer: What the backend answers.
        up: Lines that stand in the head that goes up; one that ends with a space is a beginning.
        up_not: What does not stand there, in any case.
        down: Lines that stand in the head that goes down.
        down_not: What does not stand there, in any case.
        body: The answer's body; None: whatever.
        up_body: The request's body; None: as it came.
        status: The answer's status.
    """

    rule: str
    name: str
    sent: bytes = asked()
    answer: bytes = GOOD
    up: tuple[bytes, ...] = ()
    up_not: tuple[bytes, ...] = ()
    down: tuple[bytes, ...] = ()
    down_not: tuple[bytes, ...] = ()
    body: bytes | None = b"{}"
    up_body: bytes | None = BODY
    status: int = 200


ABSOLUTE = b"http://evil.test:80" + TARGET
UP = b"POST %b HTTP/1.1"
STREAM = chat_body(stream=True)
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
EVENTS = EVENT + USAGE + DONE


def fine(*lines: bytes, status: bytes = b"200 OK", body: bytes = b"{}") -> bytes:
    """Write an answer with these lines beside its length."""
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join((b"HTTP/1.1 " + status, *lines, length, b"", b"")) + body


CROSSINGS = (
    Crossing("2", "origin-form", up=(b"Host: BACKEND",), up_not=(b"\r\nhost: gateway.test",)),
    Crossing(
        "2",
        "absolute-form",
        asked(target=ABSOLUTE + b"?q"),
        up=(UP % (TARGET + b"?q"), b"Host: BACKEND", b"x-forwarded-host: evil.test:80"),
        up_not=(b"gateway.test", b"http://"),
    ),
    Crossing(
        "2",
        "absolute-form of another case",
        asked(target=ABSOLUTE.replace(b"http", b"HTTPS")),
        up=(UP % TARGET, b"Host: BACKEND"),
    ),
    *(
        Crossing("3", target.decode(), asked(target=target), up=(UP % target,))
        for target in (
            TARGET + query
            for query in (b"?", b"??", b"?a=%2f%2F&b=%00+c&&=", b"?/../.", b'?"<>\\^`{|}', b"?%C3")
        )
    ),
    Crossing(
        "4",
        "an HTTP/1.0 client",
        asked(version=b"1.0"),
        up=(UP % TARGET,),
        down=(b"HTTP/1.1 200 OK", b"Connection: close"),
    ),
    Crossing(
        "4",
        "an HTTP/1.0 backend",
        answer=b"HTTP/1.0 200 OK\r\n\r\n{}",
        down=(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"),
    ),
    Crossing(
        "5",
        "what a client's Connection names",
        asked(b"Connection: X-One, x-two", b"Connection:  X-THREE ,,", b"X-One: 1", b"X-Two: 2",
              b"x-three: 3", b"X-Four: 4"),
        up=(b"x-four: 4",),
        up_not=(b"x-one", b"x-two", b"x-three", b"\r\nconnection:"),
    ),
    Crossing(
        "5",
        "end-to-end fields that a client's Connection names",
        asked(b"Connection: Content-Type, X-Request-ID, X-Forwarded-For, Via, Host, Content-Length",
              b"Content-Type: application/json", b"X-Request-ID: mine", b"Via: 1.1 other"),
        up=(b"content-type: application/json", b"x-request-id: mine", b"Host: BACKEND",
            b"x-forwarded-for: 127.0.0.1", b"via: 1.1 other, 1.1 OURS",
            b"Content-Length: %d" % len(BODY)),
    ),
    Crossing(
        "5",
        "a key that Connection names still counts",
        asked(b"Connection: X-API-Key, Authorization"),
        up_not=(b"x-api-key", b"authorization", KEY.encode()),
    ),
    Crossing("5", "an administrator's token", asked(b"X-Admin-Token: adm"), up_not=(b"adm",)),
    Crossing(
        "5",
        "what a backend's Connection names",
        answer=fine(b"Connection: X-One", b"X-One: 1", b"Connection: keep-alive, x-two",
                    b"x-two: 2", b"X-Three: 3", b"Content-Type: a/b", b"Connection: content-type"),
        down=(b"x-three: 3", b"content-type: a/b"),
        down_not=(b"x-one", b"x-two", b"\r\nconnection:"),
    ),
    Crossing(
        "6",
        "a client's fields of one hop",
        asked(b"Proxy-Connection: keep-alive", b"Keep-Alive: timeout=5", b"TE: trailers",
              b"Trailer: X", b"Upgrade: h2c", b"HTTP2-Settings: AA", b"Proxy-Anything: b",
              b"Proxy-Authorization: Basic a"),
        up_not=(b"\r\nproxy-", b"keep-alive", b"\r\nte:", b"trailer", b"upgrade", b"http2"),
    ),
    Crossing("6", "a client's coding", in_chunks(), up_not=(b"transfer-encoding",)),
    Crossing(
        "6",
        "a backend's fields of one hop",
        answer=fine(b"Proxy-Connection: keep-alive", b"Keep-Alive: timeout=5", b"TE: trailers",
                    b"Trailer: X", b"Upgrade: h2c", b"Proxy-Authenticate: Basic",
                    b"Proxy-Authentication-Info: b"),
        down_not=(b"\r\nproxy-", b"keep-alive", b"\r\nte:", b"trailer", b"upgrade"),
    ),
    Crossing("7", "none so far", up=(b"via: 1.1 OURS",), down=(b"via: 1.1 OURS",)),
    Crossing(
        "7",
        "others before us",
        asked(b"Via: 1.0 a", b"VIA: 1.1 b (c)"),
        fine(b"Via: 1.1 d", b"Via: 2 e"),
        up=(b"via: 1.0 a, 1.1 b (c), 1.1 OURS",),
        down=(b"via: 1.1 d, 2 e, 1.1 OURS",),
    ),
    Crossing(
        "13",
        "a client's trailers",
        in_chunks(b"0\r\nX-Late: 1\r\nHost: evil.test\r\nX-Request-ID: late\r\n\r\n"),
        up_not=(b"x-late", b"evil.test", b"late"),
    ),
    Crossing(
        "13",
        "a backend's trailers",
        answer=CHUNKED + b"2\r\n{}\r\n0\r\nX-Late: 1\r\nSet-Cookie: a=b\r\n\r\n",
        down_not=(b"x-late", b"set-cookie"),
    ),
    Crossing("15", "a body in chunks", in_chunks(), up=(b"Content-Length: %d" % len(BODY),)),
    Crossing(
        "15",
        "a body that is edited, and an answer from which something is taken",
        asked(body=STREAM),
        fine(b"Content-Type: text/event-stream", body=EVENTS),
        down=(b"Transfer-Encoding: chunked",),
        down_not=(b"content-length",),
        body=EVENT + DONE,
        up_body=None,
    ),
    Crossing(
        "15",
        "a stream that says itself that it is plain, and may be buffered",
        asked(body=STREAM),
        fine(b"Content-Type: text/event-stream", b"Content-Encoding: identity",
             b"X-Accel-Buffering: yes", body=EVENTS),
        down=(b"x-accel-buffering: no", b"content-encoding: identity"),
        down_not=(b"buffering: yes",),
        body=EVENT + DONE,
        up_body=None,
    ),
    Crossing("15", "a length with zeros", answer=OK + b"Content-Length: 0002\r\n\r\n{}",
             down=(b"content-length: 2",)),
    Crossing("16", "204", answer=b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", down=(b"x: y",),
             down_not=(b"content-length", b"transfer-encoding"), body=b"", status=204),
    Crossing("16", "204 with a length", answer=b"HTTP/1.1 204 No Content\r\n" + EMPTY,
             down_not=(b"content-length", b"transfer-encoding"), body=b"", status=204),
    Crossing("16", "304", answer=b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n",
             down=(b'etag: "a"',), down_not=(b"transfer-encoding",), body=b"", status=304),
    Crossing("16", "304 with a length",
             answer=b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
             down_not=(b"transfer-encoding",), body=b"", status=304),
    Crossing("16", "204 with a body", down_not=(b"content-length", b"transfer-encoding"),
             answer=b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", body=b"",
             status=204),
    Crossing("16", "304 with a body", down_not=(b"transfer-encoding",),
             answer=b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", body=b"",
             status=304),
    Crossing("17", "interim answers", down_not=(b"link", b"100 continue", b"103"),
             answer=b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
                    b"HTTP/1.1 199 Odd\r\n\r\n" + GOOD),
    Crossing("17", "a 100 that announces a body, and has none",
             answer=b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n" + GOOD,
             down=(b"content-length: 2",)),
    Crossing("17", "an offer of an upgrade",
             answer=fine(b"Connection: Upgrade", b"Upgrade: h2, h2c"), down_not=(b"upgrade",)),
    Crossing("17", "interim answers, for HTTP/1.0", asked(version=b"1.0"),
             b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD, down_not=(b"100 continue",)),
    Crossing("18", "an expectation is ours to meet", asked(b"Expect: 100-continue"),
             up_not=(b"expect",)),
    Crossing(
        "22",
        "a client's fields",
        asked(b"X-B: 1", b"X-A: 2", b"x-b: \xe9\t3", b"Cookie: a=b", b"X-Empty:", b"x_under: u"),
        up=(b"x-b: 1\r\nx-a: 2\r\nx-b: \xe9\t3\r\ncookie: a=b\r\nx-empty: \r\nx_under: u",),
    ),
    Crossing(
        "22",
        "a backend's fields",
        answer=fine(b"X-B: 1", b"X-A: 2", b"x-b: \xe9\t3", b"Set-Cookie: a=b", b"Set-Cookie: c=d"),
        down=(b"x-b: 1\r\nx-a: 2\r\nx-b: \xe9\t3\r\nset-cookie: a=b\r\nset-cookie: c=d",),
    ),
    Crossing("25", "a backend without Date", down=(b"Date: ",)),
    Crossing("25", "a backend's own Date", answer=fine(b"Date: Tue, 14 Nov 2023 22:13:20 GMT"),
             down=(b"date: Tue, 14 Nov 2023 22:13:20 GMT",)),
    Crossing(
        "forwarded",
        "a stranger's word",
        asked(b"X-Forwarded-For: 203.0.113.1", b"X-Forwarded-Host: evil.test",
              b"X-Forwarded-Proto: https", b"X-Forwarded-Port: 1", b"X-Forwarded-Server: evil",
              b"X-Forwarded-Prefix: /evil", b"Forwarded: for=203.0.113.1",
              b"X-Real-IP: 203.0.113.1"),
        up=(b"x-forwarded-for: 127.0.0.1", b"x-forwarded-proto: http",
            b"x-forwarded-host: gateway.test"),
        up_not=(b"203.0.113.1", b"evil", b"\r\nforwarded:", b"x-real-ip", b"-port", b"-prefix"),
    ),
    *(
        Crossing("host", "Host is " + name.decode(),
                 asked().replace(b"gateway.test", name), up=(b"Host: BACKEND",))
        for name in (b"evil.test", b"127.0.0.1:1", b"[::1]:80", b"a:")
    ),
    Crossing("redirects", "a redirect", answer=fine(b"Location: /x", status=b"307 Temporary"),
             down=(b"location: /x",), status=307),
    Crossing("redirects", "a cookie, given", answer=fine(b"Set-Cookie: a=b"), up_not=(b"cookie",),
             down=(b"set-cookie: a=b",)),
    Crossing("redirects", "a cookie, not given to the next", up_not=(b"cookie",)),
    Crossing("redirects", "a compressed answer", asked(b"Accept-Encoding: gzip, br"),
             fine(b"Content-Encoding: gzip", body=b"\x1f\x8bnonsense"),
             up=(b"accept-encoding: identity",), up_not=(b"gzip",),
             down=(b"content-encoding: gzip",), body=b"\x1f\x8bnonsense"),
)  # fmt: skip
