"""Receives a body and keeps what it was given, piece by piece."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure


class Receiver(Protocol):
    """Keeps the pieces of a body and how it ended.

    Attributes:
        pieces: One for each ``dataReceived``.
        reason: How it ended; None before.
        ended: Fires at the end.
        on_piece: Called with the receiver after each piece.
    """

    def __init__(self, on_piece: Callable[[Receiver], None] | None = None) -> None:
        self.pieces: list[bytes] = []
        self.reason: Failure | None = None
        self.ended: Deferred[None] = Deferred()
        self.on_piece = on_piece

    def dataReceived(self, data: bytes) -> None:
        """Keep a piece."""
        assert self.reason is None, "a piece after the end"
        assert data, "an empty piece"
        self.pieces.append(data)
        if self.on_piece is not None:
            self.on_piece(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Keep the end."""
        assert self.reason is None, "ended twice"
        self.reason = reason
        self.ended.callback(None)

    @property
    def body(self) -> bytes:
        """All that came."""
        return b"".join(self.pieces)

    @property
    def end(self) -> str:
        """The name of the reason that it ended with; empty before."""
        return "" if self.reason is None else type(self.reason.value).__name__
