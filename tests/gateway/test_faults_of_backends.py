"""Faults of backends over real sockets: what the client sees to the byte, and what is on record.

What a backend breaks is never made to look whole, and nothing is done twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon import KEY, ROOT, Daemon, free_port, gateway_config
from tests.fault_proxy import FaultProxy
from tests.gateway.ends import at_rest, broken, split_farewell
from tests.gateway.faults import (
    BUSY,
    DIED_IDLE,
    EVENT,
    FAULTS,
    LEFT,
    WELL,
    WITHOUT_HEAD,
    Fault,
    answering_early,
    closing_when_reused,
)
from tests.gateway.raw_client import RawClient, chat_body, request_bytes
from tests.gateway.test_balancing import named
from tests.gateway.test_breakers import NO_CHECKS
from tests.scripted_backend import Connection, ScriptedBackend

GOOD = b'{"good":true}'
SCRIPTS = {
    "closing-when-reused": closing_when_reused,
    **{fault.name: fault.script for fault in FAULTS},
}


def faulty(connection: Connection) -> None:
    """Do with the request what its field X-Fault says."""
    request = connection.read_request()
    if request is not None:
        SCRIPTS[request.header("X-Fault")](connection)


class World:
    """A daemon before backends with faults, each of them alone and beside a good one.

    The model ``alone-NAME`` leads to the backend of that name; ``beside-NAME`` to another for the
    same server, and, once that was tried, to the good one.

    Attributes:
        daemon: The daemon.
        good: The good backend.
        scripted: Those that do as they are told, by name.
        early: One that answers before it has read a request.
    """

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        scripted = ("usual", "limited", "loaded", "slow", "stalling")
        self.scripted = {name: stack.enter_context(ScriptedBackend(faulty)) for name in scripted}
        self.good = stack.enter_context(ScriptedBackend(named(GOOD)))
        refusing, ignoring, silent = (
            stack.enter_context(FaultProxy(self.good.port)) for _ in range(3)
        )
        refusing.refuse()
        ignoring.ignore()
        silent.swallow = True
        self.early = stack.enter_context(ScriptedBackend(answering_early))
        plain = stack.enter_context(ScriptedBackend(lambda _: None, raw=True))
        settings: dict[str, dict[str, object]] = {
            "refusing": {"url": f"http://{refusing.addr}"},
            "ignoring": {"url": f"http://{ignoring.addr}", "connect_timeout": "300ms"},
            "early": {"url": self.early.url},
            "plain": {"url": f"https://127.0.0.1:{plain.port}"},
            "silent": {"url": f"https://{silent.addr}", "connect_timeout": "300ms"},
            **{name: {"url": backend.url} for name, backend in self.scripted.items()},
        }
        settings["slow"]["first_byte_timeout"] = "300ms"
        settings["stalling"]["stall_timeout"] = "500ms"
        config = gateway_config(
            free_port(),
            [
                {"name": name, "models": [name], "weight": 1000, **one}
                for at, one in settings.items()
                for name in (f"alone-{at}", f"beside-{at}")
            ]
            + [{"name": "good", "url": self.good.url, "models": ["beside-*"]}],
            health_check=NO_CHECKS,
            routing={
                "load_balance": "weighted",
                "breaker": {"failures": 0},
                "retry": {"max_retries": 1, "initial_wait": "10ms", "budget": "100%"},
            },
        )
        self.daemon = stack.enter_context(Daemon(folder, config))

    def asked_good(self, request_id: str) -> int:
        """Say how often the good backend was asked for a request."""
        return sum(seen.header("X-Request-ID") == request_id for seen in self.good.seen)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Give a world that all these tests share."""
    with ExitStack() as stack:
        yield World(stack, tmp_path_factory.mktemp("faults"))


def left_by(backend: ScriptedBackend, before: int) -> float:
    """Wait until the gateway has cut one more connection than before; give the moment."""
    end = time.monotonic() + 10
    while len(backend.closed_at) == before:
        assert time.monotonic() < end
        time.sleep(0.01)
    return backend.closed_at[before]


@pytest.mark.parametrize("company", ["alone", "beside"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(world: World, fault: Fault, company: str) -> None:
    """Alone, and beside a backend that would do: that is asked only where it says so."""
    request_id = f"{company}-{fault.name}"
    elsewhere = fault.again and company == "beside"
    backend = world.scripted.get(fault.at)
    left_before = len(backend.closed_at) if backend else 0
    with RawClient(world.daemon.port, timeout_s=30) as client:
        client.post(
            chat_body(model=f"{company}-{fault.at}", stream=fault.stream),
            headers={"X-Fault": fault.name, "X-Request-ID": request_id},
        )
        if elsewhere:
            assert client.answer() == (200, GOOD)
        elif fault.body is None:
            assert client.error() == (fault.status, fault.code)
        else:
            assert client.head() == fault.status
            assert client.headers["x-request-id"] == request_id
            assert client.headers.get("retry-after") == fault.retry_after
            if fault.whole:
                assert client.body() == fault.body
            elif fault.stream:
                body, error = split_farewell(broken(client))
                assert body == fault.body
                assert error["code"] == fault.code
            else:
                assert broken(client) == fault.body
        ended_at = time.monotonic()
        if fault.whole or elsewhere:
            client.send(request_bytes(b"", "/health", method="GET", key=""))
            assert client.head() == 200  # the connection serves on

    if fault.cut:
        assert backend is not None
        assert left_by(backend, left_before) - ended_at < 1.0
    record = world.daemon.record(request_id)
    name = f"{company}-{fault.at}"
    first = {"backend": name, "error": fault.code or f"status_{fault.status}"}
    assert world.asked_good(request_id) == elsewhere
    if elsewhere:
        assert (record["status"], record["outcome"], record["error_code"]) == (200, "ok", "")
        assert (record["attempts"], record["tried"]) == (2, [first])
        assert record["backend"] == "good"
    else:
        assert (record["status"], record["outcome"]) == (fault.status, fault.outcome)
        assert record["error_code"] == fault.code
        assert record["attempts"] == fault.attempts
        assert record["backend"] == name
        listed = fault.attempts if fault.line in WITHOUT_HEAD and not fault.headed else 0
        assert record["tried"] == [first] * listed
    assert at_rest(world.daemon)


@pytest.mark.parametrize("company", ["alone", "beside"])
def test_reused_connection_that_dies(world: World, company: str) -> None:
    """The same backend is asked again on a fresh one, and only once."""

    def post(fault: str, request_id: str) -> None:
        client.post(
            chat_body(model=f"{company}-usual"),
            headers={"X-Fault": fault, "X-Request-ID": request_id},
        )

    died = {"backend": f"{company}-usual", "error": "connection_lost"}
    ids = [f"{company}-{name}" for name in ("fresh", "reused", "reused-in-vain")]
    with RawClient(world.daemon.port) as client:
        post("closing-when-reused", ids[0])
        assert client.answer() == (200, WELL)
        post("closing-when-reused", ids[1])
        assert client.answer() == (200, WELL)
        post("closes", ids[2])
        assert client.error() == (502, "connection_lost")
    records = [world.daemon.record(request_id) for request_id in ids]
    assert [record["attempts"] for record in records] == [1, 2, 2]
    assert [record["tried"] for record in records] == [[], [died], [died, died]]
    assert [record["outcome"] for record in records] == ["ok", "ok", "upstream_error"]
    assert not any(map(world.asked_good, ids))
    assert at_rest(world.daemon)


@pytest.mark.parametrize("company", ["alone", "beside"])
def test_answer_to_half_a_request(world: World, company: str) -> None:
    """It is an answer; the rest is not sent there, and another backend gets all of it."""
    body = chat_body(model=f"{company}-early", padding="x" * 16_000_000)
    left_before = len(world.early.closed_at)
    with RawClient(world.daemon.port, timeout_s=60) as client:
        client.post(body, headers={"X-Request-ID": f"{company}-early"})
        assert client.answer() == ((503, BUSY) if company == "alone" else (200, GOOD))
        ended_at = time.monotonic()
        assert left_by(world.early, left_before) - ended_at < 1.0
    record = world.daemon.record(f"{company}-early")
    assert record["attempts"] == (1 if company == "alone" else 2)
    if company == "beside":
        assert record["tried"] == [{"backend": "beside-early", "error": "status_503"}]
        assert world.good.seen[-1].body == body
    assert at_rest(world.daemon)


def test_documentation() -> None:
    """What is tried again stands in docs/balancing.md, line by line."""
    text = (ROOT / "docs" / "balancing.md").read_text().partition("## What is tried again")[2]
    lines = text.partition("\n## ")[0].splitlines()
    cells = [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:]
    assert cells
    assert set(cells) == {fault.line for fault in FAULTS} | {DIED_IDLE, LEFT}
    assert len(cells) == len(set(cells))


def test_cut_towards_an_old_client_is_a_reset(world: World) -> None:
    """Where closing would look like a good end, the connection is reset."""
    body = chat_body(model="alone-usual", stream=True)
    with RawClient(world.daemon.port) as client:
        client.send(
            b"POST /v1/chat/completions HTTP/1.0\r\nAuthorization: Bearer %b\r\n"
            b"X-Fault: stream-closed\r\nContent-Length: %d\r\n\r\n%b"
            % (KEY.encode(), len(body), body)
        )
        assert client.head() == 200
        received, was_reset = client.rest()
    assert received.startswith(EVENT)
    assert was_reset
