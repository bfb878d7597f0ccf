"""Honest ends: what a backend breaks is never made to look whole."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.gateway.conftest import Start
from tests.gateway.raw_client import RawClient, chat_body
from tests.scripted_backend import Connection, event

EVENT = event('{"choices":[{"delta":{"content":"a"}}]}')

Break = Callable[[Connection], None]


def orderly(connection: Connection) -> None:
    """Close, without the last chunk."""


def reset(connection: Connection) -> None:
    """Reset."""
    connection.reset()


def mid_chunk(connection: Connection) -> None:
    """Close in the middle of a chunk and of an event."""
    connection.send(b"40\r\ndata: {")


def bad_chunk(connection: Connection) -> None:
    """Send what is no chunk."""
    connection.send(b"zz\r\nfoo\r\n")


def stream(ending: Break) -> Break:
    """Make a backend that breaks its stream off after one event."""

    def script(connection: Connection) -> None:
        if connection.read_request() is None:
            return
        connection.stream_head()
        connection.chunk(EVENT)
        connection.sock.settimeout(0.2)  # let the event get through before the break
        try:
            connection.sock.recv(1)
        except TimeoutError:
            ending(connection)

    return script


@pytest.mark.parametrize("ending", [orderly, reset, mid_chunk, bad_chunk])
def test_stream_that_is_cut(start: Start, ending: Break) -> None:
    """The events so far, an error event, no last chunk, and the connection's end."""
    daemon = start(stream(ending))
    with RawClient(daemon.port) as client:
        client.post(chat_body(stream=True))
        assert client.head() == 200
        raw, _ = client.rest()
    assert not raw.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in raw
    assert EVENT in raw
    payload = raw[raw.rindex(b"data: ") + 6 :].split(b"\n\n")[0]
    error = json.loads(payload)["error"]
    assert isinstance(error, dict)
    assert error["type"] == "server_error"
    assert '"outcome":"truncated"' in daemon.wait_for_log('"truncated"')


def http_1_0(connection: Connection) -> None:
    """Answer an HTTP/1.0 request with a stream that breaks off."""
    stream(orderly)(connection)


def test_cut_towards_an_old_client_is_a_reset(start: Start) -> None:
    """Where closing would look like a good end, the connection is reset."""
    daemon = start(stream(orderly))
    with RawClient(daemon.port) as client:
        body = chat_body(stream=True)
        client.send(
            b"POST /v1/chat/completions HTTP/1.0\r\nAuthorization: Bearer sk-test-key-1\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert client.head() == 200
        _, was_reset = client.rest()
    assert was_reset


def no_head(connection: Connection) -> None:
    """Take the request and close."""
    connection.read_request()


def junk(connection: Connection) -> None:
    """Answer with something else than HTTP."""
    connection.read_request()
    connection.send(b"SSH-2.0-OpenSSH\r\n\r\n")


def half_head(connection: Connection) -> None:
    """Break off inside the head."""
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-")


def smuggled(connection: Connection) -> None:
    """Answer with two framings at once."""
    connection.read_request()
    connection.send(
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )


def short_plain(connection: Connection) -> None:
    """Announce a plain answer and send none of it."""
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (no_head, "connection_lost"),
        (junk, "bad_response"),
        (half_head, "connection_lost"),
        (smuggled, "bad_response"),
        (short_plain, "bad_response"),
    ],
)
def test_no_answer_is_502(start: Start, script: Break, code: str) -> None:
    """While nothing was sent, a broken answer is a clean 502, and the connection serves on."""
    daemon = start(script)
    with RawClient(daemon.port) as client:
        for _ in range(2):
            assert client.post(chat_body()).error() == (502, code)


def test_plain_answer_cut_midway(start: Start) -> None:
    """Something was sent: fewer bytes than announced, and the connection ends."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"half":')

    daemon = start(script)
    with RawClient(daemon.port) as client:
        assert client.post(chat_body()).head() == 200
        assert client.headers["content-length"] == "1000"
        raw, _ = client.rest()
    assert raw == b'{"half":'


def test_connect_failure_goes_to_the_next_backend(start: Start) -> None:
    """A dead backend costs nothing but a try; with none left it is a 502."""

    def alive(connection: Connection) -> None:
        while connection.read_request() is not None:
            connection.answer(b'{"ok":true}')

    dead = {"name": "dead", "url": "http://127.0.0.1:1", "models": ["*"]}
    daemon = start(
        dead, alive, health_check={"enabled": False}, routing={"load_balance": "round_robin"}
    )
    with RawClient(daemon.port) as client:
        for _ in range(4):
            assert client.post(chat_body()).answer() == (200, b'{"ok":true}')
    line = daemon.wait_for_log('"tried":[{"backend":"dead"')
    assert '"attempts":2' in line
    assert '"error":"connect_failed"' in line


def test_only_dead_backends(start: Start) -> None:
    """Nobody can be reached: 502 after the tries that the configuration allows."""
    daemon = start(
        {"name": "dead", "url": "http://127.0.0.1:1", "models": ["*"]},
        health_check={"enabled": False},
        routing={"retry": {"max_retries": 1, "initial_wait": "10ms"}},
    )
    with RawClient(daemon.port) as client:
        assert client.post(chat_body()).error() == (502, "connect_failed")
    assert '"attempts":2' in daemon.wait_for_log('"connect_failed"')
