"""SIGHUP, and what the daemon knows and owes: breakers, those that wait, certificates, records."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import KEY, Daemon, free_port, gateway_config
from tests.end_to_end.usage_receiver import UsageReceiver
from tests.gateway.held import FIRST, LAST, Held
from tests.gateway.raw_client import RawClient, chat_body, request_bytes
from tests.scripted_backend import Connection, ScriptedBackend

STREAM = chat_body(stream=True)


def begin(port: int) -> RawClient:
    """Ask for a stream, and wait for nothing."""
    return RawClient(port, 60).post(STREAM)


def told_of_backends(port: int) -> dict[str, dict[str, Any]]:
    """Give what ``/ready`` says of each backend."""
    with RawClient(port, 30) as client:
        _, body = client.send(request_bytes(b"", "/ready", method="GET")).answer()
    return {one["name"]: one for one in json.loads(body)["backends"]}


@pytest.fixture
def held() -> Iterator[Held]:
    """A model whose streams are held."""
    made = Held()
    yield made
    made.let.set()


@pytest.mark.parametrize("by", ["max_concurrent", "another backend", "another model"])
def test_a_request_that_waits_has_the_room_that_a_reload_makes(
    tmp_path: Path, held: Held, by: str
) -> None:
    """At once, before anything that runs has ended."""
    with ScriptedBackend(held) as one, ScriptedBackend(held) as two, ExitStack() as stack:
        first: dict[str, Any] = {"name": "b0", "url": one.url, "models": ["m"]}
        first["max_concurrent"] = 1
        config = gateway_config(free_port(), [first])
        config["models"] = [{"id": "m", "backends": ["b0"]}] if by == "another model" else []
        daemon = stack.enter_context(Daemon(tmp_path, config))
        running = stack.enter_context(begin(daemon.port))
        assert running.head() == 200
        waiting = stack.enter_context(begin(daemon.port))
        deadline = time.monotonic() + 20
        while "llmproxy_queue_waiting 1.0" not in metrics(daemon.port):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert daemon.reload(config)  # the same: it goes on waiting
        assert "llmproxy_queue_waiting 1.0" in metrics(daemon.port)
        if by == "max_concurrent":
            config["backends"] = [{**first, "max_concurrent": 2}]
        elif by == "another model":
            config["backends"] = [{**first, "name": "b1", "url": two.url}]
            config["models"] = [{"id": "m", "upstream_model": "new", "backends": ["b1"]}]
        else:
            config["backends"] = [first, {**first, "name": "b1", "url": two.url}]
        assert daemon.reload(config)
        assert waiting.head() == 200
        assert next(waiting.pieces())[1] == FIRST
        assert len(two.seen) == (by != "max_concurrent")
        assert (b'"new"' in b"".join(request.body for request in two.seen)) == ("model" in by)
        held.let.set()
        for client in (running, waiting):
            assert b"".join(data for _, data in client.pieces()).endswith(LAST)


def metrics(port: int) -> str:
    """Scrape the daemon."""
    with RawClient(port, 30) as client:
        status, body = client.send(request_bytes(b"", "/metrics", method="GET")).answer()
    assert status == 200
    return body.decode()


def test_a_breaker_that_is_open_stays_so(tmp_path: Path, held: Held) -> None:
    """Under another weight and other rules, too: what is broken is given nothing."""

    def broken(connection: Connection) -> None:
        connection.read_request()  # and closes without a word

    with ScriptedBackend(held) as good, ScriptedBackend(broken) as bad:
        backends = [
            {"name": "good", "url": good.url, "models": ["m"]},
            {"name": "bad", "url": bad.url, "models": ["m"]},
        ]
        config = gateway_config(
            free_port(),
            backends,
            routing={
                "load_balance": "round_robin",
                "breaker": {"failures": 2, "open_for": "600s"},
                "retry": {"enabled": False},
            },
            health_check={"enabled": False},
        )
        with Daemon(tmp_path, config) as daemon:
            deadline = time.monotonic() + 30
            while told_of_backends(daemon.port)["bad"]["breaker"] != "open":
                assert time.monotonic() < deadline
                with RawClient(daemon.port, 30) as client:
                    client.post(chat_body()).answer()
            before = told_of_backends(daemon.port)
            asked = len(bad.seen)
            config["routing"]["breaker"]["failures"] = 50
            config["backends"] = [backends[1] | {"weight": 7}, backends[0]]
            assert daemon.reload(config)
            after = told_of_backends(daemon.port)
            assert list(after) == ["bad", "good"]
            assert after["bad"] == before["bad"]
            assert (after["bad"]["breaker"], after["bad"]["ejected"]) == ("open", True)
            for _ in range(6):
                with RawClient(daemon.port, 30) as client:
                    assert client.post(chat_body()).answer()[0] == 200
            assert len(bad.seen) == asked


def test_reloads_lose_and_double_no_record(tmp_path: Path, held: Held) -> None:
    """A storm of them under load: each request has its one record, streams that outlive it too."""
    over, names, failures = threading.Event(), set[str](), list[Exception]()
    with ScriptedBackend(held) as backend, UsageReceiver() as receiver, ExitStack() as stack:
        webhook = {"url": receiver.url, "batch_size": 20, "batch_interval": "100ms"}
        config = gateway_config(
            free_port(),
            [{"name": "b0", "url": backend.url}],
            usage={
                "spool_dir": str(tmp_path / "spool"),
                "reporters": [{"name": "billing", "type": "webhook", "webhook": webhook}],
            },
        )
        daemon = stack.enter_context(Daemon(tmp_path, config))
        streams = [stack.enter_context(begin(daemon.port)) for _ in range(5)]
        assert [stream.head() for stream in streams] == [200] * 5

        def ask(number: int) -> None:
            try:
                with RawClient(daemon.port, 60) as client:
                    for count in range(1_000_000):
                        if over.is_set():
                            break
                        name = f"{number}-{count}"
                        client.post(chat_body(), key=KEY, headers={"X-Request-ID": name})
                        assert client.answer()[0] == 200
                        names.add(name)
            except Exception as error:  # noqa: BLE001 - told by the test
                failures.append(error)

        askers = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for asker in askers:
            asker.start()
        for number in range(30):
            config["backends"][0]["weight"] = 1 + number % 3
            config["logging"]["access"]["enabled"] = bool(number % 2)
            config["monitoring"] = {"long_stream_alert": f"{100 + number}s"}
            daemon.write(config)
            daemon.signal(signal.SIGHUP)
            time.sleep(0.03)
        assert daemon.reload(config)
        over.set()
        for asker in askers:
            asker.join(60)
        held.let.set()
        for stream in streams:
            assert b"".join(data for _, data in stream.pieces()).endswith(LAST)
        assert failures == []
        expected = len(names) + len(streams)
        assert expected > 20
        deadline = time.monotonic() + 60
        while len(receiver.records) < expected and time.monotonic() < deadline:
            time.sleep(0.1)
        assert daemon.stop(30) == 0, daemon.log()
    recorded = receiver.ids()
    assert names <= recorded.keys()
    assert len(recorded) == len(receiver.records) == expected
    assert {len(ids) for ids in recorded.values()} == {1}
    assert {record["outcome"] for record in receiver.records} == {"ok"}
