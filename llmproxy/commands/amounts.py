"""Amounts of tokens as people write and read them: ``20M``, ``1.5k``, ``1,234``.

Pure. Amounts are rounded down when they are shown: a budget is not shown as spent before it is.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from llmproxy.wire.admin import LARGEST_NUMBER

WANTED_AMOUNT: Final = "a number such as 200000, 500k, 20M or 1.5B"
_AMOUNT = re.compile(
    r"([0-9]+(?:_[0-9]+)*|[0-9]{1,3}(?:,[0-9]{3})+)(\.[0-9]+)? ?([kKmMbBgGtT]?)", re.ASCII
)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_SHOWN = ((10**12, "T"), (10**9, "B"), (10**6, "M"))


def parse_amount(text: str) -> int:
    """Read an amount; the units are powers of a thousand.

    Raises:
        ValueError: It is none, is no whole number, or is too large; says what is wanted.
    """
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"want {WANTED_AMOUNT}")
    whole, fraction, unit = found.groups()
    digits = whole.replace(",", "").replace("_", "")
    amount = Decimal(digits + (fraction or "")) * _UNITS[unit.lower()]
    if amount != amount.to_integral_value():
        raise ValueError(f"want a whole number, as in {WANTED_AMOUNT}")
    if amount > LARGEST_NUMBER:
        raise ValueError(f"want {WANTED_AMOUNT}, and no more than {LARGEST_NUMBER:,}")
    return int(amount)


def short_amount(amount: int) -> str:
    """Show an amount in a few characters: whole below a million, then with one decimal."""
    for unit, letter in _SHOWN:
        if amount >= unit:
            whole, tenths = divmod(amount * 10 // unit, 10)
            return f"{whole:,}.{tenths}{letter}" if tenths else f"{whole:,}{letter}"
    return f"{amount:,}"


def percent(part: int, whole: int) -> str:
    """Show how much of a whole a part is, rounded down; of nothing all is used."""
    return f"{part * 100 // whole}%" if whole else "100%"
