"""Tests of `llmproxy.vitals.ejection`."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.vitals.breaker import Breaker, BreakerSettings
from llmproxy.vitals.ejection import left_in

SETTINGS = BreakerSettings(failures=1, open_for_s=1000.0)


@attrs.frozen
class Member:
    """One of a pool."""

    name: str
    breaker: Breaker


def pool(failed_s: str) -> list[Member]:
    """Make a, b, c, ...; a digit is when the last failure opened the breaker, a dash: closed."""
    members = []
    for name, failed in zip("abcdefghij", failed_s, strict=False):
        breaker = Breaker(SETTINGS)
        if failed != "-":
            breaker.observe(object(), "bad", float(failed))
        members.append(Member(name, breaker))
    return members


def left(failed_s: str, percent: float = 50.0) -> str:
    """Give who is left."""
    return "".join(one.name for one in left_in(pool(failed_s), percent, 10.0))


@pytest.mark.parametrize(
    ("failed_s", "percent", "who"),
    [
        ("---", 50, "abc"),
        ("1-", 50, "b"),
        ("-1--", 50, "acd"),
        ("11--", 50, "cd"),
        # Never more than max_ejected, rounded down: the least bad stay.
        ("1213-", 50, "ace"),
        ("21-", 50, "bc"),
        ("1", 50, "a"),
        ("1", 100, "a"),
        ("1--", 33, "abc"),
        ("1--", 34, "bc"),
        ("1-", 0, "ab"),
        ("1111111---", 70, "hij"),
        # When all are out, the least bad is tried.
        ("3214", 100, "c"),
        ("3214", 75, "c"),
        ("12", 50, "a"),
        ("321", 0, "abc"),
    ],
)
def test_who_is_left(failed_s: str, percent: float, who: str) -> None:
    """In their order."""
    assert left(failed_s, percent) == who


def test_nothing_is_copied_when_all_is_well() -> None:
    """The pool itself is given."""
    well = pool("---")
    assert left_in(well, 50.0, 0.0) is well


def test_probe_counts_as_left_out() -> None:
    """A backend that is being probed gets nothing else, if there is another."""
    members = pool("1-")
    assert len(left_in(members, 50.0, 2000.0)) == 2
    members[0].breaker.begin(object(), 2000.0)
    assert [one.name for one in left_in(members, 50.0, 2000.0)] == ["b"]


@given(
    failed_s=st.text("-123456789", min_size=1, max_size=10),
    percent=st.floats(0, 100, allow_nan=False),
)
def test_never_too_many_never_all(failed_s: str, percent: float) -> None:
    """Whatever happened: somebody is left, no more are out than may be, and never a good one."""
    members = pool(failed_s)
    kept = left_in(members, percent, 10.0)
    out = [one for one in members if one not in kept]
    assert kept
    assert len(out) <= len(members) * percent / 100
    assert all(not one.breaker.is_closed for one in out)
    bad = [one.breaker.last_failure_s for one in kept if not one.breaker.is_closed]
    assert not out or not bad or max(bad) <= min(one.breaker.last_failure_s for one in out)
