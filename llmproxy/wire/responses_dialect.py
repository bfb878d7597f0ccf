"""The dialect of OpenAI's Responses API.

A stream's events have a type each. What counts stands in the last one, which holds the whole
answer again: ``response.completed``, ``response.incomplete`` or ``response.failed``. There is no
``[DONE]``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable
from typing import Any, Final

import msgspec

from llmproxy.values import Usage
from llmproxy.wire.answer_json import (
    error_text,
    fields_of,
    objects,
    read_object,
    text_bytes,
    text_of,
)
from llmproxy.wire.dialect import Signs
from llmproxy.wire.usage import read_responses_usage

_SIGNS: Final = Signs(
    re.compile(
        rb'"(?:'
        rb'delta"[ \t]*:[ \t]*"[^"\r\n]'
        rb'|response\.(?:completed|incomplete|failed)"'
        rb'|(?:function|custom_tool|mcp)_call"'
        rb'|error"(?![ \t]*:[ \t]*null)'
        rb")"
    ),
    facts=frozenset(b"rfcme"),
    texts=frozenset(b"d"),
)
"""Texts, reasoning and arguments all come as ``delta``. The first events of a stream hold the
request's instructions and tools again, with ``"error": null``: nothing in them is worth parsing."""

_ENDS: Final = frozenset(("response.completed", "response.incomplete", "response.failed"))
_CALLS: Final = frozenset(("function_call", "custom_tool_call", "mcp_call"))
"""Kinds of output items that call a function by its name."""
_TEXT_KEYS: Final = frozenset(("text", "arguments", "input"))


class _Event(msgspec.Struct):
    """One event of a stream; checked part by part as it is used."""

    type: Any = None
    response: Any = None
    item: Any = None
    output_index: Any = None
    error: Any = None
    message: Any = None
    code: Any = None


class _Response(msgspec.Struct):
    """A whole answer."""

    status: Any = None
    incomplete_details: Any = None
    output: Any = None
    usage: Any = None
    error: Any = None


_EVENT: Final = msgspec.json.Decoder(_Event)
_RESPONSE: Final = msgspec.json.Decoder(_Response)


class ResponsesDialect:
    """Reads one answer of the Responses API.

    The calls in the whole answer are the calls. As long as it has not come, they are the items that
    were begun, told apart by their place in the output, or by their id where a server does not say
    the place (llama-server). The ids of one call may differ between its events and the answer.
    """

    __slots__ = (
        "_begun",
        "_called",
        "_usage",
        "done",
        "error",
        "finish_reason",
        "text_bytes",
    )

    signs = _SIGNS
    counts_all = True

    def __init__(self) -> None:
        self._begun: dict[Hashable, str] = {}
        self._called: list[str] = []
        self._usage: Usage | None = None
        self.finish_reason = ""
        self.error = ""
        self.done = False
        self.text_bytes = 0

    def take_event(self, payload: bytes) -> None:
        """Read an event; see `Dialect`."""
        event = read_object(_EVENT, payload)
        if event is None:
            return
        flat = (event.message, event.code) if event.type == "error" else ()
        self.error = self.error or error_text(event.error, *flat)
        if isinstance(event.type, str) and event.type in _ENDS:
            self.done = True
            answer = fields_of(event.response)
            self._take(_Response(*(answer.get(key) for key in _Response.__struct_fields__)))
            if event.type == "response.failed":
                self.error = self.error or "failed"
            return
        item = fields_of(event.item)
        name = _called(item)
        if name:
            place = event.output_index
            if not isinstance(place, int):
                place = text_of(item.get("call_id")) or text_of(item.get("id"))
            self._begun.setdefault(place, name)

    def take_answer(self, body: bytes) -> bool:
        """Read a plain answer; see `Dialect`."""
        answer = read_object(_RESPONSE, body)
        if answer is None:
            return False
        self._take(answer)
        if self._usage is None:
            self.text_bytes = text_bytes(answer.output, _TEXT_KEYS)
        return True

    def take_usage(self, report: object) -> None:
        """Read usage alone; see `Dialect`."""
        self._usage = read_responses_usage(report)

    def usage(self) -> Usage | None:
        """Return what the answer's end told; see `Dialect`."""
        return self._usage

    def tool_calls(self) -> dict[str, int]:
        """Return the number of calls of each function."""
        return dict(Counter(self._called or self._begun.values()))

    def _take(self, answer: _Response) -> None:
        """Take a whole answer in."""
        self.take_usage(answer.usage)
        self._called = [name for item in objects(answer.output) if (name := _called(item))]
        why = text_of(fields_of(answer.incomplete_details).get("reason"))
        self.finish_reason = why or text_of(answer.status)
        self.error = self.error or error_text(answer.error)


def _called(item: dict[str, Any]) -> str:
    """Return the function that an output item calls, if it is a call."""
    kind = item.get("type")
    return text_of(item.get("name")) if isinstance(kind, str) and kind in _CALLS else ""
