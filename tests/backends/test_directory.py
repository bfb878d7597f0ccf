"""Tests of `llmproxy.backends.directory`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from llmproxy.backends.directory import BackendDirectory
from llmproxy.backends.lease import LONGEST_REST_S, LeaseReleasedTwice
from llmproxy.backends.membership import Membership
from llmproxy.backends.models import ListedModel
from llmproxy.balancing.round_robin import RoundRobin
from llmproxy.config.model import Model
from llmproxy.config.setting import Duration
from llmproxy.errors import BackendsFull, ModelNotAllowed, ModelNotFound, NoBackend
from llmproxy.interfaces import (
    IBackendActivity,
    IBackendLease,
    IBackendStatuses,
    ICandidate,
    IHealthSink,
    IModelCatalog,
    IRouter,
    IStrategy,
)
from llmproxy.values import (
    ANONYMOUS,
    Backend,
    BackendStatus,
    Evidence,
    ModelCard,
    ModelRoute,
    Principal,
)
from llmproxy.vitals.breaker import BreakerSettings
from tests.backends.made import (
    BREAKER,
    SLOW_START_S,
    Client,
    Progress,
    backend,
    make_directory,
    no_affinity,
)

ROUTE = ModelRoute("m", "m")
CLOCK = Clock()
"""Of tests in which time plays no role."""


def directory(
    *backends: Backend, models: Sequence[Model] = (), strategy: IStrategy | None = None
) -> BackendDirectory:
    """Make a directory that goes round."""
    return make_directory(*backends, models=models, strategy=strategy, clock=CLOCK)


def list_of(*names: str, context: int | None = None) -> list[ListedModel]:
    """Make what a backend lists."""
    return [ListedModel(name, context) for name in names]


def acquired(there: BackendDirectory, route: ModelRoute, *tried: str) -> str:
    """Acquire a lease and keep it; give the backend's name."""
    return there.acquire(route, frozenset(tried), no_affinity).backend.name


def in_flight(there: BackendDirectory) -> dict[str, int]:
    """Count what is out."""
    return {status.name: status.in_flight for status in there.statuses()}


def test_interfaces() -> None:
    """It is what data path, edge and health checks expect."""
    there = directory(backend("a"))
    for interface in (
        IRouter,
        IModelCatalog,
        IBackendStatuses,
        IBackendActivity,
        IHealthSink,
    ):
        assert verifyObject(interface, there)
    assert verifyObject(
        IBackendLease, there.acquire(ModelRoute("m", "m"), frozenset(), no_affinity)
    )


class TestRouteWithConfiguredModels:
    """With ``models`` given, those are the models, and no others."""

    there = directory(
        backend("a"),
        models=[
            Model(
                id="big",
                upstream_model="Org/Big",
                aliases=("gpt-4",),
                backends=("a",),
                first_byte_timeout=Duration(9.0),
            ),
            Model(id="small"),
        ],
    )

    @pytest.mark.parametrize("name", ["big", "gpt-4"])
    def test_id_or_alias(self, name: str) -> None:
        """Both lead to the same route."""
        assert self.there.route(name, ANONYMOUS) == ModelRoute(
            "big", "Org/Big", frozenset(("a",)), 9.0
        )

    @pytest.mark.parametrize("name", ["Org/Big", "other", "", "b*"])
    def test_others_do_not_exist(self, name: str) -> None:
        """Also not a name that only backends use."""
        with pytest.raises(ModelNotFound) as caught:
            self.there.route(name, ANONYMOUS)
        assert caught.value.param == "model"

    def test_permission_is_by_id(self) -> None:
        """An alias is resolved before the key's globs are looked at."""
        by_id, by_alias = (
            Principal(allowed_models=(("b*",),)),
            Principal(allowed_models=(("gpt*",),)),
        )
        assert self.there.route("gpt-4", by_id).model_id == "big"
        with pytest.raises(ModelNotAllowed):
            self.there.route("gpt-4", by_alias)
        with pytest.raises(ModelNotAllowed):
            self.there.route("small", by_id)

    def test_not_found_before_not_allowed(self) -> None:
        """A key that may do nothing still learns that a model does not exist."""
        with pytest.raises(ModelNotFound):
            self.there.route("other", Principal(allowed_models=(("x",),)))


class TestRouteWithoutConfiguredModels:
    """Without ``models``, what backends serve exists."""

    def test_globs(self) -> None:
        """A name that matches a backend's globs exists under that name."""
        there = directory(backend("a", "qwen*"), backend("b", "llama"))
        assert there.route("qwen-7b", ANONYMOUS) == ModelRoute("qwen-7b", "qwen-7b")
        assert there.route("llama", ANONYMOUS) == ModelRoute("llama", "llama")
        with pytest.raises(ModelNotFound):
            there.route("llama-2", ANONYMOUS)

    def test_list(self) -> None:
        """A list decides once it is known; until then any name may exist."""
        there = directory(backend("a", "qwen*"), backend("b"))
        assert there.route("anything", ANONYMOUS).model_id == "anything"
        there.set_listed("b", list_of("llama"))
        assert there.route("llama", ANONYMOUS).model_id == "llama"
        assert there.route("qwen-7b", ANONYMOUS).model_id == "qwen-7b"
        with pytest.raises(ModelNotFound):
            there.route("anything", ANONYMOUS)

    def test_globs_outweigh_a_list(self) -> None:
        """What is configured decides, whatever the backend says."""
        there = directory(backend("a", "qwen*"))
        there.set_listed("a", list_of("llama"))
        with pytest.raises(ModelNotFound):
            there.route("llama", ANONYMOUS)

    def test_health_plays_no_role(self) -> None:
        """A model whose only backend is down is not available, but exists."""
        there = directory(backend("a", "qwen"))
        there.set_health("a", "down", "refused")
        route = there.route("qwen", ANONYMOUS)
        with pytest.raises(NoBackend):
            there.acquire(route, frozenset(), no_affinity)

    def test_permission(self) -> None:
        """The key's globs count, case and all, and come after existence."""
        there = directory(backend("a", "qwen*"))
        key = Principal(allowed_models=(("qwen-7b", "qwen-[78]*"),))
        assert there.route("qwen-8b", key).model_id == "qwen-8b"
        with pytest.raises(ModelNotAllowed):
            there.route("qwen-9b", key)
        with pytest.raises(ModelNotFound):
            there.route("Qwen-8b", key)


class TestAcquire:
    """Who gets the request."""

    def test_serving_backends_only(self) -> None:
        """Globs, a known list, or no list yet: those three serve."""
        there = directory(
            backend("glob", "m*"), backend("listed"), backend("unknown"), backend("other", "x")
        )
        there.set_listed("listed", list_of("m1"))
        names = [acquired(there, ModelRoute("m1", "m1")) for _ in range(6)]
        assert names == ["glob", "listed", "unknown"] * 2
        assert [acquired(there, ModelRoute("m2", "m2")) for _ in range(2)] == ["glob", "unknown"]

    def test_by_the_upstream_name(self) -> None:
        """Backends know a model by the name that they are sent."""
        there = directory(backend("a", "public"), backend("b", "Org/*"))
        assert acquired(there, ModelRoute("public", "Org/Big")) == "b"

    def test_restriction(self) -> None:
        """Backends that a model names are used whatever they list, and no others."""
        there = directory(backend("a"), backend("b"), backend("c", "x"))
        there.set_listed("a", list_of("other"))
        route = ModelRoute("m", "m", frozenset(("a", "c")))
        assert {acquired(there, route) for _ in range(4)} == {"a", "c"}

    @pytest.mark.parametrize("health", ["down", "loading"])
    def test_healthy_ones_only(self, health: str) -> None:
        """Who is down or loading gets nothing, until it is up again."""
        there = directory(backend("a"), backend("b"))
        there.set_health("a", health, "why")
        assert [acquired(there, ModelRoute("m", "m")) for _ in range(2)] == ["b", "b"]
        there.set_health("a", "up", "")
        assert acquired(there, ModelRoute("m", "m")) == "a"

    def test_not_the_tried_ones(self) -> None:
        """Another attempt goes to another backend."""
        there = directory(backend("a"), backend("b"))
        assert acquired(there, ModelRoute("m", "m"), "a") == "b"
        assert acquired(there, ModelRoute("m", "m"), "b", "gone") == "a"

    def test_nobody(self) -> None:
        """Nobody left is the error that says so, and nothing is counted."""
        there = directory(backend("a"), backend("b", "x"))
        with pytest.raises(NoBackend):
            acquired(there, ModelRoute("m", "m"), "a")
        assert in_flight(there) == {"a": 0, "b": 0}

    def test_a_lease_outlives_a_change_of_health(self) -> None:
        """A backend that goes down keeps what it has."""
        there = directory(backend("a"))
        lease = there.acquire(ROUTE, frozenset(), no_affinity)
        there.set_health("a", "down", "why")
        assert in_flight(there) == {"a": 1}
        lease.release()
        assert in_flight(there) == {"a": 0}

    def test_the_conversation_reaches_the_strategy(self) -> None:
        """Unread, for the strategy to ask."""
        asked: list[bytes] = []

        @implementer(IStrategy)
        class Asking:
            def choose(
                self,
                candidates: Sequence[ICandidate],
                now_s: float,
                affinity: Callable[[], bytes],
            ) -> ICandidate:
                asked.append(affinity())
                return candidates[0]

        there = directory(backend("a"), backend("b"), strategy=Asking())
        there.acquire(ROUTE, frozenset(), lambda: b"session")
        assert asked == [b"session"]

    def test_strategy_sees_the_candidates(self) -> None:
        """The strategy chooses, by name, weight and requests in flight."""
        seen: list[list[tuple[str, float, int]]] = []

        @implementer(IStrategy)
        class Last:
            def choose(
                self,
                candidates: Sequence[ICandidate],
                now_s: float,
                affinity: Callable[[], bytes],
            ) -> ICandidate:
                seen.append([(c.name, c.weight, c.in_flight) for c in candidates])
                return candidates[-1]

        there = directory(backend("a"), backend("b", weight=3), strategy=Last())
        assert [acquired(there, ModelRoute("m", "m")) for _ in range(2)] == ["b", "b"]
        assert seen == [[("a", 1, 0), ("b", 3, 0)], [("a", 1, 0), ("b", 3, 1)]]


class TestSlowStart:
    """Who is back begins with a tenth of its weight."""

    def test_not_at_the_start(self) -> None:
        """When all are new, none is."""
        there = directory(backend("a"), backend("b"))
        assert [one.share_percent for one in there.statuses()] == [100, 100]

    def test_after_a_drain(self) -> None:
        """Also who an administrator took out; but not who was not."""
        clock = Clock()
        there = make_directory(backend("a"), backend("b"), clock=clock)
        there.drain("a")
        for name in "ab":
            there.enable(name)
        assert [one.share_percent for one in there.statuses()] == [10, 100]
        clock.advance(5.0)
        assert [one.share_percent for one in there.statuses()] == [55, 100]

    def test_the_strategy_sees_it(self) -> None:
        """As a weight that grows."""
        seen: list[list[float]] = []

        @implementer(IStrategy)
        class First:
            def choose(
                self,
                candidates: Sequence[ICandidate],
                now_s: float,
                affinity: Callable[[], bytes],
            ) -> ICandidate:
                seen.append([one.weight for one in candidates])
                return candidates[0]

        clock = Clock()
        there = make_directory(
            backend("a", weight=2), backend("b", weight=2), clock=clock, strategy=First()
        )
        there.set_health("a", "down", "refused")
        there.set_health("a", "up", "")
        for _ in range(3):
            there.acquire(ROUTE, frozenset(), no_affinity)
            clock.advance(5.0)
        assert seen == [[pytest.approx(0.2), 2], [pytest.approx(1.1), 2], [2, 2]]


class TestActivity:
    """When a backend was heard of last."""

    def test_last_piece(self) -> None:
        """Of each backend by its name."""
        there = directory(backend("a"), backend("b"))
        assert there.last_piece_s("a") == float("-inf")
        there.acquire(ROUTE, frozenset(), no_affinity).answering(Progress(1.0, 5.0))
        assert there.last_piece_s("a") == 5.0
        assert there.last_piece_s("b") == float("-inf")
        with pytest.raises(KeyError):
            there.last_piece_s("x")


class TestCards:
    """What clients see."""

    def test_configured(self) -> None:
        """Configured models in their order, those that the key may use."""
        there = directory(
            backend("a"), models=[Model(id="z", name="Zed", context=100, output=10), Model(id="a")]
        )
        there.set_listed("a", list_of("other"))
        assert there.cards(ANONYMOUS) == [
            ModelCard(id="z", created=7, name="Zed", context=100, output=10),
            ModelCard(id="a", created=7, name="a"),
        ]
        assert [card.id for card in there.cards(Principal(allowed_models=(("a*",),)))] == ["a"]

    def test_served(self) -> None:
        """Plain configured names and listed ones, each once, in order of first appearance."""
        there = directory(backend("a", "m2", "qwen*", "m1"), backend("b"), backend("c"))
        assert [card.id for card in there.cards(ANONYMOUS)] == ["m2", "m1"]
        there.set_listed("b", list_of("m3", "m1", context=512))
        there.set_listed("c", list_of("m4"))
        assert there.cards(ANONYMOUS) == [
            ModelCard(id="m2", created=7),
            ModelCard(id="m1", created=7, context=512),
            ModelCard(id="m3", created=7, context=512),
            ModelCard(id="m4", created=7),
        ]
        assert [card.id for card in there.cards(Principal(allowed_models=(("m[34]",),)))] == [
            "m3",
            "m4",
        ]

    def test_models_of_a_backend_that_is_down_stay(self) -> None:
        """What is down for a moment does not vanish from the clients' lists."""
        there = directory(backend("a", "m"))
        there.set_health("a", "down", "why")
        assert [card.id for card in there.cards(ANONYMOUS)] == ["m"]

    def test_smallest_context_counts(self) -> None:
        """A prompt must fit whichever backend it goes to."""
        there = directory(backend("a"), backend("b"), backend("c"))
        for name, context in (("a", 1000), ("b", 500), ("c", None)):
            there.set_listed(name, list_of("m", context=context))
        assert [card.context for card in there.cards(ANONYMOUS)] == [500]

    def test_context_of_a_configured_model(self) -> None:
        """What is not configured comes from the lists of the model's own backends."""
        there = directory(
            backend("a"),
            backend("b"),
            models=[
                Model(id="own", context=9),
                Model(id="big", upstream_model="Org/Big", backends=("b",)),
                Model(id="any", upstream_model="Org/Big"),
            ],
        )
        there.set_listed("a", list_of("Org/Big", "own", context=100))
        there.set_listed("b", list_of("Org/Big", context=200))
        assert [(card.id, card.context) for card in there.cards(ANONYMOUS)] == [
            ("own", 9),
            ("big", 200),
            ("any", 100),
        ]


class TestStatuses:
    """What people and load balancers see."""

    def test_up_at_first(self) -> None:
        """Before any check everybody is up, in the configuration's order."""
        assert directory(backend("b"), backend("a")).statuses() == [
            BackendStatus("b", "up"),
            BackendStatus("a", "up"),
        ]

    def test_states(self) -> None:
        """State and reason as the checks said; no reason when up."""
        there = directory(backend("a"), backend("b"))
        there.set_health("a", "down", "refused")
        there.set_health("b", "loading", "slow disk")
        assert there.statuses() == [
            BackendStatus("a", "down", 0, "refused"),
            BackendStatus("b", "loading", 0, "slow disk"),
        ]
        there.set_health("a", "up", "whatever")
        assert there.statuses()[0] == BackendStatus("a", "up", share_percent=10)

    @pytest.mark.parametrize(("name", "state"), [("x", "up"), ("a", "sideways")])
    def test_unknown_name_or_state(self, name: str, state: str) -> None:
        """A verdict on nobody, or of no kind, is a bug that shows."""
        there = directory(backend("a"))
        with pytest.raises(KeyError):
            there.set_health(name, state, "")
        assert there.statuses() == [BackendStatus("a", "up")]

    @pytest.mark.parametrize("length", [256, 257, 10_000])
    def test_long_names_are_not_kept(self, length: int) -> None:
        """A name as long as a body finds its route, and is not held on to."""
        there, name = directory(backend("a", "*")), "m" * length
        route = there.route(name, ANONYMOUS)
        assert route.upstream_model == name
        assert (there.route(name, ANONYMOUS) is route) == (length <= 256)

    def test_list_of_nobody(self) -> None:
        """So is a list of an unknown backend."""
        with pytest.raises(KeyError):
            directory(backend("a")).set_listed("x", [])

    def test_repr_shows_state_and_no_secret(self) -> None:
        """State is for people to see, credentials are not."""
        there = directory(backend("a", secret=b"sk-up"), backend("b"))
        acquired(there, ModelRoute("m", "m"))
        there.set_health("b", "down", "refused")
        assert repr(there) == "<BackendDirectory a: up, 1 in flight, b: down, 0 in flight>"


class Capped:
    """Backends that each work on one request at once, and what is out of them."""

    def __init__(self, *names: str, max_wait_s: float = 60.0) -> None:
        self.clock = Clock()
        backends = [attrs.evolve(backend(name), max_concurrent=1) for name in names]
        self.there = make_directory(*backends, clock=self.clock, max_wait_s=max_wait_s)
        self.given: list[str] = []
        self.leases: list[IBackendLease] = []

    def acquire(self, *tried: str) -> IBackendLease:
        """Take a lease."""
        return self.there.acquire(ROUTE, frozenset(tried), no_affinity)

    def wait(self, key: str, *tried: str, cost: float = 1.0) -> Deferred[IBackendLease]:
        """Wait for one."""
        principal = Principal(key_id=key)
        waiting = self.there.wait("m", principal, frozenset(tried), 5.0, no_affinity, cost)
        waiting.addCallback(self._given, key)
        return waiting

    def _given(self, lease: IBackendLease, key: str) -> IBackendLease:
        self.given.append(f"{key}@{lease.backend.name}")
        self.leases.append(lease)
        return lease


def test_full_backends_are_not_chosen() -> None:
    """When all are full that is said; who was tried is another matter."""
    world = Capped("a", "b")
    first = world.acquire()
    assert {first.backend.name, world.acquire().backend.name} == {"a", "b"}
    with pytest.raises(BackendsFull):
        world.acquire()
    with pytest.raises(NoBackend):
        world.acquire("a", "b")
    first.release()
    assert world.acquire().backend.name == first.backend.name


def test_room_goes_to_those_that_wait() -> None:
    """In the moment in which it is there: whoever asks later finds none."""
    world = Capped("a")
    lease = world.acquire()
    world.wait("x")
    lease.release()
    with pytest.raises(BackendsFull):
        world.acquire()
    world.clock.advance(0)
    assert world.given == ["x@a"]


def test_turns_are_by_what_was_used() -> None:
    """Not by what was asked for, however much that was."""
    world = Capped("a")
    running = world.acquire()
    order = ""
    for _ in range(3):
        for key in "xy":
            world.wait(key, cost=1e9 if key == "x" else 1000.0)
    running.release()
    for _ in range(6):
        world.clock.advance(0)
        order += world.given[-1][0]
        world.leases.pop().release(1000)
    assert order == "xyxyxy"


@pytest.mark.parametrize("key", ["y", "x"])
def test_those_that_wait_go_only_where_they_were_not_tried(key: str) -> None:
    """Another that waits takes that room, whoever's it is: it came later, and goes there first."""
    world = Capped("a", "b")
    leases = {lease.backend.name: lease for lease in (world.acquire(), world.acquire())}
    world.wait("x", "a")
    world.wait(key)
    leases["a"].release()
    world.clock.advance(0)
    assert world.given == [f"{key}@a"]
    leases["b"].release()
    world.clock.advance(0)
    assert world.given == [f"{key}@a", "x@b"]


def test_who_waits_where_only_a_tried_one_is_free() -> None:
    """Goes there when its time is over, though nobody else comes or goes."""
    world = Capped("a", "b")
    world.acquire("a")
    world.wait("x", "a")
    world.clock.advance(4.9)
    assert not world.given
    world.clock.advance(0.1)
    world.clock.advance(0)
    assert world.given == ["x@a"]


def test_those_that_wait_are_told_when_nobody_is_left() -> None:
    """Down, or drained: they do not wait for the end of their time."""
    world = Capped("a", "b")
    world.acquire()
    world.acquire()
    failed: list[type] = []

    def told(failure: Failure) -> None:
        failed.append(type(failure.value))

    world.wait("x").addErrback(told)
    world.there.set_health("a", "down", "refused")
    world.clock.advance(0)
    assert not failed
    world.there.drain("b")
    world.clock.advance(0)
    assert failed == [NoBackend]


@pytest.mark.parametrize("back", ["up", "enabled"])
def test_a_backend_that_is_back_has_room(back: str) -> None:
    """Those that wait go there."""
    world = Capped("a", "b")
    world.there.set_health("b", "down", "refused")
    if back == "enabled":
        world.there.drain("b")
        world.there.set_health("b", "up", "")
    world.acquire()
    world.wait("x")
    if back == "up":
        world.there.set_health("b", "up", "")
    else:
        world.there.enable("b")
    world.clock.advance(0)
    assert world.given == ["x@b"]


def test_one_that_asks_to_be_left_alone() -> None:
    """Is, while there is another that did not; and is asked again when its time is over."""
    there = make_directory(backend("a"), backend("b"), clock=(clock := Clock()))
    lease = there.acquire(ROUTE, frozenset(("b",)), no_affinity)
    lease.report("none", 10.0)
    lease.release()
    assert {acquired(there, ROUTE) for _ in range(4)} == {"b"}
    there.set_health("b", "down", "refused")
    assert acquired(there, ROUTE) == "a"
    there.set_health("b", "up", "")
    clock.advance(10.0)
    assert {acquired(there, ROUTE) for _ in range(4)} == {"a", "b"}


def test_who_waits_goes_to_a_backend_whose_rest_is_over() -> None:
    """When it is, though nobody else comes or goes."""
    world = Capped("a", "b")
    rests = world.acquire("b")
    rests.report("none", 10.0)
    rests.release()
    world.acquire()
    world.wait("x")
    world.clock.advance(9.9)
    assert not world.given
    world.clock.advance(0.1)
    world.clock.advance(0)
    assert world.given == ["x@a"]


def test_who_waits_is_the_probe_of_a_breaker_that_becomes_half_open() -> None:
    """The others when its stream has come for so long that the breaker closes."""
    clock = Clock()
    a = attrs.evolve(backend("a"), max_concurrent=2)
    b = attrs.evolve(backend("b"), max_concurrent=1)
    there = make_directory(a, b, clock=clock, max_wait_s=0.0)
    for _ in range(2):
        bad = there.acquire(ROUTE, frozenset(("b",)), no_affinity)
        bad.report("bad")
        bad.release()
    there.acquire(ROUTE, frozenset(), no_affinity)
    given: list[IBackendLease] = []
    for _ in range(2):
        there.wait("m", ANONYMOUS, frozenset(), 0.0, no_affinity, 1.0).addCallback(given.append)
    clock.pump([29.9, 0.1, 0])
    assert [lease.backend.name for lease in given] == ["a"]
    clock.advance(5.0)
    progress = Progress(clock.seconds(), clock.seconds())
    given[0].answering(progress)
    for _ in range(28):
        clock.advance(1.0)
        progress.last_piece_s = clock.seconds()
    assert len(given) == 1
    clock.advance(2.0)
    progress.last_piece_s = clock.seconds()
    clock.pump([1.0, 0])
    assert [lease.backend.name for lease in given] == ["a", "a"]
    assert clock.getDelayedCalls() == []


def test_who_waits_when_somebody_else_finds_that_a_breaker_closes() -> None:
    """Is looked at when that was to be found out, though somebody left in between."""
    clock = Clock()
    a = attrs.evolve(backend("a"), max_concurrent=3)
    b = attrs.evolve(backend("b"), max_concurrent=1)
    there = make_directory(a, b, clock=clock, max_wait_s=0.0)
    for _ in range(2):
        bad = there.acquire(ROUTE, frozenset(("b",)), no_affinity)
        bad.report("bad")
        bad.release()
    there.acquire(ROUTE, frozenset(), no_affinity)
    given: list[IBackendLease] = []
    waiting = [
        there.wait("m", ANONYMOUS, frozenset(), 0.0, no_affinity, 1.0).addCallback(given.append)
        for _ in range(3)
    ]
    clock.pump([30.0, 0])
    progress = Progress(clock.seconds(), clock.seconds())
    given[0].answering(progress)
    clock.advance(30.0)
    progress.last_piece_s = clock.seconds()
    clock.advance(0.5)
    assert there.acquire(ROUTE, frozenset(), no_affinity).backend.name == "a"
    waiting[1].addErrback(lambda failure: failure.trap(CancelledError))
    waiting[1].cancel()
    clock.pump([1.0, 0])
    assert [lease.backend.name for lease in given] == ["a", "a"]


EVIDENCE: list[Evidence] = ["good", "bad", "none"]
steps = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from("xyz")),
    st.tuples(st.sampled_from(["end", "rest", "leave"]), st.integers(0, 9)),
    st.tuples(st.just("time"), st.sampled_from([0.5, 3.0, 30.0])),
    st.tuples(st.sampled_from(["up", "down"]), st.sampled_from("ab")),
)


@given(st.lists(steps, max_size=60))
def test_nobody_waits_beside_a_backend_that_has_room(walk: list[tuple[str, str | float]]) -> None:
    """Whatever has happened: ends, good and bad, rests, checks, or nothing but time."""
    world = Capped("a", "b", max_wait_s=0.0)
    waiting: list[Deferred[IBackendLease]] = []
    for what, which in walk:
        if what == "ask":
            try:
                world.leases.append(world.acquire())
            except BackendsFull:
                waiting.append(world.wait(str(which), cost=1000.0))
                waiting[-1].addErrback(lambda failure: failure.trap(NoBackend, CancelledError))
            except NoBackend:
                assert not world.there.waiting
        elif what == "time":
            world.clock.advance(float(which))
        elif what in ("up", "down"):
            world.there.set_health(str(which), what, "why")
        elif what == "leave":
            if waiting:
                waiting.pop(int(which) % len(waiting)).cancel()
        elif world.leases:
            lease = world.leases.pop(int(which) % len(world.leases))
            lease.report(EVIDENCE[int(which) % 3], 7.0 if what == "rest" else 0.0)
            lease.release(100)
        world.clock.advance(0)
        if world.there.waiting:
            with pytest.raises(BackendsFull):
                world.acquire()
        else:
            assert world.clock.getDelayedCalls() == []


def test_nobody_is_left_alone_for_longer_than_a_while() -> None:
    """Whatever it asks for: a date far off must not take a backend out."""
    there = make_directory(backend("a"), backend("b"), clock=(clock := Clock()))
    lease = there.acquire(ROUTE, frozenset(("b",)), no_affinity)
    lease.report("none", 1e9)
    lease.release()
    clock.advance(LONGEST_REST_S)
    assert {acquired(there, ROUTE) for _ in range(4)} == {"a", "b"}


def test_models_that_stand_in_are_in_the_route() -> None:
    """The model's own first, then those for all; each once, and never itself."""
    models = [Model(id="m", fallback=("x", "all")), Model(id="x"), Model(id="all")]
    there = make_directory(backend("a"), clock=CLOCK, models=models, fallback=("all", "m"))
    assert there.route("m", ANONYMOUS).fallback == ("x", "all")
    assert there.route("all", ANONYMOUS).fallback == ("m",)
    unnamed = make_directory(backend("a"), clock=CLOCK, fallback=("all", "m"))
    assert unnamed.route("m", ANONYMOUS).fallback == ("all",)


# another configuration


def at(name: str, url: bytes, weight: int = 1, max_concurrent: int = 0) -> Backend:
    """Make an identity at a URL."""
    made = backend(name, "m", weight=weight)
    return attrs.evolve(made, url=url, max_concurrent=max_concurrent)


def replace(
    there: BackendDirectory,
    *backends: Backend,
    models: Sequence[Model] = (),
    breaker: BreakerSettings = BREAKER,
    slow_start_s: float = SLOW_START_S,
) -> None:
    """Have a directory go on with these backends and new clients."""
    there.replace(
        Membership(
            backends=[(one, Client()) for one in backends],
            strategy=RoundRobin(),
            breaker=breaker,
            max_ejected_percent=50.0,
            slow_start_s=slow_start_s,
            models=models,
        )
    )


def take(there: BackendDirectory, *tried: str) -> IBackendLease:
    """Acquire a lease."""
    return there.acquire(there.route("m", ANONYMOUS), frozenset(tried), no_affinity)


def test_state_stays_with_the_url() -> None:
    """Under another name or weight, in another place: counts, health and what admins did stay."""
    there = directory(at("a", b"http://1"), at("b", b"http://2"))
    lease = take(there, "b")
    there.set_health("a", "down", "no answer")
    there.drain("b")
    replace(there, at("c", b"http://3"), at("b2", b"http://2", weight=9), at("a", b"http://1"))
    assert list(there.statuses()) == [
        BackendStatus("c", "up", 0, "", share_percent=10),
        BackendStatus("b2", "drained", 0, ""),
        BackendStatus("a", "down", 1, "no answer"),
    ]
    lease.release()
    assert in_flight(there) == {"c": 0, "b2": 0, "a": 0}


def test_what_requests_showed_stays() -> None:
    """A breaker that is open, how fast answers come, what is still coming, who wants rest."""
    clock = Clock()
    there = make_directory(at("a", b"http://1"), at("b", b"http://2"), clock=clock)
    for _ in range(2):
        lease = take(there, "b")
        lease.report("bad")
        lease.release()
    resting, slow = take(there, "a"), take(there, "a")
    clock.advance(2.0)
    slow.answering(Progress(2.0, 2.0))
    resting.report("none", 20.0)
    resting.release()
    before = there.statuses()
    replace(there, at("b", b"http://2"), at("a", b"http://1", weight=7))
    assert list(there.statuses()) == [before[1], before[0]]
    assert [one.breaker for one in there.statuses()] == ["closed", "open"]
    assert there.statuses()[0].latency_ms == 2000
    assert there.last_piece_s("b") == 2.0
    assert there.statuses()[1].ejected
    slow.release()
    assert take(there).backend.name == "b"
    replace(there, at("c", b"http://3"), at("b", b"http://2"))
    assert {take(there).backend.name for _ in range(4)} == {"c"}


def test_other_rules_for_breakers() -> None:
    """Hold for what was seen before, and for what comes."""
    clock = Clock()
    there = make_directory(at("a", b"http://1"), clock=clock)
    for _ in range(2):
        lease = take(there)
        lease.report("bad")
        lease.release()
    replace(there, at("a", b"http://1"), breaker=attrs.evolve(BREAKER, open_for_s=5.0))
    clock.advance(4.0)
    assert there.statuses()[0].breaker == "open"
    clock.advance(1.0)
    assert there.statuses()[0].breaker == "half_open"
    probe = take(there)
    replace(there, at("a", b"http://1"))
    probe.report("good")
    probe.release()
    assert there.statuses()[0].breaker == "closed"


def test_weights_and_slow_starts() -> None:
    """Who is new or back counts little; another weight or another length holds at once."""

    @implementer(IStrategy)
    class Weights:
        def choose(
            self, candidates: Sequence[ICandidate], now_s: float, affinity: Callable[[], bytes]
        ) -> ICandidate:
            del now_s, affinity
            seen.append({one.name: one.weight for one in candidates})
            return candidates[0]

    def choose(*backends: Backend, slow_start_s: float) -> dict[str, float]:
        there.replace(
            Membership(
                backends=[(one, Client()) for one in backends],
                strategy=Weights(),
                breaker=BREAKER,
                max_ejected_percent=50.0,
                slow_start_s=slow_start_s,
            )
        )
        take(there)
        return seen[-1]

    clock, seen = Clock(), list[dict[str, float]]()
    there = make_directory(at("a", b"http://1", weight=2), clock=clock)
    a, b = at("a", b"http://1", weight=4), at("b", b"http://2", weight=8)
    assert choose(a, b, slow_start_s=10.0) == {"a": 4, "b": pytest.approx(0.8)}
    clock.advance(10.0)
    assert choose(a, b, slow_start_s=20.0) == {"a": 4, "b": pytest.approx(8 * 0.55)}
    assert choose(a, b, slow_start_s=0.0) == {"a": 4, "b": 8}


def test_running_leases_keep_their_identity_and_client() -> None:
    """What begins next has the new ones."""
    there = directory(at("a", b"http://1"))
    lease = take(there)
    before, client = lease.backend, lease.client
    replace(there, at("a", b"http://1", weight=5))
    assert (lease.backend, lease.client) == (before, client)
    after = take(there)
    assert after.backend.weight == 5
    assert after.client is not client
    assert in_flight(there) == {"a": 2}


def test_names_tell_backends_of_one_url_apart() -> None:
    """Whose name is the same has its own state, in whatever order; the rest is given to others."""
    there = directory(at("a", b"http://1"), at("b", b"http://1"))
    there.set_health("a", "down", "a is")
    there.set_health("b", "loading", "b is")
    replace(there, at("x", b"http://1"), at("a", b"http://1"))
    assert [(one.name, one.reason) for one in there.statuses()] == [("x", "b is"), ("a", "a is")]


def test_the_same_name_at_another_url_is_another_backend() -> None:
    """Nothing is known of it."""
    there = directory(at("a", b"http://1"))
    there.set_health("a", "down", "no answer")
    replace(there, at("a", b"http://2"))
    assert list(there.statuses()) == [BackendStatus("a", "up", share_percent=10)]


def test_what_is_gone_is_given_nothing() -> None:
    """Its running request ends as any other; models that only it served are unknown."""
    there = directory(attrs.evolve(at("a", b"http://1"), models=("old",)))
    route = there.route("old", ANONYMOUS)
    lease = there.acquire(route, frozenset(), no_affinity)
    replace(there, at("b", b"http://2"))
    with pytest.raises(NoBackend):
        there.acquire(route, frozenset(), no_affinity)
    with pytest.raises(ModelNotFound):
        there.route("old", ANONYMOUS)
    lease.release()
    with pytest.raises(LeaseReleasedTwice):
        lease.release()


def test_other_models() -> None:
    """What clients see and ask for is what the new configuration says."""
    there = directory(at("a", b"http://1"), models=[Model(id="x", upstream_model="m")])
    replace(there, at("a", b"http://1"), models=[Model(id="y", upstream_model="m")])
    assert [card.id for card in there.cards(ANONYMOUS)] == ["y"]
    with pytest.raises(ModelNotFound):
        there.route("x", ANONYMOUS)


def test_known_health() -> None:
    """What checks have said, even of backends that an administrator keeps out."""
    there = directory(at("a", b"http://1"), at("b", b"http://2"))
    there.set_health("a", "down", "no answer")
    there.drain("a")
    assert there.known_health() == {"a": ("down", "no answer"), "b": ("up", "")}


A = attrs.evolve(backend("a"), max_concurrent=1)


@pytest.mark.parametrize(
    "more",
    [
        (attrs.evolve(A, max_concurrent=2),),
        (attrs.evolve(A, max_concurrent=0),),
        (A, attrs.evolve(A, name="b", url=b"http://b.test")),
    ],
)
def test_those_that_wait_have_the_room_of_another_configuration(
    more: tuple[Backend, ...],
) -> None:
    """Where more may run at once, or without end, or at one more backend."""
    world = Capped("a")
    lease = world.acquire()
    world.wait("x")
    replace(world.there, *more)
    world.clock.advance(0)
    assert world.given == [f"x@{more[-1].name}"]
    lease.release()


def test_those_that_wait_go_on_waiting() -> None:
    """With less room, or the same; what runs counts, and gives its room to them."""
    world = Capped("a")
    lease = world.acquire()
    world.wait("x")
    replace(world.there, attrs.evolve(A, weight=3))
    world.clock.advance(1.0)
    assert (world.given, world.there.waiting) == ([], 1)
    lease.release()
    world.clock.advance(0)
    assert world.given == ["x@a"]


def test_limits_that_come_later_count_what_runs() -> None:
    """The first that ends makes no room where two more run than may."""
    clock = Clock()
    there = make_directory(backend("a"), clock=clock)
    leases = [there.acquire(ROUTE, frozenset(), no_affinity) for _ in range(2)]
    replace(there, A)
    with pytest.raises(BackendsFull):
        there.acquire(ROUTE, frozenset(), no_affinity)
    given: list[IBackendLease] = []
    there.wait("m", ANONYMOUS, frozenset(), 0.0, no_affinity, 1.0).addCallback(given.append)
    leases.pop().release()
    clock.advance(0)
    assert not given
    leases.pop().release()
    clock.advance(0)
    assert [lease.backend.name for lease in given] == ["a"]


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ([], ModelNotFound),
        ([Model(id="x", upstream_model="other", aliases=("m",))], ModelNotAllowed),
        ([Model(id="m", upstream_model="m")], NoBackend),
    ],
)
def test_those_that_wait_for_who_is_gone_are_told(models: list[Model], told: type) -> None:
    """What one is told that comes now; they do not wait for the end of their time."""
    world = Capped("a")
    world.acquire()
    failed: list[type] = []
    mine = Principal(allowed_models=(("m",),))
    waiting = world.there.wait("m", mine, frozenset(), 0.0, no_affinity, 1.0)
    waiting.addErrback(lambda failure: failed.append(type(failure.value)))
    replace(world.there, attrs.evolve(at("b", b"http://2"), models=("other",)), models=models)
    world.clock.advance(0)
    assert failed == [told]


def test_those_that_wait_go_where_their_model_leads_now() -> None:
    """To its other backend, under its other name; the lease says which."""
    clock = Clock()
    models = [Model(id="m", upstream_model="old", backends=("a",))]
    there = make_directory(A, clock=clock, models=models)
    acquired(there, there.route("m", ANONYMOUS))
    given: list[IBackendLease] = []
    there.wait("m", ANONYMOUS, frozenset(), 0.0, no_affinity, 1.0).addCallback(given.append)
    models = [Model(id="m", upstream_model="new", backends=("b",))]
    replace(there, at("b", b"http://2", max_concurrent=1), models=models)
    clock.advance(0)
    assert [(lease.backend.name, lease.route.upstream_model) for lease in given] == [("b", "new")]
