"""The rules of an intermediary (RFC 9110, RFC 9112, and our own), and the bytes their rows are of.

`RULES` numbers them and says which sides each has: what clients send (``rules_of_clients``), what
backends answer (``rules_of_backends``), and what of a good request and a good answer goes out again
(``rules_of_relaying``).
"""

from __future__ import annotations

from tests.daemon import KEY
from tests.gateway.raw_client import CHAT, chat_body
from tests.upstream.agent_contract import OK

EDGE, BACKEND, OUT = "edge", "backend", "out"

RULES: dict[str, tuple[str, tuple[str, ...]]] = {
    # rule: what it says, and the sides that it has
    "1": ("400 for missing, repeated or invalid Host in HTTP/1.1", (EDGE,)),
    "2": ("absolute-form accepted; Host upstream from configuration", (OUT,)),
    "3": ("path and query unchanged; CTL, space, fragment, relative refused", (EDGE, OUT)),
    "4": ("own version, never the peer's", (EDGE, BACKEND, OUT)),
    "5": ("fields that Connection names are removed, but end-to-end ones not", (OUT,)),
    "6": ("hop-by-hop fields are always dropped", (OUT,)),
    "7": ("Via on what is forwarded; our own is a loop", (EDGE, OUT)),
    "8": ("TRACE and CONNECT 405; OPTIONS answered here", (EDGE,)),
    "9": ("coding with length refused", (EDGE, BACKEND)),
    "10": ("invalid length refused", (EDGE, BACKEND)),
    "11": ("any coding but one final chunked refused; none in HTTP/1.0", (EDGE, BACKEND)),
    "12": ("chunks strictly", (EDGE, BACKEND)),
    "13": ("trailers never merged into headers", (EDGE, OUT)),
    "14": ("an incomplete message is never shown as complete", (EDGE, BACKEND)),
    "15": ("no length that is known wrong", (OUT,)),
    "16": ("no body for HEAD, 1xx, 204, 304", (EDGE, BACKEND, OUT)),
    "17": ("1xx swallowed; 101 never", (EDGE, BACKEND, OUT)),
    "18": ("100 only after authentication; other expectations 417", (EDGE, OUT)),
    "19": ("controls in values refused", (EDGE, BACKEND)),
    "20": ("space before the colon refused", (EDGE, BACKEND)),
    "21": ("obs-fold refused", (EDGE, BACKEND)),
    "22": ("unknown fields kept, order of same names kept", (OUT,)),
    "23": ("no automatic retry of POST unless known not applied", (BACKEND,)),
    "24": ("pipelined requests answered in order", (EDGE,)),
    "25": ("Date added if missing; after a framing error one answer, then a close", (EDGE, OUT)),
    # the paragraph after them, and what stock twisted.web accepts
    "lookalikes": ("names with _ for - of security fields refused", (EDGE,)),
    "forwarded": ("X-Forwarded-* and Forwarded of strangers dropped", (OUT,)),
    "host": ("authorisation and routing never look at Host", (OUT,)),
    "deadline": ("an absolute deadline for a head", (EDGE,)),
    "bounds": ("every count and buffer bounded", (EDGE, BACKEND)),
    "redirects": ("no redirect followed, no cookie kept, nothing decoded", (OUT,)),
    "grammar": ("no other protocol, no bare LF, no odd method or name", (EDGE, BACKEND)),
}

BODY = chat_body()
TARGET = CHAT.encode()


def asked(
    *lines: bytes, target: bytes = TARGET, version: bytes = b"1.1", body: bytes = BODY
) -> bytes:
    """Write a request that is let in, with these lines beside its own."""
    own = (b"Host: gateway.test", b"X-API-Key: " + KEY.encode())
    length = b"Content-Length: %d" % len(body)
    head = (b"POST %b HTTP/%b" % (target, version), *own, *lines, length, b"", b"")
    return b"\r\n".join(head) + body


def in_chunks(after: bytes = b"0\r\n\r\n", *lines: bytes, body: bytes = BODY) -> bytes:
    """Write a request that is let in, its body in one chunk, with what stands after that."""
    head = asked(b"Transfer-Encoding: chunked", *lines, body=b"")
    return head.replace(b"Content-Length: 0\r\n", b"") + b"%x\r\n%b\r\n" % (len(body), body) + after


def bodiless(method: bytes, target: bytes, *lines: bytes) -> bytes:
    """Write a request without a body."""
    key = b"X-API-Key: " + KEY.encode()
    return b"\r\n".join(
        (method + b" " + target + b" HTTP/1.1", b"Host: gateway.test", key, *lines, b"", b"")
    )


LAST = b"GET /last HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n"
"""Sent behind a request, so that the connection ends: a 404."""

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GOOD = OK + b"Content-Length: 2\r\n\r\n{}"

LEAVING = OK + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}"
"""A good answer, after which the daemon does not use the connection again."""
