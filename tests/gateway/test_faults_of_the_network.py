"""Faults of the network between gateway and backend: cuts at any byte, silence, drips."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.daemon import Daemon, free_port, gateway_config
from tests.fault_proxy import FaultProxy
from tests.gateway.ends import at_rest, broken, split_farewell
from tests.gateway.faults import DONE, EVENT, PLAIN, chunk
from tests.gateway.raw_client import RawClient, chat_body
from tests.gateway.test_breakers import NO_CHECKS
from tests.scripted_backend import Connection, ScriptedBackend

EVENTS = (EVENT, EVENT, DONE)
JSON = b'{"choices":[{"index":0,"message":{"content":"hello"}}]}'
CLOSE = b"Connection: close\r\n"
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n"

ANSWERS = {
    "plain": (PLAIN + CLOSE + b"Content-Length: %d\r\n\r\n" % len(JSON), (JSON,)),
    "plain-chunked": (PLAIN + CLOSE + CHUNKS, (JSON[:20], JSON[20:])),
    "stream": (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + CLOSE + CHUNKS, EVENTS),
}
"""Heads, and what their bodies are sent in."""


def encoded(name: str) -> bytes:
    """Give the bytes of an answer."""
    head, pieces = ANSWERS[name]
    if CHUNKS in head:
        return head + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"
    return head + b"".join(pieces)


def body_within(name: str, size: int) -> bytes:
    """Give the body's bytes that are in the first so many of an answer."""
    head, pieces = ANSWERS[name]
    if CHUNKS not in head:
        return pieces[0][: max(size - len(head), 0)]
    body, at = b"", len(head)
    for piece in pieces:
        framed = chunk(piece)
        start = at + framed.index(piece)
        body += piece[: max(size - start, 0)]
        at += len(framed)
    return body


def answer(connection: Connection) -> None:
    """Give the answer that is asked for; one to nobody in particular keeps its connection."""
    while (request := connection.read_request()) is not None:
        name = request.header("X-Answer")
        if name:
            connection.send(encoded(name))
            return
        connection.answer(JSON)


class Network:
    """A daemon, a backend, and a faulty network between them.

    The model ``hasty`` is not waited for; ``patient`` is, but may not fall silent.
    """

    def __init__(self, daemon: Daemon, proxy: FaultProxy) -> None:
        self.daemon = daemon
        self.proxy = proxy
        self._client = RawClient(daemon.port, timeout_s=30)

    def close(self) -> None:
        """Leave."""
        self._client.close()

    def ask(self, name: str, request_id: str) -> RawClient:
        """Ask for an answer, on a connection of its own."""
        self.close()
        self._client = RawClient(self.daemon.port, timeout_s=30)
        options = {"include_usage": True}  # asked for by the client: nothing is held back of it
        body = (
            chat_body(model="patient", stream=True, stream_options=options)
            if name == "stream"
            else chat_body(model="patient")
        )
        return self._client.post(body, headers={"X-Answer": name, "X-Request-ID": request_id})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Give a network that all these tests share."""
    with ExitStack() as stack:
        backend = stack.enter_context(ScriptedBackend(answer))
        proxy = stack.enter_context(FaultProxy(backend.port))
        url = f"http://{proxy.addr}"
        config = gateway_config(
            free_port(),
            [
                {"name": "hasty", "url": url, "models": ["hasty"], "first_byte_timeout": "500ms"},
                {"name": "patient", "url": url, "models": ["patient"], "stall_timeout": "1s"},
            ],
            health_check=NO_CHECKS,
            routing={"breaker": {"failures": 0}},
        )
        daemon = stack.enter_context(Daemon(tmp_path_factory.mktemp("network"), config))
        network = Network(daemon, proxy)
        stack.callback(network.close)
        yield network


@pytest.fixture
def network(world: Network) -> Iterator[Network]:
    """Give the network without faults, and leave it so."""
    yield world
    proxy = world.proxy
    proxy.delay_s, proxy.drip_bytes, proxy.cut_after_bytes = 0.0, 0, None
    proxy.resets = proxy.swallow = proxy.deaf = False
    proxy.accept()


def seen_after(client: RawClient, name: str, size: int) -> bytes | None:
    """Take an answer that was cut after so many bytes; give the body seen; None: an error of ours.

    Whatever is seen is what was sent, and nothing looks whole.
    """
    if client.head() == 502:
        client.body()
        return None
    if name != "stream":
        return broken(client)
    body, error = split_farewell(broken(client))
    assert error["code"] == "connection_lost"
    sent = body_within(name, size)
    # A torn event is ended, so that ours can be read.
    return body if sent.startswith(body) else body.removesuffix(b"\n\n")


@pytest.mark.parametrize("name", ANSWERS)
def test_closed_at_any_byte(network: Network, name: str) -> None:
    """All that came before is seen, and never as a whole answer; only behind its end is it one."""
    whole, head = encoded(name), ANSWERS[name][0]
    for size in range(len(whole)):
        network.proxy.cut_after_bytes = size
        client = network.ask(name, f"closed-{name}-{size}")
        sent = body_within(name, size)
        seen = seen_after(client, name, size)
        if size < len(head) or (name != "stream" and not sent):
            assert seen is None, size
        else:
            assert seen == sent, size
    network.proxy.cut_after_bytes = len(whole)
    body = b"".join(ANSWERS[name][1])
    assert network.ask(name, f"whole-{name}").answer() == (200, body)
    outcomes = {
        size: network.daemon.record(f"closed-{name}-{size}")["outcome"]
        for size in (0, len(head) - 1, len(whole) - 1)
    }
    last = "truncated" if body_within(name, len(whole) - 1) else "upstream_error"
    assert list(outcomes.values()) == ["upstream_error", "upstream_error", last]
    assert network.daemon.record(f"whole-{name}")["outcome"] == "ok"
    assert at_rest(network.daemon)


@pytest.mark.parametrize("name", ANSWERS)
def test_reset_at_any_byte(network: Network, name: str) -> None:
    """A reset overtakes what came before it: what is seen is a beginning of that, and not whole."""
    network.proxy.resets = True
    for size in range(0, len(encoded(name)), 7):
        network.proxy.cut_after_bytes = size
        seen = seen_after(network.ask(name, f"reset-{name}-{size}"), name, size)
        assert body_within(name, size).startswith(seen or b""), size
    assert at_rest(network.daemon)


@pytest.mark.parametrize("name", ANSWERS)
def test_byte_after_byte(network: Network, name: str) -> None:
    """An answer that drips, for longer than it may be silent, comes whole."""
    network.proxy.drip_bytes, network.proxy.delay_s = 1, 0.008
    client = network.ask(name, f"drip-{name}")
    assert client.answer() == (200, b"".join(ANSWERS[name][1]))
    record = network.daemon.record(f"drip-{name}")
    assert record["outcome"] == "ok"
    assert record["duration_ms"] > 1000


def test_latency(network: Network) -> None:
    """It is measured, and harms nothing."""
    network.proxy.delay_s = 0.3
    client = network.ask("stream", "late")
    assert client.answer() == (200, b"".join(EVENTS))
    record = network.daemon.record("late")
    assert record["outcome"] == "ok"
    assert record["first_byte_ms"] >= 300


@pytest.mark.parametrize("reads", [True, False])
def test_kept_connection_whose_other_end_is_gone(network: Network, reads: bool) -> None:
    """It is reused, and nothing comes: the request may be at work, so it is not tried again."""
    with RawClient(network.daemon.port, timeout_s=30) as client:
        assert client.post(chat_body(model="hasty")).answer() == (200, JSON)
        network.proxy.swallow, network.proxy.deaf = reads, not reads
        request_id = f"half-open-{reads}"
        client.post(chat_body(model="hasty"), headers={"X-Request-ID": request_id})
        assert client.error() == (504, "first_byte_timeout")
        network.proxy.swallow = network.proxy.deaf = False
        assert client.post(chat_body(model="hasty")).answer() == (200, JSON)
    record = network.daemon.record(request_id)
    assert (record["attempts"], record["outcome"]) == (1, "timeout")
    assert record["tried"] == [{"backend": "hasty", "error": "first_byte_timeout"}]
    assert at_rest(network.daemon)


def test_backend_that_stops_reading(network: Network) -> None:
    """A body that does not get through is given up at the same clock."""
    network.proxy.deaf = True
    body = chat_body(model="hasty", padding="x" * 16_000_000)
    with RawClient(network.daemon.port, timeout_s=30) as client:
        client.post(body, headers={"X-Request-ID": "deaf"})
        assert client.error() == (504, "first_byte_timeout")
    record = network.daemon.record("deaf")
    assert (record["attempts"], record["bytes_in"]) == (1, len(body))
    assert at_rest(network.daemon)
