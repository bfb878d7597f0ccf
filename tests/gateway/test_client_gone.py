"""A client that leaves closes the backend's connection, in every phase.

But for waiting in a queue, which is in `test_queues`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gateway.conftest import Start
from tests.gateway.ends import at_rest, in_flight
from tests.gateway.raw_client import RawClient, chat_body
from tests.scripted_backend import Connection, ScriptedBackend, event

LIMIT_S = 0.25


class Phase:
    """A backend that stays in one phase until its peer leaves."""

    def __init__(self, begin: Callable[[Connection], None]) -> None:
        self._begin = begin
        self.reached = threading.Semaphore(0)
        self.closed = threading.Semaphore(0)
        self.closed_at = 0.0

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        if connection.read_request() is None:
            return
        self._begin(connection)
        self.reached.release()
        self.closed_at = connection.wait_for_close()
        self.closed.release()


def nothing(connection: Connection) -> None:
    """Prefill: no byte yet."""


def mid_stream(connection: Connection) -> None:
    """Some of a stream."""
    connection.stream_head()
    connection.chunk(event('{"choices":[{"delta":{"content":"a"}}]}'))


def mid_plain(connection: Connection) -> None:
    """Some of a plain answer."""
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")


@pytest.mark.parametrize("begin", [nothing, mid_stream, mid_plain])
def test_backend_is_left_at_once(start: Start, begin: Callable[[Connection], None]) -> None:
    """Waiting for the first byte, mid-stream, or in a plain answer."""
    phase = Phase(begin)
    daemon = start(phase)
    took = []
    for _ in range(3):  # the machine is shared: the best of three
        client = RawClient(daemon.port)
        client.post(chat_body(stream=begin is mid_stream))
        assert phase.reached.acquire(timeout=5)
        if begin is not nothing:
            client.head()
        left_at = time.monotonic()
        client.close()
        assert phase.closed.acquire(timeout=5)
        took.append(phase.closed_at - left_at)
    assert min(took) < LIMIT_S
    line = daemon.wait_for_log('"client_abort"')
    assert '"status":499' in line
    assert at_rest(daemon)


def connections_to(port: int) -> int:
    """Count this machine's sockets that connect or are connected to a loopback port."""
    wanted = f":{port:04X}"
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    # 01 established, 02 SYN sent; the server's own sockets have the port on the local side.
    return sum(row.split()[2].endswith(wanted) and row.split()[3] in ("01", "02") for row in rows)


def test_while_connecting(start: Start) -> None:
    """A connection that is still being made is given up."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        for filler in (first, second):  # the queue takes backlog + 1; further SYNs are dropped
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        time.sleep(0.1)
        filling = connections_to(port)
        daemon = start(
            {"name": "b", "url": f"http://127.0.0.1:{port}", "models": ["*"]},
            health_check={"enabled": False},
        )
        client = RawClient(daemon.port)
        client.post(chat_body())
        deadline = time.monotonic() + 5
        while connections_to(port) <= filling and time.monotonic() < deadline:
            time.sleep(0.01)
        assert connections_to(port) == filling + 1
        left_at = time.monotonic()
        client.close()
        while connections_to(port) > filling and time.monotonic() < left_at + 5:
            time.sleep(0.005)
        assert time.monotonic() - left_at < 3.0
        daemon.wait_for_log('"client_abort"')
        assert at_rest(daemon)


def test_while_waiting_before_a_retry(start: Start) -> None:
    """It is over long before there is another try."""
    with ScriptedBackend(lambda _: None, raw=True) as closing:  # in the middle of the handshake
        daemon = start(
            {"name": "b", "url": f"https://127.0.0.1:{closing.port}", "models": ["*"]},
            health_check={"enabled": False},
            routing={"retry": {"initial_wait": "1h", "max_wait": "1h"}},
        )
        with RawClient(daemon.port) as client:
            client.post(chat_body(), headers={"X-Request-ID": "waits"})
            deadline = time.monotonic() + 10
            while not closing.connections or in_flight(daemon):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        record = daemon.record("waits")
        assert (record["outcome"], record["status"], record["attempts"]) == ("client_abort", 499, 1)
        assert record["tried"] == [{"backend": "b", "error": "tls_failed"}]


def test_body_that_stops_halfway(start: Start) -> None:
    """A client that leaves in the middle of its own request never reaches a backend."""
    with ScriptedBackend(lambda connection: None) as backend:
        daemon = start(backend)
        client = RawClient(daemon.port)
        client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk-test-key-1"
            b"\r\nContent-Length: 100\r\n\r\n{"
        )
        time.sleep(0.1)
        client.close()
        daemon.wait_for_log('"client_abort"')
        assert backend.connections == 0
