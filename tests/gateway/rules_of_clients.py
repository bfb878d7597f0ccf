"""What clients send, by rule: what is refused, and what is answered here.

The bytes that the parser or the rules of heads refuse stand in `tests.raw_requests`; here they get
the number of their rule.
"""

from __future__ import annotations

import attrs

from tests.daemon import KEY
from tests.gateway.raw_client import CHAT
from tests.gateway.rules import BODY, asked, bodiless, in_chunks

REFUSED_BY_RULE: dict[str, tuple[str, ...]] = {
    "1": (
        "no Host",
        "empty Host",
        "two Hosts",
        "Host with a space",
        "Host with a path",
        "Host with a user",
        "Host with a word for a port",
        "absolute target without Host",
    ),
    "3": (
        "relative target",
        "fragment",
        "space in a target",
        "control byte in a target",
        "no ASCII in a target",
        "user in a target",
        "absurd port in a target",
        "absolute target without a host",
        "another scheme",
    ),
    "4": (
        "HTTP/2.0",
        "HTTP/0.9",
        "HTTP/3.0",
        "the preface of HTTP/2",
        "two spaces in the first line",
        "RTSP",
        "ICE",
    ),
    "8": ("CONNECT",),
    "9": ("coding, then length", "length, then coding"),
    "10": (
        "two lengths",
        "length with a sign",
        "negative length",
        "list of lengths",
        "hexadecimal length",
        "empty length",
        "endless length",
    ),
    "11": (
        "identity",
        "another coding first",
        "another coding alone",
        "another coding last",
        "chunked twice",
        "coding that looks alike",
        "coding after a control",
        "coding in HTTP/1.0",
    ),
    "12": (
        "chunk size of junk",
        "negative chunk size",
        "prefixed chunk size",
        "chunk size that overflows",
        "space after a chunk size",
        "no chunk size",
        "chunk longer than said",
        "bare LF after a chunk",
        "bare LF in an extension",
    ),
    "13": ("length among trailers", "coding among trailers", "folded trailer"),
    "18": ("unknown expectation",),
    "19": (
        "NUL in a value",
        "control byte in a value",
        "escape in a value",
        "DEL in a value",
        "bare CR in a value",
    ),
    "20": ("space before the colon",),
    "21": ("folded line",),
    "lookalikes": (
        "look-alike of Content-Length",
        "look-alike of a key",
        "half a look-alike",
        "look-alike of a prefix",
    ),
    "bounds": ("one field too many", "one field too long", "fields too long", "long target"),
    "grammar": (
        "TLS on a plain port",
        "no colon",
        "no name",
        "no ASCII in a name",
        "bare LF everywhere",
        "bare LF at the end",
        "lower-case method",
        "unknown method",
    ),
}


@attrs.frozen
class Local:
    """Something that clients send and that is answered here.

    Attributes:
        rule: Its rule.
        name: What it is.
        sent: What the client sends.
        statuses: Of all answers.
        relayed: How many requests reach the backend.
        has: What stands in the answers.
        methods: Of the requests, when they are not all like GET.
        waits: Whether the client sends no further request, for it has not finished this one.
    """

    rule: str
    name: str
    sent: bytes
    statuses: tuple[int, ...]
    relayed: int = 0
    has: tuple[bytes, ...] = ()
    methods: tuple[str, ...] = ()
    waits: bool = False


VIA_US = b"Via: 1.1 other, 1.1 OURS"
"""Our own name in it is filled in when the daemon has told it."""

LOCAL = (
    Local("7", "our own Via", asked(VIA_US), (508, 404)),
    Local("7", "our own Via, first of two", asked(VIA_US, b"Via: 1.1 b"), (508, 404)),
    Local("8", "TRACE", bodiless(b"TRACE", CHAT.encode()), (405, 404), has=(b"\r\nAllow: ",)),
    Local("8", "OPTIONS", bodiless(b"OPTIONS", CHAT.encode()), (204, 404), has=(b"\r\nAllow: ",)),
    Local("8", "OPTIONS *", bodiless(b"OPTIONS", b"*"), (204, 404), has=(b"\r\nAllow: ",)),
    Local("8", "PUT", bodiless(b"PUT", CHAT.encode()), (405, 404), has=(b"\r\nAllow: ",)),
    Local("9", "CL.TE", asked(b"Transfer-Encoding: chunked"), (400,)),
    Local(
        "9", "TE.CL", in_chunks(b"0\r\n\r\n" + asked(), b"Content-Length: 4", b"X: y"), (400,)
    ),
    Local("12", "a chunk of endless extension", in_chunks()[:-5] + b"0;" + b"a" * 70_000, (400,)),
    Local("13", "a key among trailers", (
        in_chunks(b"0\r\nX-API-Key: " + KEY.encode() + b"\r\n\r\n")
        .replace(b"X-API-Key: " + KEY.encode() + b"\r\n", b"", 1)
    ), (401, 404)),
    Local("14", "half a body", asked()[:-1], (408,), waits=True),
    Local("14", "half a chunk", in_chunks()[:-9], (408,), waits=True),
    Local("14", "no last chunk", in_chunks(b""), (408,), waits=True),
    Local("14", "half the last chunk", in_chunks(b"0\r\n"), (408,), waits=True),
    Local("14", "half the trailers", in_chunks(b"0\r\nX: y\r\n"), (408,), waits=True),
    Local("16", "HEAD of a list", bodiless(b"HEAD", b"/v1/models"), (200, 404), methods=("HEAD",)),
    Local("16", "HEAD of nothing", bodiless(b"HEAD", b"/no"), (404, 404), methods=("HEAD",)),
    Local(
        "17",
        "an upgrade is no upgrade",
        bodiless(b"GET", b"/health", b"Connection: Upgrade", b"Upgrade: websocket"),
        (200, 404),
    ),
    Local(
        "17",
        "a promise of prior knowledge",
        bodiless(b"GET", b"/health", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"),
        (200, 404),
    ),
    Local(
        "18",
        "100 is not said to strangers",
        asked(b"Expect: 100-continue").replace(KEY.encode(), b"sk-no")[: -len(BODY)],
        (401,),
        waits=True,
    ),
    Local(
        "18",
        "100 is not said to those who ask too much",
        asked(b"Expect: 100-continue", body=b"x" * 5000)[:-5000],
        (413,),
        waits=True,
    ),
    Local(
        "18",
        "100 is said to those who may, once",
        asked(b"Expect: 100-continue")[: -len(BODY)],
        (100, 408),
        waits=True,
    ),
    Local("18", "HTTP/1.0 has no expectations", (
        asked(b"Expect: 100-continue", version=b"1.0")[: -len(BODY)]
    ), (408,), waits=True),
    Local(
        "24",
        "good, bad, good, bad for all",
        asked() + asked(body=b"{}") + bodiless(b"GET", b"/health") + asked() + b"BAD\r\n\r\n",
        (200, 400, 200, 200, 400),
        relayed=2,
    ),
    Local("24", "nothing after the last", asked(b"Connection: close") + asked(), (200,), 1),
    Local("24", "nothing after HTTP/1.0", asked(version=b"1.0") + asked(), (200,), 1),
    Local("25", "one answer for much nonsense", b"BAD\r\n\r\n" * 3, (400,), has=(b"\r\nDate: ",)),
    Local("deadline", "half a head", b"GET / HTTP/1.1\r\nHost: a\r\n", (408,), waits=True),
    Local("bounds", "a body over the limit", asked(body=b"x" * 5000), (413,)),
    Local(
        "bounds", "chunks over the limit", in_chunks(body=b"x" * 5000), (413,)
    ),
)  # fmt: skip
