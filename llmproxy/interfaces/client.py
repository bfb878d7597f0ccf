"""The seams between the edge and the data path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class IByteBudget(Interface):
    """Bytes that all request bodies together may hold."""

    def take(size_bytes: int) -> bool:
        """Take bytes out of the budget.

        Returns:
            Whether they were there; when not, nothing was taken.
        """

    def give_back(size_bytes: int) -> None:
        """Return bytes that were taken."""


class IClientRequest(Interface):
    """One request of a client, as the data path sees it.

    The edge implements it over a `twisted.web` request. Writing after the client has gone is
    allowed and does nothing.
    """

    method: bytes = Attribute("The method.")
    path: bytes = Attribute("The target's path, as it came.")
    uri: bytes = Attribute("The target, as it came: path and query.")
    clientproto: bytes = Attribute("``HTTP/1.1`` or ``HTTP/1.0``.")
    raw_headers: Sequence[tuple[bytes, bytes]] = Attribute(
        "The fields in their order, names lower-cased, values stripped."
    )
    request_id: str = Attribute("The client's own if it is sane, else a new one.")
    client_ip: str = Attribute("Who calls, X-Forwarded-For of trusted proxies believed.")
    peer_ip: str = Attribute("Who is at the other end of the connection.")
    from_trusted_proxy: bool = Attribute("Whether ``peer_ip`` is a trusted proxy.")
    secure: bool = Attribute("Whether the client's connection is TLS here.")
    surplus: bool = Attribute("Whether its connection is over ``server.max_connections``.")
    certificate_subject: str = Attribute(
        "The subject of the client's certificate, which was verified; empty: it showed none."
    )
    started_s: float = Attribute("When its first byte was seen, on the reactor's clock.")
    repeats: dict[str, Any] = Attribute(
        "Shared by the requests of one connection whose heads are the same but for the length: "
        "there may be kept what was made of ``raw_headers``."
    )

    def header(name: bytes) -> bytes:
        """Give the value of the first field of that lower-case name, or nothing (``b""``)."""

    def read_body(limit_bytes: int, budget: IByteBudget) -> Deferred[bytes]:
        """Read the whole body.

        What it takes out of the budget stays taken; the caller gives back the body's length.

        Returns:
            A Deferred of the body. Cancelling it stops the reading. It fails with `BodyTooLarge`
            (at once when Content-Length tells), `MemoryBudgetSpent`, `RequestTimeout` or
            `ClientGone`, and then nothing stays taken.
        """

    def begin(status: int, reason: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Set the answer's head; it goes out with the first `write`."""

    def write(data: bytes) -> None:
        """Write a piece of the answer's body; an empty one sends just the head."""

    def finish() -> None:
        """End the answer well."""

    def refuse_further() -> None:
        """Close the client's connection after this answer; called before `begin`."""

    def break_off(farewell: bytes) -> None:
        """End the answer so that nobody takes it for complete, after a last piece if not empty."""

    def on_gone(callback: Callable[[], None]) -> None:
        """Have ``callback()`` called once if the client leaves before `finish`."""

    def registerProducer(producer: object, streaming: bool) -> None:
        """Attach the producer that is to be paused while the client takes nothing."""

    def unregisterProducer() -> None:
        """Detach it."""
