"""Tests of `llmproxy.proxy.tries`: what may follow on what."""

from __future__ import annotations

import json

import attrs
import pytest

from llmproxy.errors import (
    BadResponse,
    ConnectFailed,
    ConnectionDied,
    FirstByteTimeout,
    GatewayError,
    ModelNotFound,
    NoBackend,
    QueueFull,
    QueueTimeout,
    ReusedConnectionDied,
    TlsFailed,
)
from llmproxy.proxy.tries import LAST_TRY_S, rest_of
from llmproxy.values import Backend, ModelRoute, TriedBackend
from llmproxy.wire.backoff import Backoff
from llmproxy.wire.retry_budget import RESERVE, RetryBudget
from tests.proxy.fakes import FakeRequest, FakeResponse, FakeRouter, Sent
from tests.proxy.rig import Rig

NAMES = ("one", "two", "three")


def backend(name: str) -> Backend:
    """Make a backend."""
    return Backend(name=name, url=f"http://{name}.test".encode(), host=f"{name}.test".encode())


class World:
    """A request over three backends, of which the third serves another model only."""

    def __init__(self, *, max_retries: int = 2, budget: float = 0.2, start: bool = True) -> None:
        self.router = FakeRouter(*map(backend, NAMES))
        own = frozenset(("one", "two"))
        self.router.model_route = ModelRoute("m", "m", backends=own, fallback=("gone", "other"))
        self.router.more_routes["other"] = ModelRoute(
            "other", "Other-7B", backends=frozenset(("three",))
        )
        self.rig = Rig(self.router, Backoff(max_retries=max_retries, initial_wait_s=0.1))
        self.rig.path = attrs.evolve(
            self.rig.path, retries=attrs.evolve(self.rig.path.retries, budget=RetryBudget(budget))
        )
        self.request = FakeRequest()
        if start:
            self.rig.begin(self.request)

    def sent(self, name: str) -> Sent:
        """Give the last request that reached a backend."""
        return self.router.upstreams[name].sent[-1]

    def answer(
        self, name: str, code: int = 200, headers: dict[bytes, bytes] | None = None
    ) -> FakeResponse:
        """Let a backend answer; its body has still to come."""
        response = FakeResponse(code, headers, length=2)
        self.sent(name).answer.callback(response)
        return response

    def answer_whole(self, name: str, code: int = 200) -> None:
        """Let a backend answer, and all of it be relayed."""
        response = self.answer(name, code)
        response.piece(b"{}")
        response.end()

    def fail(self, name: str, error: GatewayError) -> None:
        """Let a try fail."""
        self.sent(name).answer.errback(error)

    def reached(self) -> list[str]:
        """Give who was tried, in order."""
        return [lease.backend.name for lease in self.router.leases]


@pytest.mark.parametrize("error", [ConnectFailed(), TlsFailed()])
def test_no_connection_goes_to_another_backend(error: GatewayError) -> None:
    """At once."""
    world = World()
    world.fail("one", error)
    world.answer_whole("two")
    record = world.rig.conclusion()
    assert (record.outcome, record.backend, record.attempts) == ("ok", "two", 2)
    assert record.tried == (TriedBackend("one", error.code),)


@pytest.mark.parametrize(
    "error", [ConnectionDied(), BadResponse(), FirstByteTimeout(), GatewayError()]
)
def test_what_may_have_been_accepted_is_final(error: GatewayError) -> None:
    """The backend may be at work on it."""
    world = World()
    world.fail("one", error)
    assert world.reached() == ["one"]
    assert world.request.status == error.status


def test_a_reused_connection_that_died_is_tried_again_where_it_was() -> None:
    """At once and with the same lease: whatever is left of the budget, whoever waits for room."""
    world = World(budget=0.0)
    world.router.full.add("one")
    world.fail("one", ReusedConnectionDied())
    assert [(lease.backend.name, lease.released) for lease in world.router.leases] == [("one", 0)]
    world.answer_whole("one")
    record = world.rig.conclusion()
    assert (record.outcome, record.attempts) == ("ok", 2)
    assert record.tried == (TriedBackend("one", "connection_lost"),)


def test_no_second_try_on_a_reused_connection_where_none_is_wanted() -> None:
    """Its lease goes back."""
    world = World(max_retries=0)
    world.fail("one", ReusedConnectionDied())
    record = world.rig.conclusion()
    assert (record.status, record.error_code, record.attempts) == (502, "connection_lost", 1)
    assert record.tried == (TriedBackend("one", "connection_lost"),)


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_backend_goes_to_another(code: int) -> None:
    """Nothing of its answer is relayed; it is left alone as long as it asks."""
    world = World()
    response = world.answer("one", code, {b"Retry-After": b"7"})
    assert response.transport.stopped
    assert world.router.leases[0].rest_s == 7.0
    assert world.router.leases[0].evidence == "none"
    world.answer_whole("two")
    record = world.rig.conclusion()
    assert (record.status, record.backend, record.attempts) == (200, "two", 2)
    assert record.tried == (TriedBackend("one", f"status_{code}"),)
    assert world.request.output == b"{}"


def test_a_busy_answer_that_is_whole_costs_no_connection() -> None:
    """What came with the head is all of it."""

    class Whole(FakeResponse):
        def deliverBody(self, protocol: object) -> None:
            super().deliverBody(protocol)
            self.piece(b"{}")
            self.end()

    world = World()
    response = Whole(429, length=2)
    world.sent("one").answer.callback(response)
    assert not response.transport.stopped
    world.answer_whole("two")
    assert world.rig.conclusion().backend == "two"


@pytest.mark.parametrize("code", [429, 503])
def test_where_nobody_is_free_a_busy_answer_is_the_answer(code: int) -> None:
    """Unchanged, with its Retry-After."""
    world = World()
    world.router.full.update(("two", "three"))
    response = world.answer("one", code, {b"Retry-After": b"7"})
    response.piece(b"{}")
    response.end()
    assert world.request.status == code
    assert world.request.headers[b"retry-after"] == b"7"
    assert world.router.leases[0].rest_s == 7.0
    record = world.rig.conclusion()
    assert (record.backend, record.upstream_model, record.attempts) == ("one", "m", 1)


@pytest.mark.parametrize("code", [400, 404, 500, 502])
def test_other_errors_of_a_backend_are_the_answer(code: int) -> None:
    """It had the request."""
    world = World()
    world.answer_whole("one", code)
    assert world.reached() == ["one"]
    assert world.rig.conclusion().status == code


def test_models_that_stand_in() -> None:
    """After all backends of the model; the request goes up under the other's name."""
    world = World(max_retries=5)
    world.fail("one", ConnectFailed())
    world.fail("two", ConnectFailed())
    assert json.loads(world.sent("three").body) == {"model": "Other-7B"}
    world.answer_whole("three")
    record = world.rig.conclusion()
    assert (record.model, record.upstream_model, record.backend) == ("m", "Other-7B", "three")


def test_models_that_stand_in_from_the_beginning() -> None:
    """When no backend of the model is up."""
    world = World(start=False)
    world.router.model_route = attrs.evolve(world.router.model_route, backends=frozenset(("x",)))
    world.rig.begin(world.request)
    world.answer_whole("three")
    assert world.rig.conclusion().attempts == 1


def test_after_all_of_them_the_first_again() -> None:
    """After a wait."""
    world = World(max_retries=5)
    for name in NAMES:
        world.fail(name, ConnectFailed())
    assert world.reached() == list(NAMES)
    world.rig.clock.advance(0.1)
    assert world.reached() == [*NAMES, "one"]
    world.answer_whole("one")
    assert world.rig.conclusion().attempts == 4


def test_no_more_than_the_retries() -> None:
    """Then the last error is the answer; a busy answer is relayed."""
    world = World(max_retries=1)
    world.fail("one", ConnectFailed())
    world.answer_whole("two", 503)
    assert world.reached() == ["one", "two"]
    assert world.request.status == 503


def test_the_budget_is_everybodys() -> None:
    """When it is spent, the first error is the answer, for want of models that stand in."""
    world = World()
    world.router.model_route = attrs.evolve(world.router.model_route, fallback=())
    world.request.leave()
    budget = world.rig.path.retries.budget
    for _ in range(int(RESERVE)):
        budget.take()
    again = FakeRequest()
    world.rig.begin(again)
    world.fail("one", ConnectFailed())
    assert again.status == 502
    assert budget.refused == 1


@pytest.mark.parametrize("spent", ["budget", "retries"])
def test_models_that_stand_in_are_asked_for_the_first_time(spent: str) -> None:
    """What spares a pool that fails does not keep requests from another model's, each once."""
    world = World(**{"budget": 0.0} if spent == "budget" else {"max_retries": 1})
    world.fail("one", ConnectFailed())
    if spent == "retries":
        world.fail("two", ConnectFailed())
    world.fail("three", ConnectFailed())
    assert world.reached() == (["one", "three"] if spent == "budget" else ["one", "two", "three"])
    assert world.request.status == 502
    world.rig.conclusion()


def test_no_retries_is_no_other_model_either() -> None:
    """Nothing at all is tried again."""
    world = World(max_retries=0)
    world.fail("one", ConnectFailed())
    assert (world.reached(), world.request.status) == (["one"], 502)


def test_no_budget_relays_a_busy_answer() -> None:
    """And the other backend's place is given back."""
    world = World(budget=0.0)
    world.answer_whole("one", 429)
    assert world.request.status == 429
    assert [lease.released for lease in world.router.leases] == [1, 1]
    assert world.rig.conclusion().backend == "one"


def test_full_backends_are_waited_for() -> None:
    """In the name of the key, at the cost of the prompt and the longest answer."""
    world = World(start=False)
    world.router.full.update(NAMES)
    world.rig.begin(world.request)
    ((key, cost, given),) = world.router.waiting
    assert key == "key-1"
    assert cost > 4096
    world.rig.clock.advance(2.0)
    given.callback(world.router.lease("two"))
    world.answer_whole("two")
    record = world.rig.conclusion()
    assert record.backend == "two"
    assert record.queue_ms == pytest.approx(2000)


@pytest.mark.parametrize("error", [QueueFull(), QueueTimeout(), NoBackend()])
def test_who_waited_in_vain(error: GatewayError) -> None:
    """Is served by a model that stands in, if that has room; else told why."""
    for stands_in in (True, False):
        world = World(start=False)
        world.router.full.update(NAMES)
        world.rig.begin(world.request)
        if stands_in:
            world.router.full.clear()
        world.router.waiting[0][2].errback(error)
        if stands_in:
            world.answer_whole("three")
            assert world.rig.conclusion().status == 200
        else:
            assert world.rig.conclusion().error_code == error.code


def test_a_client_that_leaves_the_queue() -> None:
    """Waits no more."""
    world = World(start=False)
    world.router.full.update(NAMES)
    world.rig.begin(world.request)
    world.request.leave()
    assert world.router.waiting[0][2].called
    assert world.rig.conclusion().outcome == "client_abort"


def test_retries_may_have_to_wait_too() -> None:
    """Where another backend of the model is full."""
    world = World()
    world.router.full.update(("two", "three"))
    world.fail("one", ConnectFailed())
    ((_, _, given),) = world.router.waiting
    given.callback(world.router.lease("two"))
    world.answer_whole("two")
    assert world.rig.conclusion().attempts == 2


def test_who_waited_in_vain_for_others_goes_round_again() -> None:
    """Those that were only full have gone; those that failed may be back."""
    world = World()
    world.router.full.update(("two", "three"))
    world.fail("one", ConnectFailed())
    world.router.backends = world.router.backends[:1]
    world.router.waiting[0][2].errback(NoBackend())
    world.rig.clock.advance(0.1)
    world.answer_whole("one")
    assert world.rig.conclusion().attempts == 2


@pytest.mark.parametrize("has_room", ["one", "three", ""])
def test_who_waited_too_long_for_others(has_room: str) -> None:
    """Goes to one that failed, or to a model that stands in, if that has room; else it is told."""
    world = World(max_retries=1)
    world.router.full.update(("two", "three"))
    world.fail("one", ConnectFailed())
    world.router.full = {*NAMES} - {has_room}
    world.router.waiting[0][2].errback(QueueTimeout())
    if not has_room:
        assert world.rig.conclusion().error_code == "queue_timeout"
    else:
        world.answer_whole(has_room)
        assert world.rig.conclusion().attempts == 2


def test_who_waits_may_go_again_to_whom_it_could_not_reach() -> None:
    """After the longest of waits; the last try is kept longer for those that are only full."""
    world = World()
    world.router.full.update(("two", "three"))
    world.fail("one", ConnectFailed())
    world.router.waiting[0][2].callback(world.router.lease("one"))
    world.fail("one", ConnectFailed())
    out = frozenset(("one",))
    assert world.router.avoided == [(out, Backoff().max_wait_s), (out, LAST_TRY_S)]
    world.router.waiting[1][2].callback(world.router.lease("two"))
    world.answer_whole("two")
    record = world.rig.conclusion()
    assert (record.outcome, record.attempts) == ("ok", 3)


# another configuration


def test_a_retry_goes_where_the_model_leads_by_then() -> None:
    """Under the name that it has there; what began under another name is not looked at."""
    world = World(max_retries=5)
    for name in NAMES:
        world.fail(name, ConnectFailed())
    world.router.model_route = ModelRoute("m", "M-2", backends=frozenset(("three",)))
    world.rig.clock.advance(0.1)
    assert json.loads(world.sent("three").body) == {"model": "M-2"}
    world.answer_whole("three")
    assert world.rig.conclusion().upstream_model == "M-2"


def test_who_waited_goes_under_the_name_of_its_lease() -> None:
    """Whatever the model was called when it began to wait, and is called since."""
    world = World(start=False)
    world.router.full.update(NAMES)
    world.rig.begin(world.request)
    route = ModelRoute("m", "M-2")
    world.router.waiting[0][2].callback(world.router.lease("two", route))
    assert json.loads(world.sent("two").body) == {"model": "M-2"}
    world.answer_whole("two")
    assert world.rig.conclusion().upstream_model == "M-2"


def test_models_that_stand_in_are_those_of_now() -> None:
    """For who waited in vain."""
    world = World(start=False)
    world.router.full.update(NAMES)
    world.rig.begin(world.request)
    world.router.model_route = attrs.evolve(world.router.model_route, fallback=("new",))
    world.router.more_routes["new"] = ModelRoute("new", "New", backends=frozenset(("three",)))
    world.router.full.clear()
    world.router.waiting[0][2].errback(QueueTimeout())
    assert json.loads(world.sent("three").body) == {"model": "New"}
    world.request.leave()


@pytest.mark.parametrize("waits", ["in the queue", "between two tries"])
def test_a_model_that_is_gone(waits: str) -> None:
    """Is told of as it is to one that comes now; what was its alias may be another's."""
    for alias in (True, False):
        world = World(max_retries=5, start=False)
        world.request = FakeRequest(b'{"model": "alias"}')
        if waits == "in the queue":
            world.router.full.update(NAMES)
        world.rig.begin(world.request)
        if waits == "between two tries":
            for name in NAMES:
                world.fail(name, ConnectFailed())
        world.router.gone.update(("m",) if alias else ("m", "alias"))
        world.router.full.clear()
        if waits == "in the queue":
            world.router.waiting[0][2].errback(ModelNotFound(param="model"))
        world.rig.clock.advance(0.1)
        if alias:
            world.answer_whole("one")
            assert world.rig.conclusion().status == 200
        else:
            assert world.rig.conclusion().status == 404


def test_a_busy_answer_stays_the_answer_though_its_model_is_gone() -> None:
    """There is an answer, and nobody to ask for another."""
    world = World()
    world.router.gone.update(("m", "alias"))
    world.answer_whole("one", 429)
    assert world.rig.conclusion().status == 429


@pytest.mark.parametrize(
    ("value", "rest_s"),
    [
        (b"7", 7.0),
        (b" 0 ", 0.0),
        (b"99999999999999999999", 999999999.0),
        (b"Tue, 14 Nov 2023 22:13:30 GMT", 10.0),
        (b"Tue, 14 Nov 2023 22:13:00 GMT", 0.0),
        (b"soon", 0.0),
        (b"Fri, 31 Dec 99999999999 23:59:59 GMT", 0.0),
        (b"Fri, 31 Dec 1999 23:59:59 +9999999999999", 0.0),
        (b"Fri, 31 Dec 0001 23:59:59 -2400", 0.0),
        (b"-5", 0.0),
        (b"\xff", 0.0),
        (b"", 0.0),
    ],
)
def test_how_long_a_backend_asks_to_be_left_alone(value: bytes, rest_s: float) -> None:
    """Seconds, or a date; anything else is nothing."""
    assert rest_of([(b"a", b"1"), (b"retry-after", value)], 1_700_000_000.0) == rest_s
    assert rest_of([(b"a", b"1")], 0.0) == 0.0
