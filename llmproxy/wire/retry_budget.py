"""The arithmetic of a retry budget: further tries are a share of the requests, not a multiple.

Without one, a pool that fails has every request tried several times just when it can bear that
least. Each request pays a share of a try in; each further try takes a whole one out; a reserve lets
a gateway with few requests try again as well.
"""

from __future__ import annotations

from typing import Final

import attrs

RESERVE: Final = 10.0
"""Tries that may be made before any request has paid for them."""

LARGEST: Final = 100.0
"""Tries that can be saved up: a good hour does not pay for a storm."""


@attrs.define
class RetryBudget:
    """Counts what is left.

    Attributes:
        share: Of the requests, how many may be tried again: 0.2 is 20 %.
        refused: How many tries it did not pay for.
    """

    share: float
    refused: int = 0
    _tries: float = attrs.field(default=RESERVE, init=False)

    def pay_in(self) -> None:
        """Note a request."""
        self._tries = min(self._tries + self.share, LARGEST)

    def take(self) -> bool:
        """Take a further try out; say whether it was there."""
        if not self.share or self._tries < 1.0:
            self.refused += 1
            return False
        self._tries -= 1.0
        return True
