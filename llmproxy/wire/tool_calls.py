"""Calls of functions added up, by names that backends and clients make up: so within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MOST_FUNCTIONS: Final = 100
"""Names in one sum; the calls of further ones are counted under `OTHER_FUNCTIONS`."""

LONGEST_FUNCTION: Final = 128
"""Characters of a name; what is longer is cut."""

OTHER_FUNCTIONS: Final = "(other)"


def add_calls(sums: dict[str, int], calls: Mapping[str, int]) -> None:
    """Add calls to those of the same function.

    Args:
        sums: Calls by function; changed here.
        calls: What to add.
    """
    for function, count in calls.items():
        name = function[:LONGEST_FUNCTION]
        if name not in sums and len(sums) >= MOST_FUNCTIONS:
            name = OTHER_FUNCTIONS
        sums[name] = sums.get(name, 0) + count
