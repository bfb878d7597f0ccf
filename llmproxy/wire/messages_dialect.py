"""The dialect of Anthropic's Messages API.

A stream begins with ``message_start``, which tells the prompt's tokens, has its text in blocks,
tells the rest in ``message_delta`` and ends with ``message_stop``. There is no ``[DONE]``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
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
from llmproxy.wire.usage import read_messages_usage

_SIGNS: Final = Signs(
    re.compile(
        rb'"(?:'
        rb'usage"[ \t]*:[ \t]*\{|stop_reason"[ \t]*:[ \t]*"|message_stop"|error"'
        rb'|name"[ \t]*:[ \t]*"[^"\r\n]'
        rb'|(?:text|thinking|partial_json)"[ \t]*:[ \t]*"[^"\r\n]'
        rb")"
    ),
    facts=frozenset(b"usmen"),
    texts=frozenset(b"tp"),
)

_TEXT_KEYS: Final = frozenset(("text", "thinking"))


class _Message(msgspec.Struct):
    """A whole answer, or one event of a streamed one; checked part by part as it is used."""

    type: Any = None
    message: Any = None
    index: Any = None
    content_block: Any = None
    delta: Any = None
    content: Any = None
    stop_reason: Any = None
    usage: Any = None
    error: Any = None


_MESSAGE: Final = msgspec.json.Decoder(_Message)


class MessagesDialect:
    """Reads one answer of the Messages API.

    Usage is cumulative: what a later report says replaces what an earlier one said, key by key. The
    answer's own tokens are only counted once ``message_delta`` tells them; what stands in
    ``message_start`` is a beginning.
    """

    __slots__ = (
        "_calls",
        "_report",
        "counts_all",
        "done",
        "error",
        "finish_reason",
        "text_bytes",
    )

    signs = _SIGNS

    def __init__(self) -> None:
        self._calls: dict[int, str] = {}
        self._report: dict[str, Any] = {}
        self.counts_all = False
        self.finish_reason = ""
        self.error = ""
        self.done = False
        self.text_bytes = 0

    def take_event(self, payload: bytes) -> None:
        """Read an event; see `Dialect`."""
        event = read_object(_MESSAGE, payload)
        if event is None:
            return
        self.error = self.error or error_text(event.error)
        if event.type == "message_start":
            self._merge(fields_of(event.message).get("usage"))
        elif event.type == "content_block_start":
            block = fields_of(event.content_block)
            self._take_block(block, event.index if isinstance(event.index, int) else 0)
        elif event.type == "message_delta":
            reason = text_of(fields_of(event.delta).get("stop_reason"))
            self.finish_reason = reason or self.finish_reason
            self.take_usage(event.usage)
        elif event.type == "message_stop":
            self.done = True

    def take_answer(self, body: bytes) -> bool:
        """Read a plain answer; see `Dialect`."""
        answer = read_object(_MESSAGE, body)
        if answer is None:
            return False
        self.error = error_text(answer.error)
        self.finish_reason = text_of(answer.stop_reason)
        blocks = objects(answer.content)
        for place, block in enumerate(blocks):
            self._take_block(block, place)
        self.take_usage(answer.usage)
        if not self.counts_all:
            self.text_bytes = _generated_bytes(blocks, body)
        return True

    def take_usage(self, report: object) -> None:
        """Read usage that counts the answer; see `Dialect`."""
        self._merge(report)
        if fields_of(report).get("output_tokens") is not None:
            self.counts_all = True

    def usage(self) -> Usage | None:
        """Return what was told so far; see `Dialect`."""
        return read_messages_usage(self._report)

    def tool_calls(self) -> dict[str, int]:
        """Return the number of calls of each function."""
        return dict(Counter(self._calls.values()))

    def _merge(self, report: object) -> None:
        told = {key: value for key, value in fields_of(report).items() if value is not None}
        self._report = {**self._report, **told}

    def _take_block(self, block: dict[str, Any], place: int) -> None:
        """Take a block of the answer in: ``tool_use``, or a server's own kind of it, is a call."""
        name = text_of(block.get("name"))
        if name and text_of(block.get("type")).endswith("tool_use"):
            self._calls.setdefault(place, name)


def _generated_bytes(blocks: list[dict[str, Any]], body: bytes) -> int:
    """Add up what the model wrote: texts, and the JSON of the calls' arguments."""
    inputs = [block["input"] for block in blocks if block.get("input")]
    try:
        return text_bytes(blocks, _TEXT_KEYS) + sum(len(json.dumps(given)) for given in inputs)
    except RecursionError:
        return len(body)  # nested so deep, it is nearly all that there is
