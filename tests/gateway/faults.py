"""The table of faults: what a backend does wrong, and what is to follow.

Each row belongs to a line of "What is tried again" in docs/balancing.md; `test_faults_of_backends`
holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs

from tests.scripted_backend import Connection, event

EVENT = event('{"choices":[{"index":0,"delta":{"content":"a"}}]}')
DONE = event("[DONE]")
WELL = b'{"ok":true}'
BUSY = b'{"error":{"message":"busy"}}'

Script = Callable[[Connection], None]
"""What a backend does once it has read a request; when it returns, its connection is closed."""


# The lines of the documentation.

NO_CONNECTION = "no connection: refused, or none within `connect_timeout`"
NO_TLS = "TLS failed, or took longer than `connect_timeout`"
DIED_IDLE = "a kept-alive connection was closed just then, with no byte back"
BUSY_ANSWER = "429 or 503"
OTHER_ANSWER = "any other answer, a 500 as well"
NO_HEAD = "the connection ended before the answer's head was complete"
NO_HTTP = "an answer that is not HTTP, or not to be trusted"
NO_FIRST_BYTE = "no first byte of the answer within `first_byte_timeout`"
CUT_EARLY = "the answer ended after its head, before any of its body"
CUT_LATE = "the answer ended later"
STALLED = "then silence for `stall_timeout`"
LEFT = "the client left"


WITHOUT_HEAD = frozenset((NO_CONNECTION, NO_TLS, DIED_IDLE, NO_HEAD, NO_HTTP, NO_FIRST_BYTE))
"""Those that leave no answer to relay: such tries are listed in the access log."""


@attrs.frozen(kw_only=True)
class Fault:
    """One row.

    Attributes:
        name: Of the row.
        line: Its line in the documentation.
        at: The backend that shows it, as in `test_faults_of_backends`; one that asks to be left
            alone for a while is no other row's.
        script: What the backend does.
        stream: Whether a stream is asked for.
        status: What the client gets.
        code: The error's, to the client as far as it can be told, and in the access log.
        body: What the client gets of the backend's body; None: an error of ours.
        whole: Whether the client sees a complete answer.
        headed: Whether the gateway gets a head, where its line says nothing of that.
        outcome: What the access log says.
        again: Whether another backend is tried, if there is one.
        attempts: How many tries there are if there is none.
        retry_after: What stands in the answer.
        cut: Whether the backend finds its connection cut, for it would have gone on.
    """

    name: str
    line: str
    at: str
    script: Script = lambda connection: None
    stream: bool = False
    status: int
    code: str = ""
    body: bytes | None = None
    whole: bool = True
    headed: bool = False
    outcome: str
    again: bool = False
    attempts: int = 1
    retry_after: str | None = None
    cut: bool = False


def let_it_through(connection: Connection) -> None:
    """Give what was sent the time to be relayed: what comes together with a break may be lost."""
    connection.sock.settimeout(0.2)
    try:
        connection.sock.recv(1)
    except TimeoutError:
        connection.sock.settimeout(None)
        return
    raise AssertionError("the gateway sent something, or left")


def sending(data: bytes, *, reset: bool = False, stay: bool = False) -> Script:
    """Make a backend that sends something, and closes; or resets; or waits to be left."""

    def script(connection: Connection) -> None:
        connection.send(data)
        if stay:
            connection.wait_for_close(30)
        elif reset:
            let_it_through(connection)
            connection.reset()

    return script


def streaming(data: bytes, *, reset: bool = False, stay: bool = False) -> Script:
    """Make a backend that begins a stream with an event, goes on with something, and then as above.

    Args:
        data: Raw, with the framing of its chunks.
    """

    def script(connection: Connection) -> None:
        connection.stream_head()
        connection.chunk(EVENT)
        let_it_through(connection)
        sending(data, reset=reset, stay=stay)(connection)

    return script


def silent_stream(connection: Connection) -> None:
    """Begin a stream, say nothing in it, and wait to be left."""
    connection.stream_head()
    connection.wait_for_close(30)


def answering(status: bytes, more: bytes = b"") -> Script:
    """Make a backend that answers so."""
    return lambda connection: connection.answer(BUSY, status, more=more + b"Connection: close\r\n")


def closing_when_reused(connection: Connection) -> None:
    """Answer, and close without a byte when another request comes."""
    connection.answer(WELL)
    connection.read_request()


def answering_early(connection: Connection) -> None:
    """Answer to the head alone, read no more of the request, and wait to be left."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.sock.recv(4096)
    connection.answer(BUSY, b"503 Service Unavailable")
    connection.wait_for_reset(30)


def chunk(data: bytes) -> bytes:
    """Encode a chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


HALF = b'{"half":'
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
LONG = PLAIN + b"Content-Length: 1000\r\n\r\n"
CHUNKED = PLAIN + b"Transfer-Encoding: chunked\r\n\r\n"
HALF_A_HEAD = b"HTTP/1.1 200 OK\r\nContent-"
TWO_FRAMINGS = PLAIN + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
RETRY_AFTER = b"Retry-After: 17\r\n"

_unreached = partial(Fault, status=502, outcome="upstream_error", again=True, attempts=2)
_answers = partial(Fault, at="usual", body=BUSY)
_busy = partial(_answers, line=BUSY_ANSWER, again=True)
_lost = partial(
    Fault,
    line=NO_HEAD,
    at="usual",
    status=502,
    code="connection_lost",
    outcome="upstream_error",
)
_invalid = partial(Fault, at="usual", status=502, code="bad_response", outcome="upstream_error")
_mute = partial(
    Fault,
    line=NO_FIRST_BYTE,
    at="slow",
    status=504,
    code="first_byte_timeout",
    outcome="timeout",
    cut=True,
)
_torn = partial(
    Fault,
    line=CUT_LATE,
    at="usual",
    status=200,
    code="connection_lost",
    whole=False,
    outcome="truncated",
)
_torn_stream = partial(_torn, stream=True)
_stalled = partial(
    Fault, line=STALLED, at="stalling", code="stall_timeout", outcome="timeout", cut=True
)

FAULTS = (
    _unreached(name="refused", line=NO_CONNECTION, at="refusing", code="connect_failed"),
    _unreached(name="blackhole", line=NO_CONNECTION, at="ignoring", code="connect_failed"),
    _unreached(name="no-tls-there", line=NO_TLS, at="plain", code="tls_failed"),
    _unreached(name="tls-never-done", line=NO_TLS, at="silent", code="tls_failed"),
    _busy(
        name="429",
        at="limited",
        script=answering(b"429 Too Many Requests", RETRY_AFTER),
        status=429,
        outcome="rejected",
        retry_after="17",
    ),
    _busy(
        name="503",
        at="loaded",
        script=answering(b"503 Service Unavailable", RETRY_AFTER),
        status=503,
        outcome="upstream_error",
        retry_after="17",
    ),
    _busy(
        name="503-to-a-stream",
        script=answering(b"503 Service Unavailable"),
        stream=True,
        status=503,
        outcome="upstream_error",
    ),
    _answers(
        name="500",
        line=OTHER_ANSWER,
        script=answering(b"500 Internal Server Error"),
        status=500,
        outcome="upstream_error",
    ),
    _answers(
        name="400",
        line=OTHER_ANSWER,
        script=answering(b"400 Bad Request"),
        status=400,
        outcome="rejected",
    ),
    _lost(name="closes"),
    _lost(name="resets", script=Connection.reset),
    _lost(name="half-a-head", script=sending(HALF_A_HEAD)),
    _invalid(
        name="junk", line=NO_HTTP, script=sending(b"SSH-2.0-OpenSSH\r\n\r\n", stay=True), cut=True
    ),
    _invalid(name="two-framings", line=NO_HTTP, script=sending(TWO_FRAMINGS, stay=True), cut=True),
    _mute(name="mute", script=sending(b"", stay=True)),
    _mute(name="mute-in-its-head", script=sending(HALF_A_HEAD, stay=True), stream=True),
    _mute(name="plain-mute-behind-its-head", script=sending(LONG, stay=True), headed=True),
    _mute(
        name="stream-mute-behind-its-head",
        headed=True,
        script=silent_stream,
        stream=True,
        status=200,
        body=b"",
        whole=False,
    ),
    _invalid(name="plain-head-only", line=CUT_EARLY, script=sending(LONG)),
    _invalid(name="plain-chunked-head-only", line=CUT_EARLY, script=sending(CHUNKED)),
    _torn(
        name="stream-head-only",
        line=CUT_EARLY,
        script=Connection.stream_head,
        stream=True,
        body=b"",
    ),
    _torn(name="plain-midway", script=sending(LONG + HALF), body=HALF),
    _torn(name="plain-chunked-midway", script=sending(CHUNKED + chunk(HALF)), body=HALF),
    _torn(
        name="plain-until-a-reset", script=sending(PLAIN + b"\r\n" + HALF, reset=True), body=HALF
    ),
    _torn_stream(name="stream-closed", script=streaming(b""), body=EVENT),
    _torn_stream(name="stream-reset", script=streaming(b"", reset=True), body=EVENT),
    _torn_stream(
        name="stream-in-an-event", script=streaming(b"40\r\ndata: ["), body=EVENT + b"data: [\n\n"
    ),
    # What may have become the usage that only the gateway asked for is not shown.
    _torn_stream(name="stream-in-a-held-event", script=streaming(b"40\r\ndata: {"), body=EVENT),
    _torn_stream(
        name="stream-not-chunks",
        script=streaming(b"zz\r\nfoo\r\n", stay=True),
        body=EVENT,
        cut=True,
    ),
    _torn_stream(
        name="stream-before-its-last-chunk", script=streaming(chunk(DONE)), body=EVENT + DONE
    ),
    _torn_stream(
        name="stream-in-its-last-chunk",
        script=streaming(chunk(DONE) + b"0\r\n"),
        body=EVENT + DONE,
    ),
    Fault(
        name="stream-after-its-end",
        line=OTHER_ANSWER,
        at="usual",
        script=streaming(chunk(DONE) + b"0\r\n\r\n"),
        stream=True,
        status=200,
        body=EVENT + DONE,
        outcome="ok",
    ),
    _stalled(
        name="plain-stalled",
        script=sending(LONG + HALF, stay=True),
        status=200,
        body=HALF,
        whole=False,
    ),
    _stalled(
        name="stream-stalled",
        script=streaming(b"", stay=True),
        stream=True,
        status=200,
        body=EVENT,
        whole=False,
    ),
)
