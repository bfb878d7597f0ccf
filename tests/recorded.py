"""Loads recordings of real servers: messages split into head and body, chunked coding undone.

A plain reader of well-formed messages, written apart from the code under test.
"""

from __future__ import annotations

import functools
from pathlib import Path

import attrs

FOLDER = Path(__file__).parent / "recordings"
SERVERS = ("llama_server", "llamacpp_python", "transformers", "vllm")


@attrs.frozen
class RecordedMessage:
    """One HTTP message.

    Attributes:
        start_line: Request or status line, without its end.
        headers: Names in lower case, in order.
        pieces: The body as the chunks of its transfer-coding; one piece when there is none.
        complete: Whether the body came to its end.
    """

    start_line: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    pieces: tuple[bytes, ...]
    complete: bool

    @property
    def body(self) -> bytes:
        """The whole body, transfer-coding undone."""
        return b"".join(self.pieces)

    def header(self, name: bytes) -> bytes:
        """Return the first field of that lower-case name, or nothing."""
        return next((value for key, value in self.headers if key == name), b"")


@attrs.frozen
class Recording:
    """One connection to one server.

    Attributes:
        name: ``server/name``.
        request_bytes: All that was sent.
        response_bytes: All that came back.
        requests: The requests sent.
        responses: The final responses; ``1xx`` are left out.
    """

    name: str
    request_bytes: bytes = attrs.field(repr=False)
    response_bytes: bytes = attrs.field(repr=False)
    requests: tuple[RecordedMessage, ...] = attrs.field(repr=False)
    responses: tuple[RecordedMessage, ...] = attrs.field(repr=False)

    @property
    def request_line(self) -> bytes:
        """The first request's first line."""
        return self.requests[0].start_line

    @property
    def request_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The first request's fields."""
        return self.requests[0].headers

    @property
    def request_body(self) -> bytes:
        """The first request's body."""
        return self.requests[0].body

    @property
    def status(self) -> int:
        """The first response's status."""
        return int(self.responses[0].start_line.split()[1])

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The first response's fields."""
        return self.responses[0].headers

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """The first response's body in its chunks."""
        return self.responses[0].pieces

    @property
    def body(self) -> bytes:
        """The first response's whole body."""
        return self.responses[0].body

    @property
    def complete(self) -> bool:
        """Whether the first response's body came to its end."""
        return self.responses[0].complete

    @property
    def is_stream(self) -> bool:
        """Whether the first response is an event stream."""
        return self.responses[0].header(b"content-type").startswith(b"text/event-stream")


def names() -> list[str]:
    """Return the names of all recordings, in order."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in FOLDER.glob("*/*.response"))


@functools.cache
def load(name: str) -> Recording:
    """Return one recording, by ``server/name``."""
    request = (FOLDER / f"{name}.request").read_bytes()
    response = (FOLDER / f"{name}.response").read_bytes()
    responses = _messages(response, until_close=True)
    return Recording(
        name=name,
        request_bytes=request,
        response_bytes=response,
        requests=_messages(request, until_close=False),
        responses=tuple(one for one in responses if not one.start_line.split()[1].startswith(b"1")),
    )


def _messages(octets: bytes, *, until_close: bool) -> tuple[RecordedMessage, ...]:
    found = []
    while octets:
        head, _, octets = octets.partition(b"\r\n\r\n")
        start_line, *lines = head.split(b"\r\n")
        fields = [line.partition(b":") for line in lines]
        headers = tuple((name.lower(), value.strip()) for name, _, value in fields)
        message = RecordedMessage(start_line, headers, (), True)
        length = message.header(b"content-length")
        complete = True
        pieces: tuple[bytes, ...]
        if message.header(b"transfer-encoding").lower() == b"chunked":
            pieces, complete, octets = _unchunk(octets)
        elif length or not until_close or start_line.split()[1].startswith(b"1"):
            size = int(length or 0)
            body, octets = octets[:size], octets[size:]
            pieces, complete = (body,) if body else (), len(body) == size
        else:
            pieces, octets = (octets,) if octets else (), b""
        found.append(attrs.evolve(message, pieces=pieces, complete=complete))
    return tuple(found)


def _unchunk(octets: bytes) -> tuple[tuple[bytes, ...], bool, bytes]:
    """Return the chunks of a chunked body, whether its end was there, and what follows it."""
    pieces: list[bytes] = []
    while True:
        line, separator, rest = octets.partition(b"\r\n")
        if not separator:
            return tuple(pieces), False, b""
        size = int(line, 16)
        if size == 0:
            return tuple(pieces), rest.startswith(b"\r\n"), rest[2:]
        pieces.append(rest[:size])
        if len(rest) < size + 2:
            return tuple(pieces), False, b""
        octets = rest[size + 2 :]
