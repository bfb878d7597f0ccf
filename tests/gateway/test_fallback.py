"""What is tried when no backend of a model can take a request, and how much, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from llmproxy.wire.retry_budget import RetryBudget
from tests.daemon import KEY, Daemon, free_port, gateway_config
from tests.fault_proxy import FaultProxy
from tests.gateway.conftest import Start
from tests.gateway.ends import at_rest
from tests.gateway.faults import BUSY
from tests.gateway.raw_client import RawClient, chat_body
from tests.gateway.test_balancing import named, settings, wait_until_ready_says
from tests.gateway.test_breakers import NO_CHECKS, answering
from tests.scripted_backend import Connection, ScriptedBackend

NARROW_KEY = "sk-test-key-2"
GOOD = b'{"good":true}'
MODELS = [
    {"id": "small", "upstream_model": "small-model", "backends": ["good"]},
    {"id": "dead", "backends": ["dead"], "fallback": ["small"]},
    {"id": "busy", "backends": ["busy"], "fallback": ["small"]},
    {"id": "full", "backends": ["full"], "fallback": ["small"]},
    {"id": "far", "backends": ["dead"], "fallback": ["dead"]},
]


def holding(connection: Connection) -> None:
    """Begin a stream, and leave it open."""
    connection.read_request()
    connection.stream_head()
    connection.wait_for_close(60)


class World:
    """A daemon with models that stand in for others.

    Attributes:
        daemon: The daemon.
        good: The backend of the model that stands in.
    """

    def __init__(self, daemon: Daemon, good: ScriptedBackend) -> None:
        self.daemon = daemon
        self.good = good

    def asked_for(self, request_id: str) -> list[str]:
        """Say for which models the good backend was asked for a request."""
        return [
            json.loads(seen.body)["model"]
            for seen in self.good.seen
            if seen.header("X-Request-ID") == request_id
        ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Give a world that these tests share."""
    with ExitStack() as stack:
        good = stack.enter_context(ScriptedBackend(named(GOOD)))
        busy = stack.enter_context(ScriptedBackend(answering(b"503 Service Unavailable", BUSY)))
        full = stack.enter_context(ScriptedBackend(holding))
        dead = stack.enter_context(FaultProxy(good.port))
        dead.refuse()
        config = gateway_config(
            free_port(),
            [
                settings(good, "good"),
                settings(busy, "busy"),
                settings(full, "full", max_concurrent=1),
                {"name": "dead", "url": f"http://{dead.addr}"},
            ],
            models=MODELS,
            health_check=NO_CHECKS,
            routing={
                "breaker": {"failures": 0},
                "retry": {"initial_wait": "10ms", "budget": "100%"},
                "queue": {"max_wait": "500ms"},
            },
        )
        (source,) = config["auth"]["pipeline"]
        source["static"]["keys"].append(
            {"key": NARROW_KEY, "name": "narrow", "allowed_models": ["dead", "full"]}
        )
        yield World(stack.enter_context(Daemon(tmp_path_factory.mktemp("fallback"), config)), good)


@pytest.mark.parametrize(("model", "why"), [("dead", "connect_failed"), ("busy", "status_503")])
def test_when_all_failed(world: World, model: str, why: str) -> None:
    """The model that stands in answers, asked under its own name."""
    with RawClient(world.daemon.port) as client:
        client.post(chat_body(model=model), headers={"X-Request-ID": f"instead-{model}"})
        assert client.answer() == (200, GOOD)
    assert world.asked_for(f"instead-{model}") == ["small-model"]
    record = world.daemon.record(f"instead-{model}")
    assert (record["outcome"], record["attempts"]) == ("ok", 2)
    assert record["tried"] == [{"backend": model, "error": why}]
    assert (record["model"], record["upstream_model"]) == (model, "small-model")
    assert record["backend"] == "good"
    assert at_rest(world.daemon)


def test_when_it_waited_in_vain(world: World) -> None:
    """First there is the queue, for what was asked for is wanted more; a key without it is told."""
    with RawClient(world.daemon.port) as holder, RawClient(world.daemon.port) as client:
        assert holder.post(chat_body(model="full", stream=True)).head() == 200
        client.post(chat_body(model="full"), headers={"X-Request-ID": "waited"})
        assert client.answer() == (200, GOOD)
        client.post(chat_body(model="full"), key=NARROW_KEY)
        assert client.error() == (503, "queue_timeout")
    record = world.daemon.record("waited")
    assert (record["attempts"], record["tried"]) == (1, [])
    assert record["queue_ms"] >= 500
    assert at_rest(world.daemon)


@pytest.mark.parametrize(
    ("model", "key"), [("dead", NARROW_KEY), ("far", KEY)], ids=["not-allowed", "no-chain"]
)
def test_who_does_not_stand_in(world: World, model: str, key: str) -> None:
    """A model that the key may not use, and one that stands in for the one that stands in."""
    request_id = f"nobody-{model}"
    with RawClient(world.daemon.port) as client:
        client.post(chat_body(model=model), key=key, headers={"X-Request-ID": request_id})
        assert client.error() == (502, "connect_failed")
    assert world.asked_for(request_id) == []
    record = world.daemon.record(request_id)
    assert {one["backend"] for one in record["tried"]} == {"dead"}
    assert (record["attempts"], record["upstream_model"]) == (3, model)


def test_when_all_are_down(start: Start) -> None:
    """Then nothing else is tried first."""
    with ScriptedBackend(named(GOOD)) as good, FaultProxy(good.port) as dead:
        dead.refuse()
        daemon = start(
            {"name": "dead", "url": f"http://{dead.addr}", "models": ["large"]},
            settings(good, "good", models=["small"]),
            health_check={"interval": "100ms", "unhealthy_threshold": 1},
            routing={"fallback": ["small"]},
        )
        wait_until_ready_says(daemon, 200, {"dead": "down", "good": "up"})
        with RawClient(daemon.port) as client:
            client.post(chat_body(model="large"), headers={"X-Request-ID": "down"})
            assert client.answer() == (200, GOOD)
        record = daemon.record("down")
        assert (record["attempts"], record["tried"]) == (1, [])
        assert (record["model"], record["upstream_model"]) == ("large", "small")


def test_budget(start: Start) -> None:
    """Each request pays a tenth of a try: soon the first failure is the answer."""
    with ScriptedBackend(named(GOOD)) as good, FaultProxy(good.port) as dead:
        dead.refuse()
        daemon = start(
            {"name": "dead", "url": f"http://{dead.addr}", "models": ["m"], "weight": 1000},
            settings(good, "good", models=["m"]),
            health_check=NO_CHECKS,
            routing={
                "load_balance": "weighted",
                "breaker": {"failures": 0},
                "retry": {"budget": "10%"},
            },
        )
        budget = RetryBudget(0.1)
        expected, statuses = [], []
        with RawClient(daemon.port) as client:
            for _ in range(40):
                budget.pay_in()
                expected.append(200 if budget.take() else 502)
                statuses.append(client.post(chat_body()).answer()[0])
        assert statuses == expected
        assert 10 < expected.count(200) < 20
        assert len(good.seen) == expected.count(200)
        assert at_rest(daemon)
