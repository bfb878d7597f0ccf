"""Reads requests out of a client's bytes: llhttp, held to the rules of ``wire.heads``.

It turns bytes into heads and pieces of bodies for its receiver, in order, however the bytes are
cut, and bounds what is neither. It knows no connection, no deadline and no answer.

A client that keeps its connection says nearly the same head with each request: only the length
differs. From the second on, a head that repeats the last one's very bytes but for the digits of its
Content-Length is not parsed again: the parser took these bytes before, from the same state, and
would say the same. Its body is then counted off; whatever is not such a head goes to the parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

import attrs
import httptools

from llmproxy.errors import (
    BadRequest,
    GatewayError,
    HeadersTooLarge,
    MethodNotAllowed,
    UriTooLong,
)
from llmproxy.wire.heads import (
    Field,
    behind_blank_line,
    check_request_head,
    framing_head,
    split_target,
)
from llmproxy.wire.request_id import sane_request_id

MAX_FIELDS = 100
MAX_LESSONS = 4
"""After so many heads in a row that repeat none before them, nothing is kept in mind any more."""
_LONGEST_LENGTH = 15
"""So many digits may the length of a head have that repeats another, and no parser minds."""
_DIGITS = re.compile(rb"[0-9]{1,15}(?![0-9])")
_EMPTY_LINES = re.compile(rb"[\r\n]{1,512}")
"""Fed to the parser as one: no message begins in them. They may stand before a head (RFC 9112,
section 2.2), and one by one they would cost more than anything else that a client can send."""
_LENGTH_LINE = re.compile(rb"\r\ncontent-length:[ \t]*", re.IGNORECASE)


@attrs.define(eq=False)
class Head:
    """A request's head; it keeps the rules.

    Attributes:
        method: The method.
        uri: Path and query, as they came.
        version: As in ``1.1``.
        fields: In their order, names lower-cased, values stripped; Host as the target says.
        started_s: When its first byte was seen.
        length: Content-Length in bytes; None when the body is chunked.
        last: Whether the client wants the connection closed after the answer.
        repeats: Shared by heads that follow each other on one connection and differ in nothing but
            their length: there may be kept what was made of the others.
    """

    method: bytes
    uri: bytes
    version: str
    fields: list[Field]
    started_s: float
    length: int | None
    last: bool
    repeats: dict[str, Any]


class Receiver(Protocol):
    """Whom a reader reads for."""

    def head_received(self, head: Head) -> None:
        """Take a head."""

    def body_received(self, piece: bytes) -> None:
        """Take a piece of the body that belongs to the last head."""

    def body_ended(self) -> None:
        """The body of the last head is complete."""


@attrs.frozen(eq=False)
class _Known:
    """A head that the parser took: its bytes around the digits of its length, and what it said."""

    before: bytes
    after: bytes
    head: Head
    length_at: int


class RequestReader:
    """Reads one connection.

    The parser is fed in pieces that end where a head or a chunked body may end, so that each
    message begins with a feeding; a body of known length is counted off, and never parsed.

    Args:
        receiver: Takes what is read.
        seconds: The clock.
        max_header_bytes: Of a head, of its first line, and of what a chunked body's framing takes
            between two pieces of it.

    Attributes:
        in_head: Whether a part of a head has come.
    """

    def __init__(
        self, receiver: Receiver, seconds: Callable[[], float], max_header_bytes: int
    ) -> None:
        self._receiver = receiver
        self._seconds = seconds
        self._max_header_bytes = max_header_bytes
        self._parser = httptools.HttpRequestParser(self)
        self.in_head = False
        self._in_chunks = False
        self._started_s = 0.0
        self._raw = b""  # the head, as far as it has come
        self._target = b""
        self._fields: list[Field] = []
        self._fruitless_bytes = 0  # of framing, since a chunked body's last piece
        self._end = b""  # the last bytes fed to the parser, for they may begin a blank line
        self._stand_in = b""
        self._violation: GatewayError | None = None
        self._lessons = 0  # heads that might have been learnt, since the last that repeated one
        self._known: _Known | None = None
        self._left_bytes = 0  # of a body of known length

    def __repr__(self) -> str:
        return f"<RequestReader {'in a head' if self.in_head else 'beyond heads'}>"

    @property
    def request_id(self) -> str:
        """The request id in the part of a head that has come, if it is a sane one."""
        given = [value for name, value in self._fields if name == b"x-request-id"]
        return next(filter(None, map(sane_request_id, given)), "")

    def feed(self, data: bytes) -> None:
        """Read on.

        Raises:
            GatewayError: The bytes cannot be understood from here on; nothing more may be fed.
        """
        # Where to read on is a place in the data: cutting off anew what is left of it would cost
        # the square of its length where there are many small messages.
        at = 0
        while at < len(data):
            if self._left_bytes:
                at = self._count_off(data, at)
                continue
            known = self._known
            if known is not None and not (self._raw or self._in_chunks):
                body_at = self._repeats(known, data, at) if data.startswith(known.before, at) else 0
                if body_at:
                    at = body_at
                    continue
            at = self._parse(data, at)

    # heads that are known

    def _learn(self, head: Head) -> None:
        """Keep a head in mind for the next, unless this client's keep differing in other ways."""
        if self._lessons == 0:
            self._lessons = 1  # the first: there may never be a second
        elif self._lessons <= MAX_LESSONS:
            self._lessons += 1
            self._known = _know(self._raw, head)
        else:
            self._known = None

    def _has_room(self) -> bool:
        """Say whether no longer length could carry the head over its bound unseen."""
        return len(self._raw) + _LONGEST_LENGTH <= self._max_header_bytes

    def _repeats(self, known: _Known, data: bytes, at: int) -> int:
        """Take a head that is known but for its length; give where its body begins, or 0."""
        digits = _DIGITS.match(data, at + len(known.before))
        if digits is None or not data.startswith(known.after, digits.end()):
            return 0
        self._lessons = 1
        length = int(digits[0])
        model = known.head
        fields = model.fields.copy()
        fields[known.length_at] = (b"content-length", digits[0])
        self._receive(
            Head(
                model.method,
                model.uri,
                model.version,
                fields,
                self._seconds(),
                length,
                False,
                model.repeats,
            )
        )
        if not length:
            self._receiver.body_ended()
        return digits.end() + len(known.after)

    # bodies of known length

    def _receive(self, head: Head) -> None:
        self._left_bytes = head.length or 0
        self._receiver.head_received(head)

    def _count_off(self, data: bytes, at: int) -> int:
        """Give the body its bytes; give back where they end."""
        piece = data[at : at + self._left_bytes]
        self._left_bytes -= len(piece)
        self._receiver.body_received(piece)
        if not self._left_bytes:
            self._receiver.body_ended()
        return at + len(piece)

    # the parser

    def _parse(self, data: bytes, at: int) -> int:
        """Feed the parser up to where a message may begin or end; give back where that is."""
        empty = None if self._raw else _EMPTY_LINES.match(data, at)
        cut = behind_blank_line(self._end, data, at) if empty is None else empty.end()
        piece = data[at:cut]
        self._end = (self._end + piece[-3:])[-3:]
        if self._in_chunks:
            self._fruitless_bytes += len(piece)
            self._feed_parser(piece)
            if self._fruitless_bytes > self._max_header_bytes:
                raise BadRequest("The request body is framed with more than it holds.")
            return cut
        room = self._max_header_bytes - len(self._raw)
        self._raw += piece
        self._feed_parser(piece[:room] if len(piece) > room else piece)
        if len(self._raw) > self._max_header_bytes:
            line, _, _ = self._raw.partition(b"\r\n")
            raise UriTooLong if len(line) > self._max_header_bytes else HeadersTooLarge
        if not self.in_head:
            self._raw = b""
        return cut

    def _feed_parser(self, piece: bytes) -> None:
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            # An Upgrade that nobody here takes (RFC 9110, section 7.8): the request is an ordinary
            # one. httptools ends it at its head, whatever body it announces, so a new parser that
            # was shown a plain head of the same framing takes over.
            self._parser = httptools.HttpRequestParser(self)
            if self._stand_in:
                self._parser.feed_data(self._stand_in)
                self._stand_in = b""
        except httptools.HttpParserCallbackError:
            raise (self._violation or BadRequest()) from None
        except httptools.HttpParserError:
            raise BadRequest from None
        if self._left_bytes:
            self._parser = httptools.HttpRequestParser(self)

    def _violate(self, error: GatewayError) -> None:
        """Stop the parser from within a callback."""
        self._violation = error
        raise error

    def on_message_begin(self) -> None:
        """A request's first byte is in."""
        if not self._stand_in:
            self.in_head = True
            self._started_s = self._seconds()
            self._target = b""
            self._fields = []

    def on_url(self, part: bytes) -> None:
        """Take a part of the target."""
        if self.in_head:
            self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field; those after the body are trailers, which nobody here merges."""
        if self.in_head:
            self._fields.append((name.lower(), value.strip(b" \t")))
            if len(self._fields) > MAX_FIELDS:
                self._violate(HeadersTooLarge())

    def on_headers_complete(self) -> None:
        """The head is complete: hold it to the rules."""
        if self._stand_in:
            return
        parser, fields = self._parser, self._fields
        version = parser.get_http_version()
        method = parser.get_method()
        length: int | None = 0
        try:
            if method == b"CONNECT":
                # Its target is no path, and no path takes it.
                raise MethodNotAllowed(headers=((b"Allow", b"GET, HEAD, POST, OPTIONS"),))
            uri, authority = split_target(self._target)
            length = check_request_head(version, fields)
            if not self._raw.startswith(b"%b %b HTTP/" % (method, self._target)):
                raise BadRequest  # RTSP or ICE, which the parser knows as well; or odd spaces
        except GatewayError as error:
            self._violate(error)
        if authority:
            fields = [field for field in fields if field[0] != b"host"]
            fields.insert(0, (b"host", authority))
        # HTTP/1.0 cannot be told apart a whole answer of unknown length but by closing after it.
        last = version == "1.0" or not parser.should_keep_alive()
        head = Head(method, uri, version, fields, self._started_s, length, last, {})
        upgrade = parser.should_upgrade()
        if last:
            self._known = None  # whatever follows is for the parser, which may refuse it
        if length is None:
            self._in_chunks = True
            self._fruitless_bytes = 0
            if upgrade:
                self._stand_in = framing_head(fields)
        elif length and not (last or upgrade or authority) and self._has_room():
            self._learn(head)
        self.in_head = False
        self._fields = []
        self._receive(head)

    def on_body(self, piece: bytes) -> None:
        """Pass a piece of a chunked body on."""
        self._fruitless_bytes = 0
        self._receiver.body_received(piece)

    def on_message_complete(self) -> None:
        """A request without a body, or with a chunked one, is wholly in."""
        if self._stand_in or self._left_bytes:
            return  # only for the parser: the body is still to come
        self._in_chunks = False
        self._receiver.body_ended()


def _know(data: bytes, head: Head) -> _Known | None:
    """Cut up the bytes of a head that the parser has just taken."""
    line = _LENGTH_LINE.search(data)
    places = [place for place, field in enumerate(head.fields) if field[0] == b"content-length"]
    if line is None or len(places) != 1 or any(name == b"expect" for name, _ in head.fields):
        return None
    digits = _DIGITS.match(data, line.end())
    if digits is None:
        return None
    return _Known(data[: digits.start()], data[digits.end() :], head, places[0])
