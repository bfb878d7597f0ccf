"""Several backends: who gets what, and what health checks change."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.daemon import Daemon
from tests.gateway.conftest import Start
from tests.gateway.raw_client import RawClient, chat_body, request_bytes
from tests.scripted_backend import Connection, ScriptedBackend


def named(name: bytes) -> Callable[[Connection], None]:
    """Make a backend that answers with its name."""

    def script(connection: Connection) -> None:
        while connection.read_request() is not None:
            connection.answer(name)

    return script


def settings(backend: ScriptedBackend, name: str, **more: object) -> dict[str, object]:
    """Give a backend's configuration."""
    return {"name": name, "url": backend.url, **more}


def ask(daemon: Daemon, times: int, model: str = "m") -> Counter[bytes]:
    """Send requests one after the other; count who answered."""
    answered: Counter[bytes] = Counter()
    with RawClient(daemon.port) as client:
        for _ in range(times):
            status, body = client.post(chat_body(model=model)).answer()
            assert status == 200, body
            answered[body] += 1
    return answered


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("round_robin", {b"a": 20, b"b": 20}), ("weighted", {b"a": 30, b"b": 10})],
)
def test_shares(start: Start, strategy: str, expected: dict[bytes, int]) -> None:
    """Each strategy gives each backend its exact share."""
    with ScriptedBackend(named(b"a")) as a, ScriptedBackend(named(b"b")) as b:
        daemon = start(
            settings(a, "a", weight=3, models=["m"]),
            settings(b, "b", models=["m"]),
            routing={"load_balance": strategy},
        )
        assert ask(daemon, 40) == expected


def test_least_connections(start: Start) -> None:
    """A busy backend gets nothing while an idle one is there."""

    def busy(connection: Connection) -> None:
        while connection.read_request() is not None:
            connection.stream_head()
            connection.wait_for_close()

    with ScriptedBackend(busy) as slow, ScriptedBackend(named(b"idle")) as idle:
        daemon = start(
            settings(slow, "slow", models=["m", "slow"]), settings(idle, "idle", models=["m"])
        )
        with RawClient(daemon.port) as stream:
            stream.post(chat_body(model="slow", stream=True))
            stream.head()
            assert ask(daemon, 10) == {b"idle": 10}


def test_models_decide_where_to(start: Start) -> None:
    """Globs, the backend's own list, aliases and upstream names."""
    with (
        ScriptedBackend(named(b"a"), models=("listed",)) as a,
        ScriptedBackend(named(b"b")) as b,
    ):
        daemon = start(
            settings(a, "a"),
            settings(b, "b", models=["glob-*"]),
            models=[
                {"id": "first", "upstream_model": "listed", "aliases": ["one"], "context": 1000},
                {"id": "second", "upstream_model": "glob-2", "backends": ["b"], "output": 10},
            ],
        )
        daemon.wait_for_log("lists 1 models")
        assert ask(daemon, 2, "one") == {b"a": 2}
        assert ask(daemon, 2, "second") == {b"b": 2}
        assert json.loads(a.seen[0].body)["model"] == "listed"
        assert json.loads(b.seen[0].body)["model"] == "glob-2"
        with RawClient(daemon.port) as client:
            assert client.post(chat_body(model="listed")).error() == (404, "model_not_found")
            client.send(request_bytes(b"", "/v1/models", method="GET"))
            cards = json.loads(client.answer()[1])["data"]
        assert [card["id"] for card in cards] == ["first", "second"]
        assert cards[0]["max_model_len"] == 1000
        assert cards[1]["max_output_tokens"] == 10


def ready(daemon: Daemon) -> tuple[int, dict[str, str]]:
    """Ask whether the daemon is ready; give the states of its backends."""
    with RawClient(daemon.port) as client:
        status, body = client.send(request_bytes(b"", "/ready", method="GET", key="")).answer()
    return status, {one["name"]: one["state"] for one in json.loads(body)["backends"]}


def wait_until_ready_says(daemon: Daemon, status: int, states: dict[str, str]) -> None:
    """Wait for a state."""
    end = time.monotonic() + 10
    while ready(daemon) != (status, states):
        assert time.monotonic() < end, ready(daemon)
        time.sleep(0.05)


def test_health(start: Start) -> None:
    """A backend that dies is taken out, and comes back when it lives again."""
    checks = {"interval": "100ms", "timeout": "1s", "unhealthy_threshold": 2}
    with ScriptedBackend(named(b"a")) as a:
        b = ScriptedBackend(named(b"b"))
        daemon = start(
            settings(a, "a", models=["m"]),
            settings(b, "b", models=["m", "only-b"]),
            health_check=checks,
            routing={"load_balance": "round_robin"},
        )
        wait_until_ready_says(daemon, 200, {"a": "up", "b": "up"})
        assert ask(daemon, 4) == {b"a": 2, b"b": 2}
        port = b.port
        b.stop()
        wait_until_ready_says(daemon, 200, {"a": "up", "b": "down"})
        assert ask(daemon, 4) == {b"a": 4}
        with RawClient(daemon.port) as client:
            assert client.post(chat_body(model="only-b")).error() == (503, "no_backend")
            assert int(client.headers["retry-after"]) > 0
        with ScriptedBackend(named(b"b again"), port=port):
            wait_until_ready_says(daemon, 200, {"a": "up", "b": "up"})
            assert ask(daemon, 1, "only-b") == {b"b again": 1}
        a.stop()
        wait_until_ready_says(daemon, 503, {"a": "down", "b": "down"})
    daemon.wait_for_log("is down")
