"""A model that a test writes, turn by turn, in the events of a streamed chat completion."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from tests.scripted_backend import Connection, Seen, event

Turn = Callable[[Connection], object]
"""Answers one request; True when the connection is over with that."""


def delta(fields: Mapping[str, Any], reason: str | None = None) -> bytes:
    """Encode one event of an answer."""
    choice = {"index": 0, "delta": fields, "finish_reason": reason}
    return event(
        json.dumps(
            {"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
        )
    )


def streams(*events: bytes) -> Turn:
    """Make a turn of a whole stream, whatever its events."""

    def turn(connection: Connection) -> None:
        connection.stream_head()
        connection.chunk(b"".join(events))
        connection.chunk(b"")

    return turn


def says(text: str, thinking: str = "") -> Turn:
    """Make a turn that says something, and before that, perhaps, what the model thinks."""
    thoughts = [delta({"role": "assistant", "reasoning_content": thinking})] if thinking else []
    said = delta({"role": "assistant", "content": text})
    return streams(*thoughts, said, delta({}, "stop"), event("[DONE]"))


def calls(tool: str, **arguments: Any) -> Turn:
    """Make a turn that calls a tool."""
    function = {"name": tool, "arguments": json.dumps(arguments)}
    # Each call of a conversation has an id of its own.
    number = next(_NUMBERS)
    call = {"index": 0, "id": f"call-{number}", "type": "function", "function": function}
    return streams(
        delta({"role": "assistant", "tool_calls": [call]}),
        delta({}, "tool_calls"),
        event("[DONE]"),
    )


_NUMBERS = iter(range(1_000_000))


def refuses(status: bytes, message: str, more: bytes = b"") -> Turn:
    """Make a turn that answers with an error."""

    def turn(connection: Connection) -> None:
        body = json.dumps({"error": {"message": message, "type": "x", "code": None}})
        connection.answer(body.encode(), status=status, more=more)

    return turn


def _in_order(turns: Mapping[str, Iterable[Turn]]) -> dict[str, deque[Turn]]:
    return {name: deque(each) for name, each in turns.items()}


@attrs.define
class ScriptedModel:
    """A backend's script: the turns of each model in their order.

    Requests without tools, for titles and summaries, are answered outside of them.

    Args:
        turns: By model; a subagent's have ``/subagent`` behind the model's name.

    Attributes:
        asked: The requests, each with its body.
    """

    turns: dict[str, deque[Turn]] = attrs.field(converter=_in_order)
    asked: list[tuple[Seen, dict[str, Any]]] = attrs.field(factory=list, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def __call__(self, connection: Connection) -> None:
        """Answer all requests of a connection."""
        while (seen := connection.read_request()) is not None:
            request = json.loads(seen.body)
            name = str(request["model"])
            if seen.header("X-Parent-Session-Id"):
                name += "/subagent"
            with self._lock:
                self.asked.append((seen, request))
                turn = self.turns[name].popleft() if "tools" in request else says("A title")
            if turn(connection):
                return

    def left(self) -> dict[str, int]:
        """Give how many turns were not asked for, by model."""
        return {name: len(turns) for name, turns in self.turns.items() if turns}

    def turns_of(self, model: str) -> list[tuple[Seen, dict[str, Any]]]:
        """Give the requests for a model that had tools."""
        return [one for one in self.asked if one[1]["model"] == model and "tools" in one[1]]


def texts_of(messages: Iterable[Mapping[str, Any]], role: str) -> list[str]:
    """Give the contents of the messages of a role, as text."""
    return [json.dumps(message["content"]) for message in messages if message["role"] == role]
