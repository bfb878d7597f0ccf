"""Requests that wait for room at a backend, over real sockets."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import ExitStack
from typing import Any
from urllib.request import urlopen

import pytest

from tests.daemon import KEY, Daemon, free_port
from tests.gateway.conftest import Start
from tests.gateway.ends import at_rest
from tests.gateway.raw_client import RawClient, chat_body
from tests.gateway.test_balancing import named, settings
from tests.gateway.test_breakers import NO_CHECKS
from tests.scripted_backend import Connection, ScriptedBackend

OTHER_KEY = "sk-test-key-2"
AUTH = {
    "pipeline": [
        {
            "name": "static",
            "type": "static",
            "static": {
                "keys": [{"key": KEY, "name": "greedy"}, {"key": OTHER_KEY, "name": "modest"}]
            },
        }
    ]
}
ANSWER = b'{"ok":true}'


class OneByOne:
    """A backend that answers each request when it is told to.

    Attributes:
        came: The ids of the requests, in the order in which they came.
        most: How many it had at once, at most.
    """

    def __init__(self) -> None:
        self.came: queue.Queue[str] = queue.Queue()
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        self._may_go = threading.Semaphore(0)

    def __call__(self, connection: Connection) -> None:
        while (request := connection.read_request()) is not None:
            self._count(1)
            self.came.put(request.header("X-Request-ID"))
            assert self._may_go.acquire(timeout=60)
            self._count(-1)
            connection.answer(ANSWER)

    def _count(self, change: int) -> None:
        with self._lock:
            self._now += change
            self.most = max(self.most, self._now)

    def next(self) -> str:
        """Wait for a request; give its id."""
        return self.came.get(timeout=30)

    def go(self) -> None:
        """Answer one."""
        self._may_go.release()


def wait_for_waiting(daemon: Daemon, count: int) -> None:
    """Wait until so many requests wait."""
    end = time.monotonic() + 30
    while True:
        with urlopen(f"{daemon.url}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        (value,) = (line.split()[1] for line in lines if line.startswith("llmproxy_queue_waiting"))
        if float(value) == count:
            return
        assert time.monotonic() < end, value
        time.sleep(0.02)


def small(backend: ScriptedBackend) -> dict[str, Any]:
    """Give the settings of a backend with room for one."""
    return settings(backend, "small", models=["m"], max_concurrent=1)


def test_one_keys_requests_do_not_stop_anothers(start: Start) -> None:
    """With twenty of one key before it, another's is the second or third, never the last."""
    one_by_one = OneByOne()
    with ScriptedBackend(one_by_one) as backend, ExitStack() as stack:
        daemon = start(small(backend), auth=AUTH, health_check=NO_CHECKS)
        clients = [stack.enter_context(RawClient(daemon.port, 60)) for _ in range(21)]
        for number, client in enumerate(clients[:20]):
            client.post(chat_body(), headers={"X-Request-ID": f"greedy-{number}"})
        wait_for_waiting(daemon, 19)
        clients[20].post(chat_body(), key=OTHER_KEY, headers={"X-Request-ID": "modest"})
        wait_for_waiting(daemon, 20)
        order = []
        for _ in clients:
            order.append(one_by_one.next())
            one_by_one.go()
        assert order.index("modest") in (1, 2)
        assert {client.answer() for client in clients} == {(200, ANSWER)}
        assert one_by_one.most == 1
        records = [daemon.record(request_id) for request_id in order]
        waited = {record["request_id"]: record["queue_ms"] for record in records}
        assert waited["modest"] < waited[order[-1]]
        assert {record["outcome"] for record in records} == {"ok"}
        assert at_rest(daemon)


def test_a_key_that_asks_for_the_longest_answers(start: Start) -> None:
    """Has its turns by what its answers were, though another never ceases to wait."""
    one_by_one = OneByOne()
    with ScriptedBackend(one_by_one) as backend, ExitStack() as stack:
        daemon = start(small(backend), auth=AUTH, health_check=NO_CHECKS)
        for number in range(20):
            client = stack.enter_context(RawClient(daemon.port, 60))
            client.post(chat_body(), headers={"X-Request-ID": f"many-{number}"})
        wait_for_waiting(daemon, 19)
        others = 0
        for _ in range(3):
            with RawClient(daemon.port, 30) as client:
                client.post(
                    chat_body(max_tokens=10**9), key=OTHER_KEY, headers={"X-Request-ID": "longest"}
                )
                wait_for_waiting(daemon, 20 - others)
                order = [one_by_one.next()]
                while order[-1] != "longest":
                    one_by_one.go()
                    order.append(one_by_one.next())
                assert len(order) <= 3
                others += len(order) - 1
                one_by_one.go()
                assert client.answer() == (200, ANSWER)


def test_a_client_that_leaves_the_queue(start: Start) -> None:
    """Its request reaches nobody, and the next one has its turn."""
    one_by_one = OneByOne()
    with ScriptedBackend(one_by_one) as backend:
        daemon = start(small(backend), health_check=NO_CHECKS)
        with RawClient(daemon.port, 30) as first, RawClient(daemon.port, 30) as last:
            first.post(chat_body(), headers={"X-Request-ID": "first"})
            assert one_by_one.next() == "first"
            with RawClient(daemon.port) as leaves:
                leaves.post(chat_body(), headers={"X-Request-ID": "leaves"})
                wait_for_waiting(daemon, 1)
                last.post(chat_body(), headers={"X-Request-ID": "last"})
                wait_for_waiting(daemon, 2)
            wait_for_waiting(daemon, 1)
            record = daemon.record("leaves")
            assert (record["outcome"], record["status"]) == ("client_abort", 499)
            assert (record["attempts"], record["tried"], record["backend"]) == (0, [], "")
            one_by_one.go()
            assert first.answer() == (200, ANSWER)
            assert one_by_one.next() == "last"
            one_by_one.go()
            assert last.answer() == (200, ANSWER)
        assert len(backend.seen) == 2
        assert at_rest(daemon)


@pytest.mark.parametrize("why", ["breaker", "rest"])
def test_room_that_time_makes(start: Start, why: str) -> None:
    """Whoever waits goes to the backend whose time has come, though nobody else comes or goes."""
    one_by_one = OneByOne()
    well = threading.Event()

    def sick(connection: Connection) -> None:
        while connection.read_request() is not None:
            if well.is_set():
                connection.answer(ANSWER)
            elif why == "breaker":
                connection.answer(b"{}", b"500 Internal Server Error")
            else:
                connection.answer(b"{}", b"429 Busy", more=b"Retry-After: 2\r\n")

    with ScriptedBackend(one_by_one) as busy, ScriptedBackend(sick) as other, ExitStack() as stack:
        daemon = start(
            small(busy),
            settings(other, "other", models=["m"], max_concurrent=1),
            health_check=NO_CHECKS,
            routing={
                "load_balance": "round_robin",
                "retry": {"enabled": False},
                "breaker": {"failures": 1, "open_for": "2s"},
            },
        )
        holds, sees, waits = (stack.enter_context(RawClient(daemon.port, 30)) for _ in range(3))
        holds.post(chat_body())
        one_by_one.next()
        assert sees.post(chat_body()).answer()[0] == (500 if why == "breaker" else 429)
        well.set()
        waits.post(chat_body())
        wait_for_waiting(daemon, 1)
        assert waits.answer() == (200, ANSWER)
        one_by_one.go()
        assert holds.answer() == (200, ANSWER)
        assert at_rest(daemon)


def test_a_backend_that_could_not_be_reached_is_tried_again(start: Start) -> None:
    """By who waits for the other meanwhile; that one stops nobody of its key who comes later."""
    one_by_one = OneByOne()
    port = free_port()
    with ScriptedBackend(one_by_one) as busy, ExitStack() as stack:
        daemon = start(
            small(busy),
            {"name": "away", "url": f"http://127.0.0.1:{port}", "models": ["m"]},
            health_check=NO_CHECKS,
            routing={"load_balance": "round_robin", "retry": {"max_wait": "2s"}},
        )
        holds, waits, later = (stack.enter_context(RawClient(daemon.port, 30)) for _ in range(3))
        holds.post(chat_body())
        one_by_one.next()
        waits.post(chat_body(), headers={"X-Request-ID": "waits"})
        wait_for_waiting(daemon, 1)
        back = stack.enter_context(ScriptedBackend(named(b"back"), port=port))
        assert later.post(chat_body()).answer() == (200, b"back")
        assert waits.answer() == (200, b"back")
        assert len(back.seen) == 2
        record = daemon.record("waits")
        assert (record["attempts"], record["backend"]) == (2, "away")
        one_by_one.go()
        assert holds.answer() == (200, ANSWER)
        assert at_rest(daemon)


def test_a_full_queue(start: Start) -> None:
    """Who has most makes room for who has less; who waits too long is told; both, when to come."""
    one_by_one = OneByOne()
    with ScriptedBackend(one_by_one) as backend, ExitStack() as stack:
        daemon = start(
            small(backend),
            auth=AUTH,
            health_check=NO_CHECKS,
            routing={"queue": {"max_waiting": 2, "max_wait": "5s"}},
        )
        names = ("holds", "waits", "too-many", "modest")
        clients = {name: stack.enter_context(RawClient(daemon.port, 60)) for name in names}

        def post(name: str, key: str = KEY) -> None:
            clients[name].post(chat_body(), key=key, headers={"X-Request-ID": name})

        post("holds")
        assert one_by_one.next() == "holds"
        post("waits")
        wait_for_waiting(daemon, 1)
        post("too-many")
        wait_for_waiting(daemon, 2)
        post("modest", OTHER_KEY)
        for name, code in (
            ("too-many", "queue_full"),
            ("waits", "queue_timeout"),
            ("modest", "queue_timeout"),
        ):
            client = clients[name]
            assert client.error() == (503, code)
            assert 1 <= int(client.headers["retry-after"]) <= 60
            record = daemon.record(name)
            assert (record["outcome"], record["status"]) == ("rejected", 503)
            assert (record["error_code"], record["attempts"]) == (code, 0)
            assert (record["duration_ms"] >= 5000) == (code == "queue_timeout")
            assert record["queue_ms"] == record["duration_ms"]
        one_by_one.go()
        assert clients["holds"].answer() == (200, ANSWER)
        assert len(backend.seen) == 1
        assert at_rest(daemon)
