"""Totals: what was reported is written once, whatever the store does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from llmproxy.errors import StoreUnavailable
from llmproxy.stores.memory_counters import MemoryCounters
from llmproxy.usage.totals import MAX_PENDING, OTHER_MODELS, Place, UsageTotals
from llmproxy.values import Usage, UsageFilter, UsageRecord, UsageTotal

NOON_S = 1_790_000_000.0 // 86400 * 86400 + 43200


class ShakyCounters(MemoryCounters):
    """A store that can be down, or slow."""

    def __init__(self) -> None:
        super().__init__(lambda: NOON_S)
        self.down = False
        self.gate: Deferred[None] | None = None
        self.writes = 0

    def add_usage(self, totals: Mapping[Place, UsageTotal]) -> Deferred[None]:
        """Write, or not."""
        self.writes += 1
        if self.down:
            return fail(StoreUnavailable("down"))
        if self.gate is not None:
            gate, self.gate = self.gate, None
            return gate.addCallback(lambda _: self.add_usage(totals))
        return super().add_usage(totals)


class Bench:
    """Totals over a shaky store."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = ShakyCounters()
        self.now_s = NOON_S
        self.totals = UsageTotals(self.store, self.clock, lambda: self.now_s)
        self.totals.startService()

    def report(self, tokens: int = 5, **more: object) -> None:
        """Report an exchange."""
        fields: dict[str, object] = {"key_id": "k", "user_id": "u", "model": "m"}
        fields |= {"upstream_model": "m", "outcome": "ok", "status": 200} | more
        self.totals.report(
            UsageRecord(
                id="i",
                time=self.now_s,
                request_id="r",
                endpoint="/v1/chat/completions",
                usage=Usage(tokens - 1, 1, tokens),
                **fields,  # type: ignore[arg-type]
            )
        )

    def ask(self, **wanted: object) -> Sequence[tuple[Mapping[str, str], UsageTotal]]:
        """Ask for totals."""
        answers: list[object] = []
        self.totals.usage(UsageFilter(**wanted)).addBoth(answers.append)  # type: ignore[arg-type]
        (answer,) = answers
        if isinstance(answer, Failure):
            answer.raiseException()
        return answer  # type: ignore[return-value]


def test_what_is_asked_for_is_up_to_date() -> None:
    """Nobody waits for the next flush."""
    bench = Bench()
    bench.report(5)
    bench.report(7, outcome="truncated")
    assert bench.ask() == [({}, UsageTotal(2, 10, 2, 12, 1))]


def test_groups() -> None:
    """By day, key, user and model; a model that was not found is not a model."""
    bench = Bench()
    bench.report()
    bench.report(key_id="other")
    bench.report(model="x" * 100_000, upstream_model="", outcome="rejected")
    bench.now_s += 86400
    bench.report(model="y" * 300)
    rows = bench.ask(group_by=("day", "model"))
    days = sorted({values["day"] for values, _ in rows})
    assert len(days) == 2
    assert [(values["model"], total.requests) for values, total in rows] == [
        ("", 1),
        ("m", 2),
        (OTHER_MODELS, 1),
    ]
    assert [values["key_id"] for values, _ in bench.ask(group_by=("key",))] == ["k", "other"]


def test_strangers_are_not_counted() -> None:
    """A record without a key belongs to nobody."""
    bench = Bench()
    bench.report(key_id="")
    assert bench.ask(group_by=("key",)) == []


def test_written_every_second_and_at_the_end() -> None:
    """And not when there is nothing to write."""
    bench = Bench()
    bench.clock.advance(1)
    assert bench.store.writes == 0
    bench.report()
    bench.clock.advance(1)
    assert bench.store.writes == 1
    bench.report()
    assert bench.totals.stopService().called
    assert bench.store.writes == 2
    assert bench.clock.getDelayedCalls() == []


def test_an_outage_loses_nothing() -> None:
    """What was not written stays, and is asked for in vain meanwhile."""
    bench = Bench()
    bench.store.down = True
    bench.report()
    bench.clock.advance(1)
    bench.report()
    with pytest.raises(StoreUnavailable):
        bench.ask()
    assert bench.totals.is_failing
    bench.store.down = False
    bench.clock.advance(1)
    assert not bench.totals.is_failing
    assert bench.ask() == [({}, UsageTotal(2, 8, 2, 10, 0))]


def test_who_leaves_does_not_stop_the_write() -> None:
    """Cancelling the question cancels no write: half of it would be counted twice."""
    bench = Bench()
    bench.store.gate = gate = Deferred[None]()
    bench.report()
    asked = bench.totals.usage(UsageFilter())
    asked.addErrback(lambda _: None)
    asked.cancel()
    bench.report()
    gate.callback(None)
    assert bench.ask() == [({}, UsageTotal(2, 8, 2, 10, 0))]


def test_one_question_at_a_time() -> None:
    """Many who ask at once do not take all of the store; one who leaves does not stop the rest."""
    bench = Bench()
    gates: list[Deferred[list[tuple[dict[str, str], UsageTotal]]]] = []

    def slow(_: UsageFilter) -> Deferred[list[tuple[dict[str, str], UsageTotal]]]:
        gates.append(Deferred())
        return gates[-1]

    bench.store.usage = slow  # type: ignore[assignment, method-assign]
    answers: list[object] = []
    asked = [bench.totals.usage(UsageFilter()) for _ in range(4)]
    for one in asked:
        one.addCallbacks(answers.append, lambda _: None)
    assert len(gates) == 1
    asked[1].cancel()
    asked[0].cancel()
    assert len(gates) == 2
    gates[1].callback([])
    gates[2].callback([])
    assert answers == [[], []]


def test_memory_is_bounded() -> None:
    """Where clients make names up, they end in one place."""
    bench = Bench()
    bench.store.down = True
    for number in range(MAX_PENDING + 50):
        bench.report(model=f"m{number}")
    bench.store.down = False
    totals = {values["model"]: total for values, total in bench.ask(group_by=("model",))}
    assert len(totals) == MAX_PENDING + 1
    assert totals[OTHER_MODELS].requests == 50


@given(st.lists(st.sampled_from(["report", "down", "up", "tick", "ask"]), max_size=30))
def test_any_order_of_outages_ends_exact(steps: list[str]) -> None:
    """Every report is in the totals once."""
    bench, reports = Bench(), 0
    for step in steps:
        if step == "report":
            bench.report()
            reports += 1
        elif step == "tick":
            bench.clock.advance(1)
        elif step == "ask" and not bench.store.down:
            bench.ask()
        else:
            bench.store.down = step == "down"
    bench.store.down = False
    ((_, total),) = bench.ask()
    assert (total.requests, total.total_tokens) == (reports, 5 * reports)
