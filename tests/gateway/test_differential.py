"""Nobody reads a request otherwise than we do: not the servers behind us, not another parser.

Generated requests, wrong in small ways, go through the daemon to real servers' parsers. What those
read must be what our edge read: as many requests, each with its target, its body and nothing else
of the client's than what is its own. ``LLMPROXY_EXAMPLES`` says how many (there are few by default,
and always the same ones).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings

from tests.daemon import KEY, Daemon, free_port, gateway_config
from tests.edge import read_answers
from tests.gateway.mutations import CANARY, wires
from tests.gateway.parser_backends import (
    PARSERS,
    NotInstalled,
    ParserBackend,
    Read,
    make_backend,
)
from tests.gateway.views import Message, View, edge_view, h11_view

EXAMPLES = int(os.environ.get("LLMPROXY_EXAMPLES", "60"))

of_many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)

SILENCE = "150ms"
"""After so much of it the daemon gives up what it cannot see the end of."""

LAST = b"GET /last HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n"
"""Sent behind each generated request, so that the connection ends."""

HOPS = frozenset(
    (
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"expect",
        b"authorization",
        b"x-api-key",
        b"proxy-authorization",
        b"forwarded",
        b"x-real-ip",
    )
)
"""Fields that end with us, whoever sends them: none may be seen behind us."""

LOOKALIKES = frozenset((b"content_length", b"transfer_encoding", b"x_api_key", b"x_forwarded_for"))


@attrs.define
class Passage:
    """A daemon in front of one server.

    Attributes:
        backend: The server.
        daemon: The daemon.
    """

    backend: ParserBackend
    daemon: Daemon
    _log: Any
    _marks: int = 0

    def send(self, raw: bytes) -> bytes:
        """Send bytes on a connection of their own; give all that comes back."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.daemon.port), 10) as sock:
            # The daemon may be done with us before we are done with it.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(raw)
            with contextlib.suppress(ConnectionResetError):
                while piece := sock.recv(65536):
                    received += piece
        return received

    def logged(self) -> list[dict[str, Any]]:
        """Give the lines of the access log since the last call.

        A request of our own marks their end: the daemon writes a line as each request concludes.
        """
        self._marks += 1
        mark = f"mark-{self._marks}"
        self.send(LAST.replace(b"\r\n\r\n", b"\r\nX-Request-ID: %b\r\n\r\n" % mark.encode()))
        lines: list[dict[str, Any]] = []
        end = time.monotonic() + 10
        left = ""
        while True:
            left += self._log.readline()
            if not left.endswith("\n"):
                assert time.monotonic() < end, "the mark does not show in the access log"
                time.sleep(0.001)
                continue
            line, left = left, ""
            if line.startswith("{"):
                record = json.loads(line)
                if record["request_id"] == mark:
                    return lines
                lines.append(record)


@pytest.fixture(scope="module", params=PARSERS)
def passage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Passage]:
    """Start a daemon in front of each of the servers, as far as they are installed."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as stack:
        try:
            backend = stack.enter_context(make_backend(request.param, folder))
        except NotInstalled as reason:
            pytest.skip(f"{reason}; tests/setup installs it")
        config = gateway_config(
            free_port(),
            [{"name": "b", "url": backend.url, "models": ["m"]}],
            server={"header_timeout": SILENCE, "body_timeout": SILENCE, "idle_timeout": SILENCE},
            health_check={"enabled": False},
        )
        config["server"]["listen"] = f"127.0.0.1:{free_port()}"
        daemon = stack.enter_context(Daemon(folder, config))
        log = stack.enter_context((folder / "output.log").open())
        passage = Passage(backend, daemon, log)
        passage.logged()
        backend.settled()
        yield passage


@of_many
@given(raw=wires())
def test_servers_read_what_we_read(passage: Passage, raw: bytes) -> None:
    """Each request that we relay is one request there, and the same; what we refuse is none."""
    raw += LAST
    received = passage.send(raw)
    lines = in_order(passage.logged(), received)
    reads = passage.backend.settled()
    relayed = [line for line in lines if line["backend"]]

    # One answer for each request, one request there for each that was relayed.
    answers = read_answers(received, [line["method"] for line in lines], closed=True)
    final = [answer.status for answer in answers if answer.status >= 200]
    assert final == [line["status"] for line in lines]
    assert [line["status"] for line in relayed] == [200] * len(relayed), "refused behind us"
    assert all(line["attempts"] == 1 for line in relayed)
    ids = Counter(line["request_id"].encode() for line in relayed)
    assert Counter(read.values(b"x-request-id")[0] for read in reads) == ids
    assert all(read.complete for read in reads)
    assert [line["bytes_in"] for line in relayed] == [len(read.body) for read in reads]

    # Each is one that the edge read, in that order.
    read_by_us = iter(edge_view(raw).messages)
    for read in reads:
        same = next((one for one in read_by_us if is_same(one, read)), None)
        assert same is not None, f"we read no {read!r}"
        check_fields(passage.backend, read, same)


def in_order(lines: list[dict[str, Any]], received: bytes) -> list[dict[str, Any]]:
    """Put lines of the access log into the order of the answers."""
    ids = [found.decode() for found in re.findall(rb"\r\nX-Request-ID: (\S+)\r\n", received)]
    assert Counter(ids) == Counter(line["request_id"] for line in lines)
    return sorted(lines, key=lambda line: ids.index(line["request_id"]))


def is_same(message: Message, read: Read) -> bool:
    """Whether a server read what our edge did; it cannot tell an empty query from none."""
    targets = (message.target, message.target.removesuffix(b"?"))
    return (message.method, message.body) == (read.method, read.body) and read.target in targets


def check_fields(backend: ParserBackend, read: Read, message: Message) -> None:
    """See that nothing got through that is not the backend's to see, and all that is."""
    assert read.values(b"host") == [backend.url.removeprefix("http://").encode()]
    assert read.values(b"content-length") == [b"%d" % len(read.body)]
    assert read.values(b"x-forwarded-for") == [b"127.0.0.1"]
    names = {name for name, _ in read.fields}
    assert not names & HOPS
    assert not names & LOOKALIKES
    assert KEY.encode() not in b"".join(value for _, value in read.fields)
    nominated = {
        token.strip().lower()
        for name, value in message.fields
        if name == b"connection"
        for token in value.split(b",")
    }
    assert not names & nominated & {b"x-canary", b"x-hop"}
    passed = [(name, value) for name, value in message.fields if name not in nominated]
    if backend.all_fields:
        assert read.values(b"x-canary") == [value for name, value in passed if name == b"x-canary"]
    else:
        # nginx's variables know only the first of a name, and take X_Canary for one.
        alike = [value for name, value in passed if name in (b"x-canary", b"x_canary")]
        assert read.values(b"x-canary") == alike[:1]


STRICTER_IN_H11 = {
    "an empty line that ends with LF alone, before a request": (
        # RFC 9112, section 2.2: a recipient may take it for the end of a line.
        r"no request line received",
        b"\nPOST / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    "bare CRs before a request": (
        # llhttp skips them as it skips empty lines. RFC 9112, section 2.2 would have them refused;
        # nobody sees another request for it, and the parser does not tell of them.
        r"illegal request line: bytearray\(b'\\r[A-Z]",
        b"\rPOST / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    "a length with many leading zeros": (
        r"bad Content-Length",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"0" * 30 + b"2\r\n\r\n{}",
    ),
    "a chunk size with many leading zeros": (
        r"illegal chunk header: bytearray\(b'0{10,}[0-9a-fA-F]{1,8}(;.*)?\\r\\n'\)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"0" * 30
        + b"2\r\n{}\r\n0\r\n\r\n",
    ),
}
"""What we accept and h11 does not: why it says so, and an example. None changes what is read."""


def is_known(why: str) -> bool:
    """Whether h11 is known to be the stricter one here."""
    patterns = [pattern for pattern, _ in STRICTER_IN_H11.values()]
    return any(re.match(pattern, why) for pattern in patterns)


@settings(of_many, max_examples=EXAMPLES * 8)
@given(raw=wires())
def test_h11_reads_what_we_read(raw: bytes) -> None:
    """Where both accept, the requests are the same; where h11 alone refuses, it is known why."""
    compare(edge_view(raw), h11_view(raw))


def compare(ours: View, theirs: View) -> None:
    """Hold two views against each other, request by request."""
    for mine, other in zip(ours.messages, theirs.messages, strict=False):
        assert mine == other
    if len(ours.messages) > len(theirs.messages):
        assert theirs.end == "refused", f"h11 did not see the last request: {theirs}"
        assert is_known(theirs.why), theirs.why
    elif len(ours.messages) < len(theirs.messages):
        assert ours.end in ("refused", "closed"), f"we did not see the last request: {ours}"


@pytest.mark.parametrize("name", STRICTER_IN_H11)
def test_h11_is_stricter(name: str) -> None:
    """The list of differences is not longer than need be: each is one."""
    pattern, raw = STRICTER_IN_H11[name]
    ours, theirs = edge_view(raw), h11_view(raw)
    assert len(ours.messages) == 1
    assert theirs.end == "refused"
    assert re.match(pattern, theirs.why), theirs.why


def test_a_request_behind_another_is_seen_there(passage: Passage) -> None:
    """The servers' records would show what was smuggled past us: here it goes to them directly."""
    inner = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    raw = b"POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}" + inner
    with socket.create_connection(("127.0.0.1", passage.backend.port), 10) as sock:
        sock.sendall(raw)
        received = b""
        while received.count(b"HTTP/1.1 200") < 2:
            received += sock.recv(65536)
    assert [read.target for read in passage.backend.settled()] == [b"/open", b"/smuggled"]


def test_most_requests_get_through(passage: Passage) -> None:
    """A request that is good goes up whole: what the other tests compare is not nothing."""
    body = b'{"model":"m","messages":[]}'
    raw = (
        b"POST /v1/chat/completions?a=%%2F HTTP/1.1\r\nHost: gateway.test\r\nX-API-Key: %b\r\n"
        b"X-Canary: %b\r\nContent-Length: %d\r\n\r\n%b" % (KEY.encode(), CANARY, len(body), body)
    )
    received = passage.send(raw + LAST)
    lines = in_order(passage.logged(), received)
    assert [line["status"] for line in lines] == [200, 404]
    (read,) = passage.backend.settled()
    assert (read.method, read.target) == (b"POST", b"/v1/chat/completions?a=%2F")
    assert read.body == body
