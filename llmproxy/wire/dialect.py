"""A dialect: how one API tells usage, tool calls, ends and errors, in a stream or a plain answer.

One object reads one answer. A stream is not parsed as a whole: `Signs` tell by a byte search which
of its lines hold a fact, and only those are given to the dialect.
"""

from __future__ import annotations

import re
from typing import Protocol

import attrs

from llmproxy.values import Usage


@attrs.frozen
class Signs:
    """What to look for in a stream's lines.

    JSON escapes every quote inside a string, so bytes such as ``"usage"`` are a key or a whole
    string, never part of a text. Which kind a sign is, the byte after its opening quote tells;
    capturing groups would, too, but make the search several times as slow.

    Attributes:
        pattern: Finds them; each begins with a quote, and the pattern has no groups. A sign of a
            text ends with the text's first byte.
        facts: Second bytes of those that are worth parsing their line.
        texts: Second bytes of those with which something generated begins: it is counted. Some are
            of both kinds.
    """

    pattern: re.Pattern[bytes]
    facts: frozenset[int]
    texts: frozenset[int]

    def fact_in(self, payload: bytes) -> bool:
        """Say whether there is a fact in a payload."""
        return any(sign[1] in self.facts for sign in self.pattern.findall(payload))


class Dialect(Protocol):
    """Reads one answer of one API.

    What is malformed is left out; nothing here ever raises.
    """

    @property
    def signs(self) -> Signs:
        """What its streams' lines are searched for."""

    @property
    def finish_reason(self) -> str:
        """Why the answer ended, in the backend's own word; empty while that is not known."""

    @property
    def error(self) -> str:
        """What the backend reported as an error, in short; empty when it did not."""

    @property
    def done(self) -> bool:
        """Whether a stream has said its last word, other than ``[DONE]``, which every API may."""

    @property
    def text_bytes(self) -> int:
        """The size of the texts in a plain answer that tells no usage."""

    @property
    def counts_all(self) -> bool:
        """Whether `usage` counts the whole answer, not only its prompt."""

    def take_event(self, payload: bytes) -> None:
        """Read an event of a stream."""

    def take_answer(self, body: bytes) -> bool:
        """Read a plain answer; return whether it could be read."""

    def take_usage(self, report: object) -> None:
        """Read a plain answer's ``usage`` alone, where the rest of it is not at hand."""

    def usage(self) -> Usage | None:
        """Return what the backend counted so far; None when it told nothing."""

    def tool_calls(self) -> dict[str, int]:
        """Return the number of calls of each function."""
