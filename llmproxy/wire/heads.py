"""The rules that a message head must keep, on both sides of the gateway (RFC 9110, RFC 9112).

The parser (llhttp, strict) already refuses what breaks the grammar: bare line feeds, white space
before colons, folded lines, conflicting lengths. Here stands what it lets pass and an intermediary
must not. Fields are ``(lower-case name, stripped value)`` pairs in their order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmproxy.errors import (
    BadRequest,
    BadResponse,
    ExpectationFailed,
    NotImplementedHere,
    VersionNotSupported,
)

Field = tuple[bytes, bytes]

_BLANK_LINE = b"\r\n\r\n"
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_TARGET = re.compile(rb"[\x21\x22\x24-\x7e]+\Z")  # visible ASCII, without "#"
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^#]*|\?[^#]*)?\Z", re.IGNORECASE)
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?\Z")

# Parsers behind us might read other names as these, because they fold "_" into "-" (as CGI does).
_GUARDED = frozenset(
    (
        b"content-length",
        b"transfer-encoding",
        b"x-api-key",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-port",
        b"x-forwarded-server",
        b"x-forwarded-prefix",
        b"x-real-ip",
        b"x-request-id",
        b"proxy-authorization",
        b"x-admin-token",
    )
)


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Split a request target into the path with its query, and the authority it names.

    Origin-form and absolute-form (RFC 9112, section 3.2) are taken; ``*`` as it is.

    Raises:
        BadRequest: It is relative, holds a fragment, or is no target at all.
    """
    if not _TARGET.match(target):
        raise BadRequest("The request target holds characters that do not belong there.")
    if target.startswith(b"/") or target == b"*":
        return target, b""
    absolute = _ABSOLUTE.match(target)
    if absolute is None or not _HOST.match(absolute[1]):
        raise BadRequest("The request target is neither a path nor an absolute URL.")
    rest = absolute[2] or b"/"
    return (rest if rest.startswith(b"/") else b"/" + rest), absolute[1]


def check_request_head(version: str, fields: Sequence[Field]) -> int | None:
    """Hold a request head to the rules.

    Args:
        version: As in ``1.1``.
        fields: Its fields.

    Returns:
        The length of the body in bytes, 0 when there is none; None when it is chunked.

    Raises:
        BadRequest: No Host, two of them or a bad one; a bad value; a length that cannot be trusted.
        NotImplementedHere: A transfer coding other than ``chunked``.
        VersionNotSupported: Not HTTP/1.0 or HTTP/1.1.
        ExpectationFailed: An expectation other than ``100-continue``.
    """
    if version not in ("1.1", "1.0"):
        raise VersionNotSupported
    hosts = 0
    transfer_encoding = False
    length: int | None = None
    for name, value in fields:
        if _CONTROL.search(value):
            raise BadRequest("A header value holds control characters.")
        if name == b"host":
            hosts += 1
            if not _HOST.match(value):
                raise BadRequest("The Host header is not a host.")
        elif name == b"transfer-encoding":
            if transfer_encoding or version == "1.0":
                raise BadRequest("The Transfer-Encoding header is not allowed here.")
            transfer_encoding = True
            check_transfer_encoding(value)
        elif name == b"content-length":
            if length is not None or not value.isdigit():
                raise BadRequest("The Content-Length header is not one number.")
            length = int(value)
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise ExpectationFailed
        elif b"_" in name and name.replace(b"_", b"-") in _GUARDED:
            raise BadRequest("A header name holds an underscore where a hyphen belongs.")
    if hosts > 1 or (version == "1.1" and hosts == 0):
        raise BadRequest("A request needs exactly one Host header.")
    if not transfer_encoding:
        return length or 0
    if length is not None:
        raise BadRequest("A request has either Content-Length or Transfer-Encoding, not both.")
    return None


def check_transfer_encoding(value: bytes) -> None:
    """Take a single ``chunked`` and nothing else (RFC 9112, section 6.1).

    Raises:
        NotImplementedHere: Other codings stand before it.
        BadRequest: It is not there, not last, or named twice.
    """
    codings = [coding.strip().lower() for coding in value.split(b",")]
    if codings == [b"chunked"]:
        return
    if codings[-1] == b"chunked" and codings.count(b"chunked") == 1 and all(codings):
        raise NotImplementedHere
    raise BadRequest("The Transfer-Encoding header is not a single chunked coding.")


def framing_head(fields: Sequence[Field]) -> bytes:
    """Write a plain request head that announces the same body; nothing if there is none.

    Args:
        fields: They keep the rules of `check_request_head`.
    """
    for name, value in fields:
        if name == b"transfer-encoding" or (name == b"content-length" and int(value)):
            return b"POST / HTTP/1.1\r\n%b: %b\r\n\r\n" % (name, value)
    return b""


_INTERIM_OF_THE_PARSER = frozenset((100, 102, 103))


def check_response_head(
    version: str, status: int, fields: Sequence[Field], phrase: bytes = b""
) -> None:
    """Hold a backend's response head to the rules.

    Raises:
        BadResponse: It breaks one.
    """
    if version not in ("1.1", "1.0"):
        raise BadResponse
    if not 100 <= status <= 599 or status == 101 or _CONTROL.search(phrase):
        raise BadResponse
    lengths = codings = 0
    for name, value in fields:
        if _CONTROL.search(value):
            raise BadResponse
        if name == b"content-length":
            lengths += 1
            if not value.isdigit():
                raise BadResponse
        elif name == b"transfer-encoding":
            codings += 1
            if value.strip().lower() != b"chunked" or version == "1.0":
                raise BadResponse
    if lengths > 1 or codings > 1 or (lengths and codings):
        raise BadResponse
    # An interim answer has no body, whatever it says; the parser would believe it of most.
    if status < 200 and (lengths or codings) and status not in _INTERIM_OF_THE_PARSER:
        raise BadResponse


def behind_blank_line(before: bytes, data: bytes, at: int) -> int:
    """Give where the bytes behind the next blank line begin, or the length if there is none.

    Heads end with a blank line, and so do chunked bodies (RFC 9112, sections 2.1 and 7.1).

    Args:
        before: The up to three bytes before; the blank line may begin in them.
        data: Where to look.
        at: From where on.
    """
    if before.endswith(b"\r"):
        found = (before + data[at : at + 3]).find(_BLANK_LINE)
        if found >= 0:
            return at + found + len(_BLANK_LINE) - len(before)
    elif before.endswith(b"\r\n") and data.startswith(b"\r\n", at):
        return at + 2
    found = data.find(_BLANK_LINE, at)
    return found + len(_BLANK_LINE) if found >= 0 else len(data)
