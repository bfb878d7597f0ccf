"""Tests of the flow of a coroutine: by hand, and next to Twisted's own on random scripts."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from llmproxy.proxy.flow import Flow


def test_runs_to_the_end_at_once() -> None:
    """What awaits nothing, or only what is there, is over when it was run; not before."""
    seen: list[Any] = []

    async def work() -> None:
        seen.append(await succeed(1))
        with pytest.raises(KeyError):
            await fail(KeyError())
        seen.append(await succeed(2))

    flow = Flow(work())
    assert seen == []
    flow.run()
    assert seen == [1, 2]
    flow.cancel()


def test_awaits() -> None:
    """It goes on when what it awaits comes, with its result."""
    first: Deferred[str] = Deferred()
    second: Deferred[str] = Deferred()
    seen: list[str] = []

    async def work() -> None:
        seen.append("begun")
        seen.append(await first)
        seen.append(await second)
        seen.append("over")

    Flow(work()).run()
    assert seen == ["begun"]
    first.callback("a")
    assert seen == ["begun", "a"]
    second.callback("b")
    assert seen == ["begun", "a", "b", "over"]


def test_awaits_what_waits_for_another() -> None:
    """A Deferred that was fired with another one is awaited until that has its result."""
    inner: Deferred[str] = Deferred()
    outer: Deferred[str] = succeed("").addCallback(lambda _: inner)
    seen: list[str] = []

    async def work() -> None:
        seen.append(await outer)

    Flow(work()).run()
    assert seen == []
    inner.callback("a")
    assert seen == ["a"]


def test_failures_are_thrown_in() -> None:
    """A failure is raised where it was awaited, the very exception, and is taken care of."""
    awaited: list[Deferred[None]] = [Deferred()]
    seen: list[object] = []
    logged: list[LogEvent] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        logged.append(event)

    error = KeyError("x")

    async def work() -> None:
        try:
            await awaited[0]
        except KeyError as caught:
            seen.append(caught)
        seen.append(await succeed("on"))

    Flow(work()).run()
    globalLogPublisher.addObserver(observe)
    try:
        awaited.pop().errback(error)  # nobody keeps it: what it still had would be logged
        gc.collect()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert seen == [error, "on"]
    assert logged == []


def test_nested_coroutines() -> None:
    """Coroutines that it awaits are part of it, at any depth, and so are their failures."""
    awaited: list[Deferred[int]] = [Deferred() for _ in range(3)]
    seen: list[object] = []

    async def depth(left: int) -> int:
        try:
            return await (depth(left - 1) if left else awaited[0])
        finally:
            seen.append(left)

    async def work() -> None:
        seen.append(await depth(50))
        awaited[0] = awaited[1]
        with pytest.raises(KeyError):
            await depth(2)
        awaited[0] = awaited[2]
        with pytest.raises(CancelledError):
            await depth(1)

    first = awaited[0]
    flow = Flow(work())
    flow.run()
    first.callback(7)
    assert seen == [*range(51), 7]
    awaited[1].errback(KeyError())
    flow.cancel()
    assert seen[52:] == [0, 1, 2, 0, 1]


def test_many_that_come_at_once() -> None:
    """A long line of things that are there already, or come in the same turn, takes no stack."""
    awaited: Deferred[None] = Deferred()
    seen: list[int] = []

    async def work() -> None:
        for number in range(5000):
            await succeed(None)
            if number == 2500:
                await awaited
        seen.append(number)

    Flow(work()).run()
    awaited.callback(None)
    assert seen == [4999]


# Cancelling


def test_cancelled_while_it_waits() -> None:
    """What it awaits is cancelled; the coroutine decides what comes of it."""
    cancelled: list[Deferred[Any]] = []
    awaited: Deferred[None] = Deferred(cancelled.append)
    seen: list[str] = []

    async def work() -> None:
        try:
            await awaited
        except CancelledError:
            seen.append("cancelled")

    flow = Flow(work())
    flow.run()
    flow.cancel()
    assert cancelled == [awaited]
    assert seen == ["cancelled"]
    flow.cancel()
    assert seen == ["cancelled"]


def test_each_cancel_is_for_one_wait() -> None:
    """A coroutine that goes on may wait again, and be cancelled again."""
    seen: list[str] = []
    last: Deferred[str] = Deferred()

    async def work() -> None:
        for awaited in (Deferred[str](), Deferred[str](), last):
            try:
                seen.append(await awaited)
            except CancelledError:
                seen.append("cancelled")

    flow = Flow(work())
    flow.run()
    flow.cancel()
    assert seen == ["cancelled"]
    flow.cancel()
    last.callback("a")
    assert seen == ["cancelled", "cancelled", "a"]


def test_a_cancel_that_gives_a_result() -> None:
    """What is cancelled may give a result instead, and the coroutine goes on with it."""
    seen: list[str] = []

    async def work() -> None:
        seen.append(await Deferred[str](lambda awaited: awaited.callback("what there was")))

    flow = Flow(work())
    flow.run()
    flow.cancel()
    assert seen == ["what there was"]


@pytest.mark.parametrize("at_first", [True, False])
def test_cancelled_while_it_runs(at_first: bool) -> None:
    """What it awaits next is cancelled at once, and nothing after that."""
    begin: Deferred[None] = Deferred()
    after: Deferred[str] = Deferred()
    seen: list[str] = []

    async def work() -> None:
        if not at_first:
            await begin
        flow.cancel()
        seen.append(await succeed("there"))
        try:
            await Deferred[None]()
        except CancelledError:
            seen.append("cancelled")
        seen.append(await after)

    flow = Flow(work())
    flow.run()
    if not at_first:
        begin.callback(None)
    assert seen == ["there", "cancelled"]
    after.callback("after")
    assert seen == ["there", "cancelled", "after"]


def test_cancelled_while_it_runs_to_its_end() -> None:
    """Cancelling what awaits nothing any more changes nothing, nor does it when it is over."""
    seen: list[str] = []

    async def work() -> None:
        flow.cancel()
        seen.append(await succeed("over"))

    flow = Flow(work())
    flow.run()
    flow.cancel()
    assert seen == ["over"]


def test_cancelled_by_what_it_awaits() -> None:
    """A canceller that cancels the flow again does not send it round in circles."""
    seen: list[str] = []

    async def work() -> None:
        try:
            await Deferred[None](lambda _: flow.cancel() if len(seen) < 1 else None)
        except CancelledError:
            seen.append("cancelled")

    flow = Flow(work())
    flow.run()
    seen.append("waits")
    flow.cancel()
    assert seen == ["waits", "cancelled"]


# Against Twisted's own

_PLACES = 6


def _cancellers(log: list[str], place: int) -> list[Any]:
    return [
        None,
        lambda _: log.append(f"canceller {place}"),
        lambda awaited: awaited.callback(f"given up {place}"),
        lambda awaited: awaited.errback(ValueError(f"broken {place}")),
    ]


_SCRIPT = st.recursive(
    st.one_of(
        st.tuples(st.just("await"), st.integers(0, _PLACES - 1)),
        st.tuples(st.just("raise"), st.just(0)),
        st.tuples(st.just("fire"), st.integers(0, _PLACES - 1)),
    ),
    lambda inner: st.tuples(
        st.sampled_from(["call", "try", "finally"]), st.lists(inner, max_size=4)
    ),
    max_leaves=12,
)
_EVENTS = st.lists(
    st.tuples(st.sampled_from(["fire", "fail", "chain"]), st.integers(0, _PLACES - 1))
    | st.tuples(st.just("cancel"), st.just(0)),
    max_size=12,
)


@attrs.define
class _Scene:
    """Deferreds in their places, and what a script that awaits them lived through."""

    kinds: list[int]
    log: list[str] = attrs.field(factory=list)
    waiting: list[Deferred[str]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.waiting = [
            Deferred(_cancellers(self.log, place)[kind]) for place, kind in enumerate(self.kinds)
        ]

    async def perform(self, script: list[tuple[str, Any]]) -> None:
        """Do what a script says, to the first exception that it does not catch."""
        for what, more in script:
            if what == "await":
                self.log.append(f"{more}: {await self.waiting[more]}")
            elif what == "raise":
                raise KeyError
            elif what == "fire":
                self.happen("fire", more)
            elif what == "call":
                await self.perform(more)
            elif what == "finally":
                try:
                    await self.perform(more)
                finally:
                    self.log.append("finally")
            else:
                try:
                    await self.perform(more)
                except Exception as error:  # noqa: BLE001 - whatever comes is noted
                    self.log.append(f"caught {error!r}")

    async def whole(self, script: list[tuple[str, Any]]) -> None:
        """Perform a script, neither returning nor raising anything."""
        await self.perform([("try", script)])
        self.log.append("end")

    def happen(self, what: str, place: int) -> None:
        """Let something come of what is awaited, unless it came already."""
        awaited = self.waiting[place]
        if awaited.called:
            return
        self.log.append(f"{what} {place}")
        if what == "fail":
            awaited.errback(IndexError(place))
        elif what == "chain":
            awaited.callback(f"chained {place}")
        else:
            awaited.callback(f"came {place}")


def _live(
    begin: Callable[[Any], Callable[[], object]],
    script: list[tuple[str, Any]],
    events: list[tuple[str, int]],
    kinds: list[int],
) -> list[str]:
    scene = _Scene(kinds)
    last: Deferred[str] = Deferred()
    for place, awaited in enumerate(scene.waiting):
        if place % 2:
            # Fired, these still wait for another.
            awaited.addCallback(
                lambda came: last.addCallback(lambda _: came) if "chained" in came else came
            )
    cancel = begin(scene.whole(script))
    for what, place in events:
        if what == "cancel":
            scene.log.append("cancel")
            if "end" not in scene.log:
                cancel()
        else:
            scene.happen(what, place)
    last.callback("")
    for place in range(_PLACES):
        scene.happen("fire", place)
        scene.waiting[place].addErrback(lambda _: None)
    return scene.log


def _begin_flow(coroutine: Any) -> Callable[[], object]:
    flow = Flow(coroutine)
    flow.run()
    return flow.cancel


def _begin_twisted(coroutine: Any) -> Callable[[], object]:
    return Deferred.fromCoroutine(coroutine).cancel


@given(
    script=st.lists(_SCRIPT, max_size=8),
    events=_EVENTS,
    kinds=st.lists(st.integers(0, 3), min_size=_PLACES, max_size=_PLACES),
)
def test_like_twisted(
    script: list[tuple[str, Any]], events: list[tuple[str, int]], kinds: list[int]
) -> None:
    """Any script lives through the same as under ``Deferred.fromCoroutine``, and ends the same."""
    lived = _live(_begin_flow, script, events, kinds)
    assert lived == _live(_begin_twisted, script, events, kinds)
    assert lived.count("end") == 1
