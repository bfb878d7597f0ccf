"""Backends that fail, stall, are busy and recover, over real sockets."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.gateway.conftest import Start
from tests.gateway.raw_client import Cut, RawClient, chat_body, request_bytes
from tests.gateway.test_balancing import named, settings
from tests.scripted_backend import Connection, ScriptedBackend, event

TOKEN = event('{"choices":[{"index":0,"delta":{"content":"a"}}]}')
NO_CHECKS = {"enabled": False}


def backends(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """Ask for the state of the backends."""
    with RawClient(daemon.port) as client:
        client.send(request_bytes(b"", "/ready", method="GET", key=""))
        return {one["name"]: one for one in json.loads(client.answer()[1])["backends"]}


def wait_for(daemon: Daemon, name: str, **wanted: object) -> None:
    """Wait until a backend is said to be like that."""
    end = time.monotonic() + 30
    while True:
        seen = backends(daemon)[name]
        if all(seen[key] == value for key, value in wanted.items()):
            return
        assert time.monotonic() < end, seen
        time.sleep(0.05)


def ask(daemon: Daemon, times: int = 1) -> Counter[tuple[int, bytes]]:
    """Send requests one after the other; count the answers."""
    answers: Counter[tuple[int, bytes]] = Counter()
    with RawClient(daemon.port) as client:
        for _ in range(times):
            answers[client.post(chat_body()).answer()] += 1
    return answers


def answering(status: bytes, body: bytes = b"{}") -> Callable[[Connection], None]:
    """Make a backend that always answers so."""

    def script(connection: Connection) -> None:
        while connection.read_request() is not None:
            connection.answer(body, status)

    return script


class Held:
    """A backend whose answers the test decides, one by one.

    Attributes:
        status: What it answers with while nothing is held.
        holding: Whether requests wait.
        waiting: Counts the requests that wait.
    """

    def __init__(self) -> None:
        self.status = b"200 OK"
        self.holding = False
        self.waiting = threading.Semaphore(0)
        self._go = threading.Event()

    def __call__(self, connection: Connection) -> None:
        while connection.read_request() is not None:
            if self.holding:
                self.waiting.release()
                self._go.wait(30)
            connection.answer(b"held", self.status)

    def go(self) -> None:
        """Let those that wait go on, and hold no others."""
        self.holding = False
        self._go.set()


class Busy:
    """A backend that streams until it is told to stop, and answers checks until it is told not to.

    Attributes:
        streams: Whether tokens flow.
        answers: Whether checks are answered.
        given_up: When checks that were not were given up.
    """

    def __init__(self) -> None:
        self.streams = self.answers = True
        self.given_up: list[float] = []

    def __call__(self, connection: Connection) -> None:
        request = connection.read_request()
        assert request is not None
        if request.request_line.startswith("POST"):
            connection.stream_head()
            while self.streams:
                connection.chunk(TOKEN)
                time.sleep(0.02)
            connection.wait_for_close(60)
        elif self.answers:
            connection.answer(b"{}", more=b"Connection: close\r\n")
        else:
            self.given_up.append(connection.wait_for_close(60))


@pytest.mark.slow
def test_busy_backend_stays_while_its_tokens_flow(start: Start) -> None:
    """It answers no check for many times their timeout: it is up as long as its stream moves."""
    busy = Busy()
    with ScriptedBackend(busy, raw=True) as backend:
        daemon = start(
            settings(backend, "busy", models=["m"]),
            health_check={"interval": "1s", "timeout": "500ms", "unhealthy_threshold": 1},
        )
        with RawClient(daemon.port) as client:
            assert client.post(chat_body(stream=True)).head() == 200
            pieces = client.pieces()
            next(pieces)
            busy.answers = False
            states = set()
            while len(busy.given_up) < 4:
                next(pieces)
                states.add(backends(daemon)["busy"]["state"])
            assert states == {"up"}
            assert "is down" not in daemon.log()
            busy.streams = False
            wait_for(daemon, "busy", state="down")
            daemon.wait_for_log("backend busy is down: no answer within 0.5 s")


def test_stalling_backend_is_left_out_although_it_says_that_it_is_well(start: Start) -> None:
    """Its checks pass at once; as soon as three of its streams have stalled it gets no more."""

    def stall(connection: Connection) -> None:
        connection.read_request()
        connection.stream_head()
        connection.chunk(TOKEN)
        connection.wait_for_close(60)

    with ScriptedBackend(stall) as bad, ScriptedBackend(named(b"good")) as good:
        daemon = start(
            settings(bad, "bad", models=["m"], stall_timeout="1s"),
            settings(good, "good", models=["m"]),
            routing={
                "load_balance": "round_robin",
                "breaker": {"failures": 3, "open_for": "10m"},
            },
            health_check={"interval": "100ms", "timeout": "5s"},
        )
        with ExitStack() as stack:
            clients = [stack.enter_context(RawClient(daemon.port, 30)) for _ in range(6)]
            for client in clients:
                client.post(chat_body(stream=True))
            stalled = 0
            for client in clients:
                assert client.head() == 200
                try:
                    client.body()
                except Cut:
                    stalled += 1
            assert stalled == 3
        wait_for(daemon, "bad", state="up", breaker="open", ejected=True, times_opened=1)
        assert ask(daemon, 6) == {(200, b"good"): 6}
        assert len(bad.seen) == 3
        assert backends(daemon)["good"]["breaker"] == "closed"
        daemon.wait_for_log("the breaker of backend bad opened for 600 s")


def test_a_thousand_bad_requests_move_nothing(start: Start) -> None:
    """What is wrong with requests is not the backends' fault, even when each of them says 400."""
    with ExitStack() as stack:
        pool = [stack.enter_context(ScriptedBackend(answering(b"400 Bad Request"))) for _ in "ab"]
        daemon = start(
            *(settings(one, name, models=["m"]) for one, name in zip(pool, "ab", strict=True)),
            health_check=NO_CHECKS,
        )
        assert ask(daemon, 1000) == {(400, b"{}"): 1000}
        for one in backends(daemon).values():
            assert (one["breaker"], one["ejected"], one["times_opened"]) == ("closed", False, 0)
            assert one["in_flight"] == 0
        assert all(len(one.seen) > 300 for one in pool)


def test_half_open_takes_one_request(start: Start) -> None:
    """A client that leaves gives the probe back; a good one brings the backend back, slowly."""
    held = Held()
    held.status = b"500 Internal Server Error"
    with ScriptedBackend(held) as sick, ScriptedBackend(named(b"good")) as good:
        daemon = start(
            settings(sick, "sick", models=["m"]),
            settings(good, "good", models=["m"]),
            routing={
                "load_balance": "round_robin",
                "breaker": {"failures": 2, "open_for": "300ms"},
                "slow_start": "10m",
            },
            health_check=NO_CHECKS,
        )
        assert ask(daemon, 4) == {(500, b"held"): 2, (200, b"good"): 2}
        wait_for(daemon, "sick", breaker="half_open")
        held.holding, held.status = True, b"200 OK"
        with RawClient(daemon.port) as leaves, RawClient(daemon.port, 30) as stays:
            leaves.post(chat_body())
            assert held.waiting.acquire(timeout=30)
            assert ask(daemon, 5) == {(200, b"good"): 5}
            leaves.close()
            wait_for(daemon, "sick", in_flight=0)
            assert backends(daemon)["sick"]["breaker"] == "half_open"
            stays.post(chat_body())
            assert held.waiting.acquire(timeout=30)
            assert ask(daemon, 5) == {(200, b"good"): 5}
            held.go()
            assert stays.answer() == (200, b"held")
        wait_for(daemon, "sick", breaker="closed", ejected=False, share_percent=10)
        assert ask(daemon, 4) == {(200, b"held"): 2, (200, b"good"): 2}


@pytest.mark.parametrize(("max_ejected", "used"), [("100%", 1), ("50%", 1), ("0%", 2)])
def test_when_all_fail_the_least_bad_is_tried(start: Start, max_ejected: str, used: int) -> None:
    """Its own answer, bad as it is, and never a 503 of ours for want of backends."""
    with ExitStack() as stack:
        pool = [
            stack.enter_context(
                ScriptedBackend(answering(b"500 Internal Server Error", name.encode()))
            )
            for name in "ab"
        ]
        daemon = start(
            *(settings(one, name, models=["m"]) for one, name in zip(pool, "ab", strict=True)),
            routing={
                "load_balance": "round_robin",
                "breaker": {"failures": 2, "open_for": "10m", "max_ejected": max_ejected},
            },
            health_check=NO_CHECKS,
        )
        assert sum(ask(daemon, 4).values()) == 4
        assert {one["breaker"] for one in backends(daemon).values()} == {"open"}
        assert {status for status, _ in ask(daemon, 6)} == {500}
        ejected = [one["ejected"] for one in backends(daemon).values()]
        assert ejected.count(False) == used


def test_conversations_stay_where_they_are(start: Start) -> None:
    """By the client's session, else by its key and prompt; on another gateway likewise."""
    with ExitStack() as stack:
        pool = [
            settings(stack.enter_context(ScriptedBackend(named(name.encode()))), name, models=["m"])
            for name in "abc"
        ]
        routing = {"load_balance": "session_affinity"}

        def places(daemon: Daemon) -> list[bytes]:
            with RawClient(daemon.port) as client:
                return [
                    client.post(chat_body(), headers={"X-Session-Id": f"ses_{number}"}).answer()[1]
                    for number in range(12)
                ] + [
                    client.post(
                        chat_body(messages=[{"role": "user", "content": text}, *more])
                    ).answer()[1]
                    for text in ("one", "two", "three", "four")
                    for more in ([], [{"role": "assistant", "content": "x"}])
                ]

        first = start(*pool, routing=routing, health_check=NO_CHECKS)
        seen = places(first)
        assert set(seen[:12]) == {b"a", b"b", b"c"}
        assert seen[12::2] == seen[13::2]
        assert places(first) == seen
        assert places(start(*reversed(pool), routing=routing, health_check=NO_CHECKS)) == seen
