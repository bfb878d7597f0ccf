"""Tests of `llmproxy.wire.tool_calls`."""

from __future__ import annotations

from llmproxy.wire.tool_calls import (
    LONGEST_FUNCTION,
    MOST_FUNCTIONS,
    OTHER_FUNCTIONS,
    add_calls,
)


def test_calls_are_added() -> None:
    """To those of the same function."""
    sums = {"read": 2}
    add_calls(sums, {"read": 1, "write": 3})
    assert sums == {"read": 3, "write": 3}


def test_names_are_bounded() -> None:
    """However many somebody makes up, and however long; no call is lost."""
    sums: dict[str, int] = {}
    for number in range(5):
        add_calls(sums, {f"{number}-{one}" + "x" * 1000: 1 for one in range(MOST_FUNCTIONS)})
    assert len(sums) == MOST_FUNCTIONS + 1
    assert sums[OTHER_FUNCTIONS] == 4 * MOST_FUNCTIONS
    assert max(map(len, sums)) == LONGEST_FUNCTION
