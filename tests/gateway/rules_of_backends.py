"""What backends answer and must not, by rule.

The heads that the parser or the rules of heads refuse stand in `tests.upstream.agent_contract`;
here they get the number of their rule.
"""

from __future__ import annotations

import attrs

from tests.gateway.rules import CHUNKED, GOOD
from tests.upstream.agent_contract import OK

BAD_BY_RULE: dict[str, tuple[str, ...]] = {
    "4": ("HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "RTSP", "ICY"),
    "9": ("length and coding", "coding and length"),
    "10": (
        "two lengths",
        "the same length twice",
        "a list of lengths",
        "negative length",
        "signed length",
        "hexadecimal length",
        "empty length",
        "length over 64 bits",
    ),
    "11": (
        "gzip coding",
        "gzip and chunked",
        "identity coding",
        "chunked twice",
        "two codings",
        "coding in 1.0",
    ),
    "17": ("101", "bare 101", "bad head after a good interim one"),
    "19": (
        "bare CR in a value",
        "NUL in a value",
        "bell in a value",
        "DEL in a value",
        "NUL in the phrase",
        "escape in the phrase",
    ),
    "20": ("space before the colon",),
    "21": ("folded line", "folded with a tab"),
    "bounds": ("one value of 65 KiB", "66 KiB of fields", "201 fields"),
    "grammar": (
        "bare LF after the status",
        "bare LF after a field",
        "bare LF at the end",
        "no name",
        "no colon",
        "a page",
        "binary",
        "TLS alert",
        "a request",
        "empty line first",
        "lower-case http",
        "status 99",
        "status 20",
        "status 600",
        "status 2000",
        "status abc",
    ),
}


@attrs.frozen
class Broken:
    """An answer that goes wrong after its head, or is none.

    Attributes:
        rule: Its rule.
        name: What it is.
        pieces: What the backend sends, the second when the client has got all of the first.
        got: How what the client gets of its body begins; None: a 502 instead.
    """

    rule: str
    name: str
    pieces: tuple[bytes, ...]
    got: bytes | None


BROKEN = (
    *(
        Broken("12", name, (CHUNKED + b"4\r\ngood\r\n", rest), b"good")
        for name, rest in {
            "junk for a chunk size": b"zz\r\n",
            "a sign": b"+5\r\nhello\r\n",
            "a prefix": b"0x5\r\nhello\r\n",
            "a chunk size that overflows": b"f" * 17 + b"\r\n",
            "a bare LF behind a chunk size": b"5\nhello\r\n",
            "a chunk longer than said": b"4\r\nhello\r\n",
            "an endless extension": b"5;" + b"a" * 70_000,
        }.items()
    ),
    Broken("12", "broken in the same read as the head", (CHUNKED + b"4\r\ngood\r\nzz\r\n",), None),
    Broken("14", "closed before the head", (b"",), None),
    Broken("14", "closed in the head", (OK + b"Content-",), None),
    Broken("14", "closed after an interim answer", (b"HTTP/1.1 100 Continue\r\n\r\n",), None),
    Broken("14", "closed before the body", (OK + b"Content-Length: 9\r\n\r\n",), None),
    Broken("14", "closed in the body", (OK + b"Content-Length: 9\r\n\r\ngood",), b"good"),
    Broken("14", "closed before the last chunk", (CHUNKED + b"4\r\ngood\r\n",), b"good"),
    Broken("14", "closed in the last chunk", (CHUNKED + b"4\r\ngood\r\n0\r\n",), b"good"),
    Broken("14", "closed in the trailers", (CHUNKED + b"4\r\ngood\r\n0\r\nX: y\r\n",), b"good"),
    # The parser knows of 100, 102 and 103 that they have no body; the body of other interim
    # answers goes to the client as the beginning of the final answer's, beyond its length.
    Broken(
        "16",
        "an interim answer with a body",
        (b"HTTP/1.1 199 Odd\r\nContent-Length: 5\r\n\r\nhello" + GOOD,),
        None,
    ),
    Broken(
        "16",
        "an interim answer with a body in chunks",
        (b"HTTP/1.1 104 Odd\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + GOOD,),
        None,
    ),
    Broken("23", "closed after the request", (b"",), None),
    Broken("23", "closed within the status line", (b"HTTP/1.1 2",), None),
)
