"""Tests of the dialect of choices; `tests/proxy/test_stream_meter.py` has more of its streams."""

from __future__ import annotations

import json

import pytest

from llmproxy.values import Usage
from llmproxy.wire.choices_dialect import ChoicesDialect


def test_events() -> None:
    """Usage, finish reason and calls, each from the event that has it."""
    dialect = ChoicesDialect()
    assert (dialect.usage(), dialect.finish_reason, dialect.tool_calls()) == (None, "", {})
    for one in (
        {"choices": [{"delta": {"tool_calls": [{"index": 1, "function": {"name": "f"}}]}}]},
        {"choices": [{"index": 1, "delta": {"function_call": {"name": "g"}}}]},
        {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    ):
        dialect.take_event(json.dumps(one).encode())
    assert dialect.usage() == Usage(3, 2, 5)
    assert (dialect.finish_reason, dialect.error) == ("tool_calls", "")
    assert dialect.tool_calls() == {"f": 1, "g": 1}
    assert dialect.counts_all
    assert not dialect.done


@pytest.mark.parametrize(
    ("answer", "usage", "size"),
    [
        ({"choices": [{"message": {"content": "four"}}]}, None, 4),
        ({"choices": [{"text": "four"}, {"text": "more"}]}, None, 8),
        ({"choices": [{"text": "four"}], "usage": {"prompt_tokens": 3}}, Usage(3, 0, 3), 0),
        ({"data": [{"embedding": [1]}], "usage": {"total_tokens": 3}}, Usage(3, 0, 3), 0),
    ],
)
def test_answers(answer: object, usage: Usage | None, size: int) -> None:
    """Texts are only measured where nothing was counted."""
    dialect = ChoicesDialect()
    assert dialect.take_answer(json.dumps(answer).encode())
    assert (dialect.usage(), dialect.text_bytes) == (usage, size)


def test_a_call_that_is_not_in_a_list() -> None:
    """It counts as one that is."""
    dialect = ChoicesDialect()
    for function in ({"name": "f", "arguments": "{"}, {"name": "", "arguments": "}"}):
        call = {"index": 0, "id": "", "type": "function", "function": function}
        event = {"choices": [{"index": 0, "delta": {"tool_calls": call}}]}
        dialect.take_event(json.dumps(event).encode())
    assert dialect.tool_calls() == {"f": 1}


def test_usage_alone() -> None:
    """The rest of an answer may be missing."""
    dialect = ChoicesDialect()
    dialect.take_usage(None)
    assert dialect.usage() is None
    dialect.take_usage({"prompt_tokens": 3})
    assert dialect.usage() == Usage(3, 0, 3)


def test_what_is_no_answer() -> None:
    """It leaves all as it was."""
    dialect = ChoicesDialect()
    for payload in (b"", b"[]", b'{"choices"', b"null"):
        assert not dialect.take_answer(payload)
        dialect.take_event(payload)
    assert (dialect.usage(), dialect.error, dialect.tool_calls()) == (None, "", {})
