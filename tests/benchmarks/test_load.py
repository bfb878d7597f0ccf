"""The load client notices every way in which an answer can be wrong."""

import json
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.certificate import make_certificate
from benchmarks.toolchain import build, compiler
from tests.scripted_backend import Connection, ScriptedBackend

pytestmark = pytest.mark.skipif(compiler() is None, reason="the load tools need a C compiler: cc")

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
FINISH = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def event(number: int) -> bytes:
    """Give an event as the model server makes them."""
    return b'data: {"t":1,"choices":[{"delta":{"content":" token-%06d"}}]}\n\n' % number


def chunked(*pieces: bytes) -> bytes:
    """Give a chunked body with one chunk for each piece."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


GOOD = (event(0), event(1), FINISH, USAGE, DONE)


def ask(answer: bytes, tls: ssl.SSLContext | None = None) -> dict[str, Any]:
    """Let the client ask once for a stream of two events; give what it prints."""

    def script(connection: Connection) -> None:
        if tls is None:
            connection.read_request()
            connection.send(answer)
            return
        with tls.wrap_socket(connection.sock, server_side=True) as sock:
            connection.sock = sock
            connection.read_request()
            connection.send(answer)

    with ScriptedBackend(script) as backend:
        command = [str(build().load), "--port", str(backend.port), "--connections", "1"]
        command += ["--seconds", "0", "--stream", "--events", "2", "--ask-usage"]
        command += ["--tls"] if tls else []
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    printed: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if printed["errors"] else 0)
    return printed


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(chunked(*GOOD), id="a chunk an event"),
        pytest.param(chunked(b"".join(GOOD)), id="one chunk"),
        pytest.param(chunked(*(b"%c" % byte for byte in b"".join(GOOD))), id="a chunk a byte"),
    ],
)
def test_a_good_stream_is_good_in_any_chunks(body: bytes) -> None:
    """What a gateway's framing of a stream is does not matter."""
    printed = ask(HEAD + body)
    assert (printed["errors"], printed["requests"], printed["events"]) == (0, 1, 2)
    assert printed["most_open"] == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            "an answer that begins: HTTP/1.1 503 Service Unavailable",
            id="status",
        ),
        pytest.param(
            HEAD + chunked(event(1), FINISH, USAGE, DONE), "event 1 instead of event 0", id="lost"
        ),
        pytest.param(
            HEAD + chunked(event(0), FINISH, USAGE, DONE),
            "a short stream: 1 of 2 events, a finish, a [DONE]",
            id="short",
        ),
        pytest.param(
            HEAD + chunked(*GOOD[:-1]),
            "a short stream: 2 of 2 events, a finish, no [DONE]",
            id="no DONE",
        ),
        pytest.param(
            HEAD + chunked(event(0), event(1), FINISH, DONE),
            "usage was asked for, and came 0 times",
            id="no usage",
        ),
        pytest.param(
            HEAD + chunked(*GOOD)[:-5], "the connection ended in an answer", id="no last chunk"
        ),
        pytest.param(HEAD + chunked(*GOOD) + b"more", "4 bytes after an answer", id="too much"),
        pytest.param(b"", "the connection ended before an answer", id="nothing"),
    ],
)
def test_a_wrong_answer_is_an_error(answer: bytes, error: str) -> None:
    """It is counted, described, and the exit status is 1."""
    printed = ask(answer)
    assert printed["errors"] == 1
    assert printed["error"] == error


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """A server's TLS with a new certificate."""
    if not build().with_tls:
        pytest.skip("the load client was built without TLS: the headers of OpenSSL are missing")
    made = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.cert_file, made.key_file)
    return context


@pytest.mark.parametrize("padding", [0, 100_000], ids=["one record", "many records"])
def test_a_stream_over_tls(tls: ssl.SSLContext, padding: int) -> None:
    """It is read to its end, also what OpenSSL has read ahead."""
    blank_lines = (b"\n" * padding,) if padding else ()
    printed = ask(HEAD + chunked(*GOOD[:3], *blank_lines, *GOOD[3:]), tls)
    assert (printed["errors"], printed["requests"], printed["events"]) == (0, 1, 2)


def test_a_wrong_answer_over_tls_is_an_error(tls: ssl.SSLContext) -> None:
    """The end of TLS is the end of the connection."""
    printed = ask(HEAD + chunked(*GOOD)[:-5], tls)
    assert printed["error"] == "the connection ended in an answer"


def test_tls_where_none_is_spoken_is_an_error() -> None:
    """The handshake's failure is told."""
    if not build().with_tls:
        pytest.skip("the load client was built without TLS: the headers of OpenSSL are missing")

    def script(connection: Connection) -> None:
        connection.sock.recv(65536)
        connection.answer(b"{}")

    with ScriptedBackend(script) as backend:
        command = [str(build().load), "--port", str(backend.port), "--tls", "--seconds", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert json.loads(done.stdout)["error"] == "connecting: Protocol error"
