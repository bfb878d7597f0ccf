"""Tests of `llmproxy.auth.cached`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import provider

from llmproxy.auth import cached
from llmproxy.auth.cached import CachedSource, CacheTimes
from llmproxy.auth.judge import PreparedKey
from llmproxy.auth.verdicts import UNSAID, Verdict
from llmproxy.errors import (
    AuthUnavailable,
    GatewayError,
    InvalidApiKey,
    KeyDisabled,
    MalformedRecord,
    StoreUnavailable,
)
from llmproxy.key_records import KeyRecord
from tests.auth.cached_world import World
from tests.auth.fakes import AskedSource, outcome

KEY = b"digest-of-key"
GOOD = KeyRecord(id="k")


@contextmanager
def logged() -> Iterator[list[LogEvent]]:
    """Gather what is logged."""
    events: list[LogEvent] = []

    @provider(ILogObserver)
    def note(event: LogEvent) -> None:
        events.append(event)

    globalLogPublisher.addObserver(note)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(note)


class Cache:
    """A cached source whose questions the test answers, on a clock that the test moves."""

    def __init__(self, recheck_s: float = 1.0, ttl_s: float = 60.0, **options: Any) -> None:
        self.clock = Clock()
        self.source = AskedSource()
        self.revoked: list[tuple[bytes, str, type[GatewayError]]] = []
        self.cache = CachedSource(
            self.source,
            CacheTimes(recheck_s, ttl_s, 5.0),
            clock=self.clock,
            now=lambda: 1000.0 + self.clock.seconds(),
            on_revoked=lambda digest, key_id, error: self.revoked.append(
                (digest, key_id, type(error))
            ),
            **options,
        )

    def ask(self, digest: bytes = KEY) -> Deferred[Verdict | None]:
        """Ask for a key."""
        return self.cache.ask("sk-one", digest)

    def know(self, record: KeyRecord | None = GOOD, digest: bytes = KEY) -> Any:
        """Ask for a key and answer at once."""
        asked = self.ask(digest)
        self.source.answer(record)
        return outcome(asked)


def test_young_verdict_holds() -> None:
    """Within the interval nobody is asked; from its end on, nothing is said at once."""
    it = Cache()
    assert it.cache.recall(KEY) is UNSAID
    known = it.know()
    assert isinstance(known, PreparedKey)
    assert known.record == GOOD
    it.clock.advance(0.99)
    assert it.cache.recall(KEY) is known
    it.clock.advance(0.01)
    assert it.cache.recall(KEY) is UNSAID
    assert it.cache.has_record(KEY)


def test_age_counts_from_the_question() -> None:
    """What came late is old already."""
    it = Cache()
    it.ask()
    it.clock.advance(1.0)
    it.source.answer(GOOD)
    assert it.cache.recall(KEY) is UNSAID


def test_same_record_is_the_same_object() -> None:
    """A verdict that was renewed and says the same is not made again."""
    it = Cache()
    known = it.know()
    it.clock.advance(2.0)
    assert it.know(KeyRecord(id="k")) is known
    assert it.cache.recall(KEY) is known
    assert it.know(KeyRecord(id="k", name="new")) is not known


def test_unknown_is_remembered() -> None:
    """A key that is not known stays so for a while; it is no record."""
    it = Cache()
    assert it.know(None) is None
    it.clock.advance(4.9)
    assert it.cache.recall(KEY) is None
    assert not it.cache.has_record(KEY)
    it.clock.advance(0.1)
    assert it.cache.recall(KEY) is UNSAID


def test_known_key_becomes_unknown_and_known_again() -> None:
    """There is only ever one verdict."""
    it = Cache()
    it.know()
    assert it.know(None) is None
    assert it.cache.recall(KEY) is None
    known = it.know()
    assert it.cache.recall(KEY) is known


def test_single_flight() -> None:
    """All who ask for a key while it is looked up share the look-up; other keys have their own."""
    it = Cache()
    asked = [it.ask() for _ in range(5)]
    other = it.ask(b"other")
    assert it.source.asked == 2
    it.source.answer(GOOD)
    assert len({outcome(one) for one in asked}) == 1
    assert outcome(other) is None
    it.source.answer(None)
    assert it.cache.recall(b"other") is None


def test_one_who_leaves_does_not_end_it() -> None:
    """Cancelling one who waits leaves the others waiting."""
    it = Cache()
    gone, stays = it.ask(), it.ask()
    gone.addErrback(lambda _: None)
    gone.cancel()
    assert it.source.cancelled == 0
    it.source.answer(GOOD)
    assert isinstance(outcome(stays), PreparedKey)


def test_last_one_who_leaves_ends_it() -> None:
    """A look-up that nobody waits for is cancelled, and says nothing of the source."""
    it = Cache()
    for one in [it.ask(), it.ask()]:
        one.addErrback(lambda _: None)
        one.cancel()
    assert it.source.cancelled == 1
    assert it.cache.recall(KEY) is UNSAID
    assert isinstance(it.know(), PreparedKey)
    assert "asking=0" in repr(it.cache)


def test_source_that_fails_when_cancelled() -> None:
    """Even a source that calls its cancelling an outage has none."""
    it = Cache()
    it.source.cancel_error = StoreUnavailable("cut")
    asked = it.ask()
    asked.addErrback(lambda _: None)
    asked.cancel()
    it.ask()
    assert it.source.asked == 2
    assert " up " in repr(it.cache)


def test_outage_holds_verdicts() -> None:
    """While the source is down, old verdicts pass; one request in a while waits for it."""
    it = Cache()
    known = it.know()
    it.clock.advance(2.0)
    asked = it.ask()
    it.source.fail()
    assert outcome(asked) is known
    assert it.cache.recall(KEY) is known
    it.clock.advance(1.0)
    assert it.cache.recall(KEY) is UNSAID
    asked = it.ask()
    assert it.cache.recall(KEY) is known  # others pass while one tries
    it.source.fail()
    assert outcome(asked) is known
    it.clock.advance(1.99)
    assert it.cache.recall(KEY) is known
    it.clock.advance(0.01)
    assert it.cache.recall(KEY) is UNSAID


def test_pauses_grow_up_to_a_bound() -> None:
    """A source that stays down is tried again after 1, 2, 4, 5, 5 seconds."""
    it = Cache()
    it.know()
    pauses = []
    it.clock.advance(1.0)
    for _ in range(5):
        it.ask().addErrback(lambda _: None)
        it.source.fail()
        began = it.clock.seconds()
        while it.cache.recall(KEY) is not UNSAID:
            it.clock.advance(0.5)
        pauses.append(it.clock.seconds() - began)
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_verdict_grows_too_old() -> None:
    """Beyond cache_ttl nothing passes, and the source is still not asked by every request."""
    it = Cache(ttl_s=10.0)
    it.know()
    it.clock.advance(9.9)
    it.ask()
    it.source.fail()
    it.clock.advance(0.1)
    assert it.cache.recall(KEY) is UNSAID
    assert outcome(it.ask()) is AuthUnavailable
    assert it.source.asked == 2
    it.clock.advance(1.0)
    asked = it.ask()
    it.source.fail()
    assert outcome(asked) is AuthUnavailable
    assert it.cache.has_record(KEY)


def test_unknown_key_in_an_outage() -> None:
    """What is not known cannot be let pass, nor be called unknown."""
    it = Cache()
    it.know(None)
    it.clock.advance(5.0)
    asked = it.ask()
    it.source.fail()
    assert outcome(asked) is AuthUnavailable
    assert it.cache.recall(KEY) is UNSAID
    assert outcome(it.ask()) is AuthUnavailable
    it.clock.advance(1.0)
    assert isinstance(it.know(), PreparedKey)
    assert isinstance(it.cache.recall(KEY), PreparedKey)


def test_one_keys_outage_is_not_anothers() -> None:
    """A key whose record cannot be read does not keep others from being renewed."""
    it = Cache()
    it.ask(b"odd").addErrback(lambda _: None)
    it.source.fail(MalformedRecord("status is unknown"))
    assert isinstance(it.know(), PreparedKey)


def test_network_that_is_none_is_an_outage() -> None:
    """A record that cannot be judged is not kept."""
    it = Cache()
    assert it.know(KeyRecord(id="k", allowed_ips=("nonsense",))) is AuthUnavailable
    assert not it.cache.has_record(KEY)


def test_zero_times_keep_nothing() -> None:
    """With an interval of 0 every request asks, and with a time of 0 nothing outlasts an outage."""
    it = Cache(recheck_s=0.0, ttl_s=0.0)
    it.know()
    assert it.cache.recall(KEY) is UNSAID
    asked = it.ask()
    it.source.fail()
    assert outcome(asked) is AuthUnavailable


def test_forget_some_keys() -> None:
    """Those keys are asked for anew, and all that were unknown; others are still known."""
    it = Cache()
    it.know(KeyRecord(id="a"), b"a")
    it.know(KeyRecord(id="b"), b"b")
    it.know(None, b"c")
    it.cache.forget({"a", "elsewhere"})
    assert it.cache.recall(b"a") is UNSAID
    assert it.cache.recall(b"b") is not UNSAID
    assert it.cache.recall(b"c") is UNSAID
    it.cache.forget(None)
    assert it.cache.recall(b"b") is UNSAID


def test_forgotten_keys_were_known() -> None:
    """Whoever has one is no guesser; but no verdict is left, and its end is told of already."""
    it = Cache()
    it.know()
    it.cache.forget({"k"})
    assert it.cache.has_record(KEY)
    asked = it.ask()
    it.source.fail()
    assert outcome(asked) is AuthUnavailable
    it.clock.advance(1.0)
    it.know(None)
    assert it.revoked == []
    assert not it.cache.has_record(KEY)


def test_clock_that_is_set_back() -> None:
    """Nothing becomes younger: neither verdicts, nor unknown keys, nor outages."""
    it = Cache()
    it.clock.advance(7200.0)
    it.know()
    it.know(None, b"unknown")
    it.ask(b"out").addErrback(lambda _: None)
    it.source.fail()
    it.clock.rightNow -= 3600.0
    assert it.cache.recall(KEY) is UNSAID
    assert it.cache.recall(b"unknown") is UNSAID
    asked = it.ask()
    it.source.fail()
    assert outcome(asked) is AuthUnavailable
    assert isinstance(it.know(digest=b"out"), PreparedKey)


class Incomparable:
    """Like what is nested so deeply that comparing it fails."""

    def __eq__(self, other: object) -> bool:
        """Fail."""
        raise RecursionError

    __hash__ = None  # type: ignore[assignment]


def test_record_that_cannot_be_compared() -> None:
    """Who waits for it gets an answer, and so does who comes next."""
    it = Cache()
    before = it.know(KeyRecord(id="k", metadata={"x": Incomparable()}))
    it.clock.advance(1.0)
    asked = it.ask()
    with logged():
        it.source.answer(KeyRecord(id="k", metadata={"x": Incomparable()}))
    found = outcome(asked)
    assert isinstance(found, PreparedKey)
    assert found is not before
    assert it.cache.recall(KEY) is found
    assert "asking=0" in repr(it.cache)


def test_forget_during_a_look_up() -> None:
    """What was asked before the change is asked again; nobody gets the old answer."""
    it = Cache()
    asked = it.ask()
    it.cache.forget(frozenset(("k",)))
    it.source.answer(GOOD)
    assert outcome(asked) is None
    assert it.source.asked == 2
    it.source.answer(None)
    assert it.cache.recall(KEY) is None


@pytest.mark.parametrize(
    ("renewed", "error"),
    [
        (None, InvalidApiKey),
        (KeyRecord(id="k", status="disabled"), KeyDisabled),
        (KeyRecord(id="k", name="renamed"), None),
        (KeyRecord(id="k", denied_ips=("10.0.0.0/8",)), None),
    ],
)
def test_tells_of_a_good_key_that_turned_bad(
    renewed: KeyRecord | None, error: type[GatewayError] | None
) -> None:
    """Once, with why; not of a key that is still good somewhere."""
    it = Cache()
    it.know()
    it.clock.advance(1.0)
    it.know(renewed)
    it.clock.advance(5.0)
    it.know(renewed)
    assert it.revoked == ([] if error is None else [(KEY, "k", error)])


def test_nothing_to_tell_of_a_bad_key() -> None:
    """A key that was expired already, or was never known, turns into nothing worse."""
    it = Cache()
    it.know(KeyRecord(id="k", expires_at_s=1000.5))
    it.clock.advance(1.0)
    it.know(None)
    it.know(None)
    assert it.revoked == []


def test_tables_are_bounded() -> None:
    """The keys used last are kept; guesses do not push out keys that are known."""
    it = Cache(recheck_s=100.0, max_entries=2)
    for digest in (b"a", b"b"):
        it.know(KeyRecord(id="k"), digest)
    assert it.cache.recall(b"a") is not UNSAID
    it.know(KeyRecord(id="k"), b"c")
    for number in range(10):
        it.know(None, b"guess%d" % number)
    assert [it.cache.has_record(digest) for digest in (b"a", b"b", b"c")] == [True, False, True]
    assert "known=2 unknown=2 asking=0" in repr(it.cache)


def test_look_ups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that hangs holds only so many requests; places come back."""
    monkeypatch.setattr(cached, "MAX_LOOKUPS", 2)
    it = Cache()
    it.ask(b"a")
    it.ask(b"b")
    assert outcome(it.ask(b"c")) is AuthUnavailable
    it.source.answer(None)
    it.ask(b"c")
    assert it.source.asked == 3


def test_bounded_look_ups_are_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that is slow to say of guesses that they are none keeps no known key out."""
    monkeypatch.setattr(cached, "MAX_LOOKUPS", 2)
    it = Cache()
    known = it.know()
    it.ask(b"a")
    it.ask(b"b")
    it.clock.advance(2.0)
    assert it.cache.recall(KEY) is UNSAID
    asked = it.ask()
    assert it.source.asked == 4
    it.source.questions.pop().callback(GOOD)
    assert outcome(asked) is known


def test_fault_of_the_source_is_not_swallowed() -> None:
    """What a source must not raise refuses the request, and is in the log with its trace."""
    it = Cache()
    with logged() as events:
        asked = it.ask()
        it.source.fail(ZeroDivisionError("a bug"))
    assert outcome(asked) is AuthUnavailable
    assert any(event["log_level"] is LogLevel.critical for event in events)


def test_outage_is_told_once() -> None:
    """One line when it begins, one when it is over, neither with a key."""
    it = Cache()
    with logged() as events:
        for digest in (b"a", b"b", b"a"):
            it.ask(digest).addErrback(lambda _: None)
            it.source.fail()
            it.clock.advance(3.0)
        it.know()
    lines = [formatEvent(event) for event in events]
    assert lines == ["key source asked cannot be asked: down", "key source asked answers again"]


KEYS = st.sampled_from("abcd")
STEPS = st.one_of(
    st.tuples(st.sampled_from(["request", "met", "lost", "toggle"]), KEYS),
    st.tuples(st.just("advance"), st.sampled_from([0.1, 0.6, 1.0, 2.5, 4.0])),
    st.tuples(st.sampled_from(["answer", "fail", "leave"])),
    st.tuples(st.just("forget"), st.sampled_from(["a", "b", None])),
)


@settings(max_examples=250)
@given(st.lists(STEPS, min_size=20, max_size=80))
def test_over_any_schedule(steps: list[tuple[Any, ...]]) -> None:
    """Never a verdict older than allowed, never two look-ups of a key, never more than fits."""
    world = World()
    for credential in "abc":
        world.toggle(credential)
    for step, *of in steps:
        getattr(world, step)(*of)
        assert not world.broken
        assert len(world.cache._known) <= 3
        assert len(world.cache._unknown) <= 3
        assert len(world.cache._outages) <= 3
    while world.questions:
        world.answer()
    assert "asking=0" in repr(world.cache)
    assert not world.clock.getDelayedCalls()


def test_source_that_answers_in_the_same_turn() -> None:
    """Such a one needs no waiting."""
    it = Cache()
    it.source.find = lambda credential: succeed(GOOD)  # type: ignore[method-assign]
    found = outcome(it.ask())
    assert found is it.cache.recall(KEY)
