"""The meter: what one answer cost and did, read from its bytes as they pass.

It is fed each piece by reference after the piece was written to the client, so it never delays
one. Which API's words to look for, the endpoint tells; whether the answer is a stream, its head.
The module must not know how the bytes came or where they went.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from llmproxy.proxy.plain_meter import PlainMeter
from llmproxy.proxy.stream_meter import StreamMeter
from llmproxy.values import MeterReading
from llmproxy.wire.choices_dialect import ChoicesDialect
from llmproxy.wire.dialect import Dialect
from llmproxy.wire.messages_dialect import MessagesDialect
from llmproxy.wire.responses_dialect import ResponsesDialect
from llmproxy.wire.sse import LONGEST_BOUNDARY, ends_at_event

DIALECTS: Final[Mapping[bytes, Callable[[], Dialect]]] = {
    b"/v1/responses": ResponsesDialect,
    b"/v1/messages": MessagesDialect,
}
"""By endpoint; all others speak of choices."""

NOTHING_GENERATED: Final = frozenset((b"/v1/embeddings", b"/v1/rerank", b"/v1/score"))
"""Endpoints that use tokens for the prompt alone."""

NOTHING_COUNTED: Final = frozenset((b"/tokenize", b"/detokenize"))
"""Endpoints that use no tokens."""


class Meter(Protocol):
    """Reads one answer; fed as it passes, asked at its end.

    Memory is bounded: one line of a stream, or `plain_meter.WHOLE_LIMIT_BYTES` of a plain answer.
    """

    @property
    def ends_at_event(self) -> bool:
        """Whether what was fed so far ends with a whole event (streams only)."""

    @property
    def done(self) -> bool:
        """Whether a stream said its last word: all that it had to say has come."""

    def ends_torn(self) -> bool:
        """Say whether a stream that ended here was cut: in an event, and without its last word."""

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the body, any size, cut anywhere; it is kept by reference."""

    def reading(self, complete: bool) -> MeterReading:
        """Return what was seen; may be asked again.

        Args:
            complete: Whether the body came to its end. A stream that said its last word counts as
                complete anyway, an answer that reports an error as not.

        Returns:
            ``exact`` with the backend's own counts of a complete answer; ``estimated`` for one
            that it did not count. ``partial`` for an answer that is not complete: the backend's
            last counts, if it sent any, and estimates of what they leave out. ``none`` where there
            is nothing to count: no tokens are used, nothing came, or nothing but an error.
            `docs/metering.md` has the rules of the estimates.
        """


def make_meter(endpoint: bytes, *, status: int, stream: bool, prompt_tokens: int) -> Meter:
    """Make the meter of one answer.

    Args:
        endpoint: The path that was called.
        status: The answer's.
        stream: Whether the answer is an event stream, by its content type.
        prompt_tokens: An estimate of the prompt, for a backend that does not count it.
    """
    if status >= 400 or endpoint in NOTHING_COUNTED:
        return NoMeter()
    dialect = DIALECTS.get(endpoint, ChoicesDialect)
    if stream:
        return StreamMeter(dialect(), prompt_tokens)
    return PlainMeter(dialect, prompt_tokens, generates=endpoint not in NOTHING_GENERATED)


class NoMeter:
    """Of an answer in which there is nothing to count; knows where a stream stands, no more."""

    __slots__ = ("_last",)

    done = False

    def __init__(self) -> None:
        self._last = b""

    @property
    def ends_at_event(self) -> bool:
        """Whether what was fed so far ends with a whole event."""
        return ends_at_event(self._last)

    def ends_torn(self) -> bool:
        """Say whether a stream that ended here was cut."""
        return not self.ends_at_event

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""
        self._last = (self._last + piece[-LONGEST_BOUNDARY:])[-LONGEST_BOUNDARY:]

    def reading(self, complete: bool) -> MeterReading:
        """Return that there is nothing to count."""
        del complete
        return MeterReading()
