"""Where deliveries come from: something that gives one batch after the other.

It knows nothing of receivers, and of what follows when one does not take a batch.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from llmproxy.deliveries import Batch


@attrs.define
class Pending:
    """A batch whose delivery was begun.

    Attributes:
        batch: The batch.
        first_try_s: When it was tried first, seconds since the epoch.
        tries: How often it failed.
        away_s: How long since then nobody was there to try it.
    """

    batch: Batch
    first_try_s: float
    tries: int = 0
    away_s: float = 0.0


class BatchSource(Protocol):
    """Gives batches, one at a time."""

    def is_due(self, limit: int, interval_s: float) -> bool:
        """Say whether there is a full batch, or one whose first event has waited long enough.

        Raises:
            OSError: The spool cannot be read now.
        """

    def take(self, limit: int) -> Pending | None:
        """Give the batch that was begun, or begin one; None: there is nothing.

        Raises:
            OSError: The spool cannot be read now.
        """

    def failed(self) -> None:
        """Note that the batch which was given was not taken; it is given again."""

    def done(self) -> None:
        """Go on behind the batch that was given."""

    def close(self) -> None:
        """Give no more."""
