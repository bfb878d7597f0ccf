"""Tests of `llmproxy.vitals.breaker`."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.values import Evidence
from llmproxy.vitals.breaker import ANSWERS_PER_FAILURE, Breaker, BreakerSettings

SETTINGS = BreakerSettings(failures=5, window_s=60.0, open_for_s=30.0)
EVIDENCE: dict[str, Evidence] = {"+": "good", "-": "bad", "0": "none"}


def after(evidence: str, settings: BreakerSettings = SETTINGS, *, every_s: float = 1.0) -> Breaker:
    """Make a breaker that saw this, the last of it at the time 0."""
    breaker = Breaker(settings)
    for number, one in enumerate(reversed(range(len(evidence)))):
        breaker.observe(object(), EVIDENCE[evidence[number]], -one * every_s)
    return breaker


def probing(at_s: float = 30.0) -> tuple[Breaker, object]:
    """Make a breaker that is half-open, with its probe out."""
    breaker, probe = after("-----"), object()
    breaker.begin(probe, at_s)
    assert breaker.probe is probe
    return breaker, probe


@pytest.mark.parametrize(
    ("evidence", "closed"),
    [
        ("", True),
        ("----", True),
        ("-----", False),
        ("-+-+-+-+-", False),
        ("+" * 1000 + "-----", False),
        ("0" * 1000, True),
        ("----" + "0" * 1000, True),
        ("----" + "0" * 1000 + "-", False),
    ],
)
def test_too_many_failures_open_it(evidence: str, closed: bool) -> None:
    """The fifth within the window does, whatever was good before; nothing else counts."""
    breaker = after(evidence, every_s=0.01)
    assert breaker.is_closed is closed
    assert breaker.times_opened == (not closed)


def test_window() -> None:
    """Failures that are further apart than the window are not together."""
    assert not after("-----", every_s=15.0).is_closed
    assert after("-----", every_s=15.001).is_closed
    assert after("-" * 100, every_s=15.001).is_closed


def test_few_of_many() -> None:
    """A busy backend that fails one request of a hundred stays; one of ten does not."""
    assert after(("-" + "+" * 99) * 50, every_s=0.001).is_closed
    assert not after(("-" + "+" * (ANSWERS_PER_FAILURE - 1)) * 5, every_s=0.001).is_closed


def test_no_breaker() -> None:
    """With 0 failures nothing opens it."""
    assert after("-" * 100, BreakerSettings(failures=0)).is_closed


def test_open_for_its_time() -> None:
    """Nothing goes there while it is open; then one request, alone."""
    breaker = after("-----")
    assert [breaker.position(now) for now in (0, 29.9, 30)] == ["open", "open", "half_open"]
    assert [breaker.admits(now) for now in (0, 29.9, 30)] == [False, False, True]
    breaker.begin(object(), 29.9)
    assert breaker.probe is None
    breaker.begin(object(), 30)
    assert not breaker.admits(30)
    assert not breaker.admits(1000)


def test_good_probe_closes_it() -> None:
    """And what was held against it is forgotten."""
    breaker, probe = probing()
    assert breaker.observe(probe, "good", 31)
    assert breaker.is_closed
    for _ in range(4):
        assert not breaker.observe(object(), "bad", 31)
    assert breaker.is_closed


def test_bad_probe_opens_it_again() -> None:
    """For as long as before, at the first failure."""
    breaker, probe = probing()
    assert breaker.observe(probe, "bad", 40)
    assert breaker.times_opened == 2
    assert [breaker.position(now) for now in (69.9, 70)] == ["open", "half_open"]
    assert breaker.admits(70)


@pytest.mark.parametrize("told", [True, False])
def test_probe_without_a_result_makes_room(told: bool) -> None:
    """Whoever left, or was answered 400, proves nothing: the next request is the probe."""
    breaker, probe = probing()
    if told:
        assert not breaker.observe(probe, "none", 31)
    breaker.end(probe)
    assert breaker.position(31) == "half_open"
    assert breaker.admits(31)


def test_only_the_probe_counts() -> None:
    """Stragglers, and those that went there because there was nobody else, change nothing."""
    breaker, probe = probing()
    for evidence in EVIDENCE.values():
        assert not breaker.observe(object(), evidence, 31)
    breaker.end(object())
    assert breaker.probe is probe
    assert breaker.position(31) == "half_open"
    assert breaker.last_failure_s == 31


def test_an_old_probe_is_none() -> None:
    """One that ends after its breaker was closed and opened again is a straggler."""
    breaker, old = probing()
    breaker.close()
    for _ in range(5):
        breaker.observe(object(), "bad", 50)
    assert not breaker.observe(old, "good", 51)
    breaker.begin(new := object(), 80)
    breaker.end(old)
    assert breaker.probe is new


@given(st.lists(st.tuples(st.sampled_from("+-0"), st.floats(0, 20)), max_size=60))
def test_as_by_definition(seen: list[tuple[str, float]]) -> None:
    """It opens with the first failure that is the last of five in the window, in fifty answers."""
    breaker, now_s = Breaker(SETTINGS), 0.0
    answers: list[tuple[float, bool]] = []
    for one, later_s in seen:
        now_s += later_s
        breaker.observe(object(), EVIDENCE[one], now_s)
        if one != "0":
            answers.append((now_s, one == "-"))
        if one == "-" and too_many(answers, now_s):
            assert not breaker.is_closed
            return
        assert breaker.is_closed


def too_many(answers: Iterable[tuple[float, bool]], now_s: float) -> bool:
    """Say whether there are five failures in the window, counted from the end."""
    failures = 0
    for length, (at_s, failed) in enumerate(reversed(list(answers)), 1):
        failures += failed
        if failed and failures == 5:
            return now_s - at_s <= 60.0 and length <= 50
    return False


def test_new_settings() -> None:
    """They hold from then on, for what was seen before as well."""
    breaker = after("---")
    breaker.settings = BreakerSettings(failures=4, open_for_s=5.0)
    assert breaker.observe(object(), "bad", 1.0)
    assert breaker.position(6.0) == "half_open"
