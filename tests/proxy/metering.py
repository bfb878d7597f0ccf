"""Answers to be metered, and what a meter reads in them."""

from __future__ import annotations

import json
from typing import Any

from llmproxy.proxy.meter import make_meter
from llmproxy.values import MeterReading, Usage

CHAT = b"/v1/chat/completions"
RESPONSES = b"/v1/responses"
MESSAGES = b"/v1/messages"
PROMPT = 1000
"""The estimate of every prompt."""


def read(
    pieces: list[bytes],
    *,
    stream: bool = True,
    complete: bool = True,
    endpoint: bytes = CHAT,
    status: int = 200,
) -> MeterReading:
    """Feed the pieces and return the reading, asked for twice."""
    meter = make_meter(endpoint, status=status, stream=stream, prompt_tokens=PROMPT)
    for piece in pieces:
        meter.feed(piece)
    reading = meter.reading(complete)
    assert meter.reading(complete) == reading
    return reading


def event(**content: Any) -> bytes:
    """Return one event with that JSON object."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def delta(index: int = 0, finish: str | None = None, /, **parts: Any) -> bytes:
    """Return one chunk of a chat with one choice."""
    choice = {"index": index, "delta": parts, "finish_reason": finish}
    return event(object="chat.completion.chunk", choices=[choice])


def call(index: int | None, name: str | None, arguments: str = "") -> dict[str, Any]:
    """Return one entry of ``tool_calls``."""
    function = {"name": name, "arguments": arguments}
    entry: dict[str, Any] = {"function": {k: v for k, v in function.items() if v is not None}}
    return entry if index is None else {"index": index, **entry}


def named(kind: str, **content: Any) -> bytes:
    """Return one event with a name, which its JSON object repeats."""
    return b"event: " + kind.encode() + b"\n" + event(type=kind, **content)


REPORT = {"prompt_tokens": 17, "completion_tokens": 12, "total_tokens": 29}
USAGE = event(choices=[], usage=REPORT)
DONE = b"data: [DONE]\n\n"


def estimated(tokens: int, finish_reason: str = "", **more: Any) -> MeterReading:
    """Return the reading of a whole answer whose tokens nobody counted."""
    return MeterReading(_with_prompt(tokens), "estimated", finish_reason, **more)


def partial(tokens: int, **more: Any) -> MeterReading:
    """Return the reading of a cut answer whose tokens nobody counted."""
    return MeterReading(_with_prompt(tokens), "partial", **more)


def _with_prompt(tokens: int) -> Usage:
    return Usage(PROMPT, tokens, PROMPT + tokens)
