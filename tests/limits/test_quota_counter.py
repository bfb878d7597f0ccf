"""Tests of ``llmproxy.limits.quota_counter``."""

from __future__ import annotations

from math import inf

from llmproxy.entitlements import Quota
from llmproxy.limits.quota_counter import QuotaCounter

DAY_S = 86_400
MONDAY_S = 4 * DAY_S
"""The first Monday after the epoch; it is in the first month."""


def counter(quota: Quota, now_s: float = MONDAY_S + 10.0) -> QuotaCounter:
    """Make one."""
    return QuotaCounter(quota, now_s, known=True)


def test_begins_where_it_is_told() -> None:
    """In the period that runs, from ``used_before``."""
    one = counter(Quota(100, "daily", used_before=7))
    assert (one.starts_s, one.ends_s) == (MONDAY_S, MONDAY_S + DAY_S)
    assert (one.used, one.pending, one.reserved, one.running) == (7, 0, 0, 0)
    assert repr(one) == "<QuotaCounter used=7 reserved=0 running=0>"


def test_reserve_and_settle() -> None:
    """As much as was asked for, or what is left; settled as it was used."""
    one = counter(Quota(100))
    assert one.reserve(70, 100) == 70
    assert one.reserve(70, 100) == 30
    assert (one.reserved, one.running) == (100, 2)
    one.settle(70, 40, 0)
    one.settle(30, 90, 0)
    assert (one.used, one.pending, one.reserved, one.running) == (130, 130, 0, 0)


def test_next_period() -> None:
    """Nothing is used in it; what runs stays reserved, and counts there."""
    one = counter(Quota(100, "daily", used_before=7))
    one.settle(one.reserve(20, 100), 20, MONDAY_S + 11)
    held = one.reserve(30, 100)
    one.settle(held, 25, MONDAY_S + DAY_S)
    assert (one.starts_s, one.ends_s) == (MONDAY_S + DAY_S, MONDAY_S + 2 * DAY_S)
    assert (one.used, one.pending, one.start, one.reserved) == (25, 25, 0, 0)
    one.observe("daily", MONDAY_S + 9 * DAY_S)
    assert (one.used, one.starts_s) == (0, MONDAY_S + 9 * DAY_S)


def test_clock_set_back() -> None:
    """The later period stands."""
    one = counter(Quota(100, "daily"))
    one.settle(one.reserve(20, 100), 20, MONDAY_S + 11)
    one.observe("daily", MONDAY_S - 1)
    assert (one.used, one.starts_s) == (20, MONDAY_S)


def test_other_periods() -> None:
    """A later beginning is a new period; an earlier one changes only the end."""
    one = counter(Quota(100, "monthly"))
    one.settle(one.reserve(20, 100), 20, MONDAY_S + 11)
    one.observe("weekly", MONDAY_S + 12)
    assert (one.used, one.starts_s, one.ends_s) == (0, MONDAY_S, MONDAY_S + 7 * DAY_S)
    one.settle(one.reserve(20, 100), 20, MONDAY_S + 13)
    one.observe("monthly", MONDAY_S + 14)
    assert (one.used, one.starts_s, one.ends_s) == (20, MONDAY_S, 31 * DAY_S)
    one.observe("never", MONDAY_S + 15)
    assert (one.used, one.ends_s) == (20, inf)
    one.observe("never", MONDAY_S + 1e9)
    assert one.used == 20


def test_learn() -> None:
    """What the store says, and what it has not been told on top."""
    one = counter(Quota(100, "daily", used_before=7))
    one.settle(one.reserve(20, 100), 20, MONDAY_S + 11)
    one.learn(MONDAY_S, 50)
    assert one.used == 70
    one.learn(MONDAY_S - DAY_S, 1_000)
    assert one.used == 20
    one.learn(MONDAY_S + DAY_S, 5)
    assert (one.used, one.starts_s, one.ends_s) == (25, MONDAY_S + DAY_S, MONDAY_S + 2 * DAY_S)
