"""Tests of the dialect of the Responses API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmproxy.values import Usage
from llmproxy.wire.responses_dialect import ResponsesDialect

USAGE = {"input_tokens": 17, "output_tokens": 12}


def taken(*events: dict[str, Any]) -> ResponsesDialect:
    """Have these events read."""
    dialect = ResponsesDialect()
    for one in events:
        dialect.take_event(json.dumps(one).encode())
    return dialect


def ended(kind: str = "completed", **response: Any) -> dict[str, Any]:
    """Write a last event."""
    return {"type": f"response.{kind}", "response": response}


def begun(index: int | None, name: str, **item: Any) -> dict[str, Any]:
    """Write the event that begins a call."""
    event = {
        "type": "response.output_item.added",
        "item": {"type": "function_call", "name": name, **item},
    }
    return event if index is None else {**event, "output_index": index}


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (ended(status="completed", usage=USAGE), "completed"),
        (
            ended(
                "incomplete",
                status="incomplete",
                incomplete_details={"reason": "max_output_tokens"},
                usage=USAGE,
            ),
            "max_output_tokens",
        ),
        # vLLM says "completed" of what is not.
        (
            ended(
                status="incomplete", incomplete_details={"reason": "content_filter"}, usage=USAGE
            ),
            "content_filter",
        ),
        (ended(status=7, incomplete_details=7, usage=USAGE), ""),
    ],
)
def test_the_last_event(last: dict[str, Any], reason: str) -> None:
    """It has the usage, and why it ended: the details if there are any, else the status."""
    dialect = taken({"type": "response.created", "response": {"usage": None}})
    assert (dialect.done, dialect.usage()) == (False, None)
    dialect.take_event(json.dumps(last).encode())
    assert (dialect.done, dialect.usage()) == (True, Usage(17, 12, 29))
    assert (dialect.finish_reason, dialect.error) == (reason, "")


@pytest.mark.parametrize(
    ("event", "error", "done"),
    [
        (ended("failed", status="failed", error={"code": "x", "message": "died"}), "died", True),
        (ended("failed", status="failed", error=None), "failed", True),
        (ended("failed"), "failed", True),
        ({"type": "error", "code": "x", "message": "died", "param": None}, "died", False),
        ({"type": "error", "code": "x"}, "x", False),
        ({"type": "error"}, "error", False),
        ({"error": {"message": "died"}}, "died", False),
        ({"error": "died"}, "died", False),
        (ended(error=None), "", True),
    ],
)
def test_errors(event: dict[str, Any], error: str, done: bool) -> None:
    """A failed answer, an event for an error, and the forms of other APIs."""
    dialect = taken(event)
    assert (dialect.error, dialect.done) == (error, done)


def test_calls_that_were_begun() -> None:
    """They are told apart by their place in the output, else by their ids."""
    assert taken(begun(1, "f"), begun(1, "f"), begun(2, "f")).tool_calls() == {"f": 2}
    by_id = taken(
        begun(None, "f", call_id="a"), begun(None, "f", call_id="a"), begun(None, "g", id="b")
    )
    assert by_id.tool_calls() == {"f": 1, "g": 1}
    assert taken(begun(1, ""), begun(2, "f", type="message")).tool_calls() == {}
    kinds = [
        begun(index, "f", type=kind) for index, kind in enumerate(("custom_tool_call", "mcp_call"))
    ]
    assert taken(*kinds).tool_calls() == {"f": 2}


def test_calls_of_the_whole_answer() -> None:
    """They are the calls, whatever the ids were before; without any, those that were begun."""
    call = {"type": "function_call", "name": "f", "call_id": "other"}
    last = ended(output=[{"type": "message", "name": "x"}, call, {**call, "name": "g"}])
    assert taken(begun(1, "f", call_id="a"), begun(None, "g"), last).tool_calls() == {
        "f": 1,
        "g": 1,
    }
    assert taken(begun(1, "f"), ended(output=[])).tool_calls() == {"f": 1}
    assert taken(begun(1, "f"), ended(output=7)).tool_calls() == {"f": 1}


def test_answers() -> None:
    """A plain answer is what the last event holds."""
    dialect = ResponsesDialect()
    answer = {
        "object": "response",
        "status": "completed",
        "output": [
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "abc"}]},
            {"type": "function_call", "name": "f", "arguments": "{}"},
            {"type": "custom_tool_call", "name": "g", "input": "1234"},
        ],
    }
    assert dialect.take_answer(json.dumps(answer).encode())
    assert (dialect.usage(), dialect.text_bytes) == (None, 9)
    assert (dialect.tool_calls(), dialect.finish_reason) == ({"f": 1, "g": 1}, "completed")
    assert dialect.take_answer(json.dumps({**answer, "usage": USAGE}).encode())
    assert dialect.usage() == Usage(17, 12, 29)
    assert dialect.counts_all


def test_what_is_no_answer() -> None:
    """It leaves all as it was."""
    dialect = ResponsesDialect()
    for payload in (b"", b"[]", b'{"type"', b'{"type":["response.completed"]}', b"null"):
        dialect.take_event(payload)
    assert not dialect.take_answer(b"[]")
    assert (dialect.usage(), dialect.error, dialect.done, dialect.tool_calls()) == (
        None,
        "",
        False,
        {},
    )
