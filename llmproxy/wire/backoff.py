"""The arithmetic of tries and of the waits between them."""

from __future__ import annotations

import attrs


@attrs.frozen
class Backoff:
    """How often and after which waits a request is tried again.

    Attributes:
        max_retries: Further tries after the first.
        initial_wait_s: Before the second round over the backends.
        max_wait_s: Longest wait.
        multiplier: Each wait is so much longer than the one before.
    """

    max_retries: int = 2
    initial_wait_s: float = 0.1
    max_wait_s: float = 2.0
    multiplier: float = 2.0

    def allows(self, attempts: int) -> bool:
        """Say whether another try may follow after so many."""
        return attempts <= self.max_retries

    def wait_s(self, waits: int) -> float:
        """Give the wait, in seconds, after so many earlier ones."""
        return min(self.initial_wait_s * self.multiplier**waits, self.max_wait_s)
