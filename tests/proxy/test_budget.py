"""The byte budget: never over its limit, never below nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from llmproxy.interfaces import IByteBudget
from llmproxy.proxy.budget import ByteBudget


def test_it_is_what_the_edge_asks_for() -> None:
    """It provides the interface."""
    assert verifyObject(IByteBudget, ByteBudget(1))


def test_up_to_the_limit() -> None:
    """The limit itself can be taken, not a byte more; what fails takes nothing."""
    budget = ByteBudget(10)
    assert budget.take(4)
    assert not budget.take(7)
    assert budget.taken_bytes == 4
    assert budget.take(6)
    assert not budget.take(1)
    assert budget.take(0)
    budget.give_back(6)
    assert budget.take(5)
    assert budget.taken_bytes == 9


def test_too_much_given_back_is_a_bug_of_ours() -> None:
    """It does not go unseen."""
    budget = ByteBudget(10)
    budget.take(1)
    with pytest.raises(AssertionError):
        budget.give_back(2)


@given(sizes=st.lists(st.integers(0, 60)))
def test_any_order_of_takers(sizes: list[int]) -> None:
    """Whoever was given bytes and returns them leaves the budget as it was."""
    budget = ByteBudget(100)
    taken = [size for size in sizes if budget.take(size)]
    assert sum(taken) == budget.taken_bytes <= 100
    for size in taken:
        budget.give_back(size)
    assert budget.taken_bytes == 0
