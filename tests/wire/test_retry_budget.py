"""Tests of `llmproxy.wire.retry_budget`."""

from __future__ import annotations

import pytest

from llmproxy.wire.retry_budget import LARGEST, RESERVE, RetryBudget


def tries(budget: RetryBudget, requests: int) -> int:
    """Give how many of so many requests, each of which fails, are tried again."""
    made = 0
    for _ in range(requests):
        budget.pay_in()
        made += budget.take()
    return made


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_a_share_of_the_requests_and_the_reserve(share: float) -> None:
    """When everything fails, no more than that is tried again."""
    budget = RetryBudget(share)
    assert tries(budget, 1000) == pytest.approx(1000 * share + RESERVE, abs=1)
    assert budget.refused == pytest.approx(1000 * (1 - share) - RESERVE, abs=1)


def test_few_requests_may_be_tried_again() -> None:
    """The reserve is theirs."""
    assert tries(RetryBudget(0.2), 5) == 5


def test_a_good_hour_does_not_pay_for_a_storm() -> None:
    """What is saved up is bounded."""
    budget = RetryBudget(0.2)
    for _ in range(100_000):
        budget.pay_in()
    made = 0
    while budget.take():
        made += 1
    assert made == LARGEST


def test_no_share_is_no_further_try() -> None:
    """Not even from the reserve."""
    assert tries(RetryBudget(0.0), 10) == 0
