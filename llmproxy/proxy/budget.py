"""How many bytes of request bodies the daemon holds at once."""

from __future__ import annotations

import attrs
from zope.interface import implementer

from llmproxy.interfaces import IByteBudget


@implementer(IByteBudget)
@attrs.define
class ByteBudget:
    """Bytes that all request bodies together may hold.

    Attributes:
        limit_bytes: How many.
        taken_bytes: How many are held now.
    """

    limit_bytes: int
    taken_bytes: int = 0

    def take(self, size_bytes: int) -> bool:
        """Take bytes out, if they are there."""
        if self.taken_bytes + size_bytes > self.limit_bytes:
            return False
        self.taken_bytes += size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        """Return bytes."""
        self.taken_bytes -= size_bytes
        assert self.taken_bytes >= 0
