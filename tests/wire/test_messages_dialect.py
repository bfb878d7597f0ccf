"""Tests of the dialect of the Messages API."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from llmproxy.values import Usage
from llmproxy.wire.messages_dialect import MessagesDialect


def taken(*events: dict[str, Any]) -> MessagesDialect:
    """Have these events read."""
    dialect = MessagesDialect()
    for one in events:
        dialect.take_event(json.dumps(one).encode())
    return dialect


def start(**usage: Any) -> dict[str, Any]:
    """Write a first event."""
    return {"type": "message_start", "message": {"content": [], "usage": usage}}


def delta(reason: str | None = None, **usage: Any) -> dict[str, Any]:
    """Write the event that tells usage and why it ended."""
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


def block(index: Any, **content: Any) -> dict[str, Any]:
    """Write the event that begins a block."""
    return {"type": "content_block_start", "index": index, "content_block": content}


@pytest.mark.parametrize(
    ("events", "usage", "counts_all"),
    [
        ([start(input_tokens=9, output_tokens=1)], Usage(9, 1, 10), False),
        ([start(input_tokens=9), delta(output_tokens=5)], Usage(9, 5, 14), True),
        (
            [start(input_tokens=9), delta(output_tokens=5), delta(output_tokens=7)],
            Usage(9, 7, 16),
            True,
        ),
        (
            [
                start(input_tokens=1, cache_read_input_tokens=16, cache_creation_input_tokens=2),
                delta(output_tokens=5),
            ],
            Usage(19, 5, 24, 16),
            True,
        ),
        # What a later report does not say, or says to be null, stands.
        (
            [
                start(input_tokens=1, cache_read_input_tokens=16),
                delta(input_tokens=2, cache_read_input_tokens=None, output_tokens=5),
            ],
            Usage(18, 5, 23, 16),
            True,
        ),
        ([delta("end_turn")], None, False),
        ([start(), {"type": "message_delta", "usage": 7}], None, False),
        ([start(input_tokens="x"), delta(output_tokens=5)], None, True),
    ],
)
def test_usage(events: list[dict[str, Any]], usage: Usage | None, counts_all: bool) -> None:
    """It is cumulative, key by key; the answer is counted when ``message_delta`` counts it."""
    dialect = taken(*events)
    assert (dialect.usage(), dialect.counts_all) == (usage, counts_all)


def test_ends() -> None:
    """The reason stands in ``message_delta``; ``message_stop`` is the last word."""
    dialect = taken(delta(None), delta("tool_use"), delta(None))
    assert (dialect.finish_reason, dialect.done) == ("tool_use", False)
    dialect.take_event(b'{"type":"message_stop"}')
    assert dialect.done


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (
            {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
            "Overloaded",
        ),
        ({"type": "error", "error": {"type": "overloaded_error"}}, "overloaded_error"),
        ({"error": "died"}, "died"),
        ({"type": "ping", "error": None}, ""),
    ],
)
def test_errors(event: dict[str, Any], error: str) -> None:
    """An error is told by its message or type."""
    assert taken(event).error == error


def test_calls() -> None:
    """Blocks of tool use are calls, told apart by their index."""
    dialect = taken(
        block(0, type="text", text="", name="x"),
        block(1, type="tool_use", name="f", input={}),
        block(1, type="tool_use", name="f", input={}),
        block(2, type="tool_use", name="f", input={}),
        block(3, type="server_tool_use", name="web_search"),
        block(4, type="tool_use", name=7),
        block("x", type=None, name="g"),
    )
    assert dialect.tool_calls() == {"f": 2, "web_search": 1}


def test_answers() -> None:
    """A plain answer has its blocks, usage and reason in one object."""
    answer = {
        "type": "message",
        "content": [
            {"type": "text", "text": "abc"},
            {"type": "tool_use", "name": "f", "input": {}},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "cache_read_input_tokens": 16, "output_tokens": 12},
    }
    dialect = MessagesDialect()
    assert dialect.take_answer(json.dumps(answer).encode())
    assert (dialect.usage(), dialect.counts_all, dialect.text_bytes) == (
        Usage(17, 12, 29, 16),
        True,
        0,
    )
    assert (dialect.finish_reason, dialect.tool_calls()) == ("tool_use", {"f": 1})


def test_answers_that_count_only_the_prompt() -> None:
    """The size of what was generated is known: texts, and the inputs of tools as JSON."""
    answer = {
        "content": [
            {"type": "thinking", "thinking": "ab"},
            {"type": "text", "text": "abc"},
            {"type": "tool_use", "name": "f", "input": {"a": "\ud83d"}},
            {"type": "tool_use", "name": "f", "input": "x"},
        ],
        "usage": {"input_tokens": 3},
    }
    dialect = MessagesDialect()
    assert dialect.take_answer(json.dumps(answer).encode())
    assert (dialect.usage(), dialect.counts_all) == (Usage(3, 0, 3), False)
    assert dialect.text_bytes == 5 + len('{"a": "\\ud83d"}') + len('"x"')


def test_arguments_nested_too_deep() -> None:
    """They can be read, but not be written again: the size of the answer stands for theirs."""
    # Reading goes as deep as Python's own limit less the frames below, writing not quite.
    for depth in range(sys.getrecursionlimit(), 0, -1):
        answer = b'{"content":[{"type":"tool_use","name":"f","input":%b%b}]}' % (
            b"[" * depth,
            b"]" * depth,
        )
        dialect = MessagesDialect()
        if dialect.take_answer(answer):
            break
    assert dialect.tool_calls() == {"f": 1}
    assert (dialect.counts_all, dialect.text_bytes) == (False, len(answer))


def test_what_is_no_answer() -> None:
    """It leaves all as it was."""
    dialect = MessagesDialect()
    for payload in (b"", b"[]", b'{"type"', b'{"type":["message_stop"],"message":7}', b"null"):
        dialect.take_event(payload)
    assert not dialect.take_answer(b"[]")
    assert (dialect.usage(), dialect.error, dialect.done, dialect.tool_calls()) == (
        None,
        "",
        False,
        {},
    )
