"""The dialect of chat completions, completions, embeddings, rerank and score.

An answer has ``choices`` (or none, where nothing is generated) and ``usage``. In a stream each
event is a piece of some choices; usage may come on every event, on the last, or in one of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final

import msgspec

from llmproxy.values import Usage
from llmproxy.wire.answer_json import (
    error_text,
    fields_of,
    index_of,
    objects,
    read_object,
    text_bytes,
    text_of,
)
from llmproxy.wire.dialect import Signs
from llmproxy.wire.usage import UsageTally, read_usage

_SIGNS: Final = Signs(
    re.compile(
        rb'"(?:'
        rb'usage"[ \t]*:[ \t]*\{|finish_reason"[ \t]*:[ \t]*"|error"'
        rb'|name"[ \t]*:[ \t]*"[^"\r\n]'
        rb'|(?:content|text|reasoning|reasoning_content|arguments)"[ \t]*:[ \t]*"[^"\r\n]'
        rb")"
    ),
    facts=frozenset(b"ufen"),
    texts=frozenset(b"ctran"),
)
"""The name of a tool call is a fact, and generated. Later pieces of a call's arguments have no
name, so they are not parsed."""

_TEXT_KEYS: Final = frozenset(("content", "text", "reasoning", "reasoning_content", "arguments"))


class _Answer(msgspec.Struct):
    """A whole answer, or one event of a streamed one; checked part by part as it is used."""

    object: Any = None
    choices: Any = None
    usage: Any = None
    error: Any = None
    message: Any = None
    type: Any = None
    code: Any = None


_ANSWER: Final = msgspec.json.Decoder(_Answer)


class ChoicesDialect:
    """Reads one answer with choices.

    A call is counted by its place (choice, position), under the first name seen there: some
    servers repeat the name with every piece of the arguments. The older ``function_call`` counts
    where its choice has no ``tool_calls``; llama_cpp.server sends both.
    """

    __slots__ = ("_calls", "_old_calls", "_tally", "error", "finish_reason", "text_bytes")

    signs = _SIGNS
    done = False
    counts_all = True

    def __init__(self) -> None:
        self._calls: dict[tuple[int, int], str] = {}
        self._old_calls: dict[int, str] = {}
        self._tally = UsageTally()
        self.finish_reason = ""
        self.error = ""
        self.text_bytes = 0

    def take_event(self, payload: bytes) -> None:
        """Read an event; see `Dialect`."""
        event = self._read(payload)
        if event is None:
            return
        choices = objects(event.choices)
        for position, choice in enumerate(choices):
            if self._take(choice, position, "delta"):
                self._tally.choice_finished()
        usage = read_usage(event.usage)
        if usage is None:
            return
        if choices:
            is_text = event.object == "text_completion"
            self._tally.add_on_choice(index_of(choices[0], "index", 0), usage, own_prompt=is_text)
        else:
            self._tally.add_of_answer(usage)

    def take_answer(self, body: bytes) -> bool:
        """Read a plain answer; see `Dialect`."""
        answer = self._read(body)
        if answer is None:
            return False
        choices = objects(answer.choices)
        for position, choice in enumerate(choices):
            self._take(choice, position, "message")
        usage = read_usage(answer.usage)
        if usage is None:
            self.text_bytes = text_bytes(choices, _TEXT_KEYS)
        else:
            self._tally.add_of_answer(usage)
        return True

    def take_usage(self, report: object) -> None:
        """Read usage alone; see `Dialect`."""
        usage = read_usage(report)
        if usage is not None:
            self._tally.add_of_answer(usage)

    def usage(self) -> Usage | None:
        """Return the whole answer's usage so far; see `Dialect`."""
        return self._tally.total()

    def tool_calls(self) -> dict[str, int]:
        """Return the number of calls of each function."""
        if not self._calls and not self._old_calls:
            return {}
        with_calls = {index for index, _ in self._calls}
        names = [name for index, name in self._old_calls.items() if index not in with_calls]
        return dict(Counter([*self._calls.values(), *names]))

    def _read(self, payload: bytes) -> _Answer | None:
        answer = read_object(_ANSWER, payload)
        if answer is not None and not self.error:
            is_error = answer.object == "error"
            flat = (answer.message, answer.type, answer.code) if is_error else ()
            self.error = error_text(answer.error, *flat)
        return answer

    def _take(self, choice: dict[str, Any], position: int, message_key: str) -> bool:
        """Take one choice in; return whether it has a finish reason."""
        index = index_of(choice, "index", position)
        message = fields_of(choice.get(message_key))
        calls = message.get("tool_calls")
        # Older releases of TGI send the one call that a piece is of, not a list.
        calls = [calls] if isinstance(calls, dict) else objects(calls)
        for place, call in enumerate(calls):
            name = text_of(fields_of(call.get("function")).get("name"))
            if name:
                self._calls.setdefault((index, index_of(call, "index", place)), name)
        name = text_of(fields_of(message.get("function_call")).get("name"))
        if name:
            self._old_calls.setdefault(index, name)
        reason = text_of(choice.get("finish_reason"))
        self.finish_reason = self.finish_reason or reason
        return bool(reason)
