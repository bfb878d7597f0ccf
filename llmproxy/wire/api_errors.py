"""The shape of errors towards clients: OpenAI's ``{"error": {...}}``, as body and as event.

The one place that knows it. What status and code belong to a cause stands in ``errors.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from math import ceil

import msgspec

from llmproxy.errors import GatewayError

Fields = list[tuple[bytes, bytes]]


def error_object(message: str, kind: str, code: str, param: str | None = None) -> bytes:
    """Encode ``{"error": {"message", "type", "param", "code"}}``."""
    return msgspec.json.encode(
        {"error": {"message": message, "type": kind, "param": param, "code": code}}
    )


def error_answer(error: GatewayError) -> tuple[Fields, bytes]:
    """Give the fields and the body that answer an error; its status is ``error.status``."""
    body = error_object(str(error), error.type, error.code, error.param)
    fields: Fields = [
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"%d" % len(body)),
    ]
    if error.retry_after_s is not None:
        fields.append((b"Retry-After", b"%d" % ceil(error.retry_after_s)))
        fields.append((b"retry-after-ms", b"%d" % ceil(error.retry_after_s * 1000)))
    fields.extend(error.headers)
    return fields, body


def error_event(message: str, code: str) -> bytes:
    """Encode the event that ends a stream which its backend broke off."""
    return b"data: " + error_object(message, "server_error", code) + b"\n\n"


def reason_phrase(status: int) -> bytes:
    """Give the standard reason phrase of a status, or an empty one."""
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""


def raw_answer(error: GatewayError, further: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Encode a whole HTTP/1.1 answer for a request that never became one; the connection closes.

    Args:
        error: What is wrong with it.
        further: More fields.
    """
    fields, body = error_answer(error)
    lines = [b"HTTP/1.1 %d %s\r\n" % (error.status, reason_phrase(error.status))]
    for name, value in (*fields, *further, (b"Connection", b"close")):
        lines.append(b"%s: %s\r\n" % (name, value))
    return b"".join((*lines, b"\r\n", body))
