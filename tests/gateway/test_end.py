"""SIGTERM: what load balancers see, who is still served, and how it is over."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon, free_port, gateway_config
from tests.gateway.held import FIRST, LAST, Held
from tests.gateway.raw_client import Cut, RawClient, chat_body, request_bytes
from tests.scripted_backend import ScriptedBackend

READY = request_bytes(b"", "/ready", method="GET")


class Ending:
    """A daemon over a held model, to be ended.

    Attributes:
        held: The model.
        daemon: The daemon.
    """

    def __init__(self, folder: Path, stack: ExitStack, **server: Any) -> None:
        self.held = Held()
        stack.callback(self.held.let.set)
        backend = stack.enter_context(ScriptedBackend(self.held))
        config = gateway_config(free_port(), [{"name": "b0", "url": backend.url}])
        config["server"].update(server)
        self.daemon = stack.enter_context(Daemon(folder, config))
        self.daemon.wait_for_log("lists", 20)

    def end(self) -> None:
        """Send SIGTERM, and wait until it shows."""
        self.daemon.signal(signal.SIGTERM)
        self.daemon.wait_for_log("received SIGTERM", 20)

    def exit_status(self) -> int:
        """Wait for the daemon's end."""
        assert self.daemon.process is not None
        return self.daemon.process.wait(60)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is to be closed in the end."""
    with ExitStack() as made:
        yield made


def test_load_balancers_are_told_before_anybody_is_refused(
    tmp_path: Path, stack: ExitStack
) -> None:
    """/ready is 503 at once; requests are served meanwhile, each the last on its connection."""
    ending = Ending(tmp_path, stack, drain_delay="10m")
    kept, fresh = (stack.enter_context(RawClient(ending.daemon.port, 30)) for _ in range(2))
    assert kept.post(chat_body()).answer()[0] == 200
    assert "connection" not in kept.headers
    ending.end()
    with RawClient(ending.daemon.port, 30) as balancer:
        status, body = balancer.send(READY).answer()
        assert (status, json.loads(body)["status"]) == (503, "draining")
    for client in (kept, fresh):
        assert client.post(chat_body()).answer()[0] == 200
        assert client.headers["connection"] == "close"
        assert client.rest() == (b"", False)
    with RawClient(ending.daemon.port, 30) as late:
        assert late.post(chat_body()).answer()[0] == 200
    ending.daemon.signal(signal.SIGTERM)  # nobody waits for the rest of the delay
    assert ending.exit_status() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ending.daemon.port), 5)


def test_who_has_just_connected_is_served(tmp_path: Path, stack: ExitStack) -> None:
    """Idle connections close with the listeners, but not those that nothing was asked on yet."""
    ending = Ending(tmp_path, stack)
    used, fresh = (stack.enter_context(RawClient(ending.daemon.port, 30)) for _ in range(2))
    fresh.send(request_bytes(chat_body())[:10])
    assert used.post(chat_body()).answer()[0] == 200
    ending.daemon.signal(signal.SIGTERM)
    assert fresh.send(request_bytes(chat_body())[10:]).answer()[0] == 200
    assert used.rest() == (b"", False)
    assert fresh.headers["connection"] == "close"
    assert ending.exit_status() == 0


def test_a_second_signal_cuts_the_delay_short_too(tmp_path: Path, stack: ExitStack) -> None:
    """It ends now, and still with status 0; clients are told, and see what is not whole."""
    ending = Ending(tmp_path, stack, drain_delay="10m")
    client = stack.enter_context(RawClient(ending.daemon.port, 30))
    assert client.post(chat_body(stream=True)).head() == 200
    pieces = client.pieces()
    assert next(pieces)[1] == FIRST
    half = stack.enter_context(RawClient(ending.daemon.port, 30))
    half.send(request_bytes(chat_body())[:-1])
    ending.end()
    began_s = time.monotonic()
    ending.daemon.signal(signal.SIGTERM)
    assert ending.exit_status() == 0
    assert time.monotonic() - began_s < 60
    assert b'"code":"draining"' in next(pieces)[1]
    with pytest.raises(Cut):
        next(pieces)
    status, body = half.answer()
    assert (status, json.loads(body)["error"]["code"]) == (503, "draining")
    assert half.headers["retry-after"] == "1"
    assert "2 requests still run and are cut" in ending.daemon.log()
    records = [json.loads(line) for line in ending.daemon.log().splitlines() if line[0] == "{"]
    assert sorted((one["status"], one["outcome"], one["error_code"]) for one in records) == [
        (200, "rejected", "draining"),
        (503, "rejected", "draining"),
    ]


def test_a_second_signal_does_without_the_last_delivery(tmp_path: Path, stack: ExitStack) -> None:
    """A receiver that says nothing gets the record after the next start."""
    receiver = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    webhook = {"url": f"http://127.0.0.1:{receiver.getsockname()[1]}", "batch_interval": "1h"}
    config = gateway_config(
        free_port(),
        [{"name": "b0", "url": f"http://127.0.0.1:{free_port()}", "models": ["*"]}],
        usage={
            "spool_dir": str(tmp_path / "spool"),
            "reporters": [{"name": "billing", "type": "webhook", "webhook": webhook}],
        },
    )
    daemon = stack.enter_context(Daemon(tmp_path, config))
    client = stack.enter_context(RawClient(daemon.port, 30))
    assert client.post(chat_body()).answer()[0] == 502
    daemon.signal(signal.SIGTERM)
    receiver.settimeout(30)
    stack.enter_context(receiver.accept()[0])  # the last try has begun
    daemon.signal(signal.SIGTERM)
    assert daemon.process is not None
    assert daemon.process.wait(60) == 0
    assert "billing does not have everything" in daemon.log()
    assert "(it was broken off)" in daemon.log()


def test_no_reload_while_it_ends(tmp_path: Path, stack: ExitStack) -> None:
    """SIGHUP changes nothing then; the stream comes to its end."""
    ending = Ending(tmp_path, stack)
    client = stack.enter_context(RawClient(ending.daemon.port, 30))
    assert client.post(chat_body(stream=True)).head() == 200
    pieces = client.pieces()
    assert next(pieces)[1] == FIRST
    ending.end()
    ending.daemon.signal(signal.SIGHUP)
    ending.daemon.wait_for_log("is not read any more", 20)
    ending.held.let.set()
    assert b"".join(data for _, data in pieces) == LAST
    assert ending.exit_status() == 0
