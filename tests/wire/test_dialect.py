"""Tests of signs: every dialect's finds what its lines hold, and nothing inside texts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.wire.choices_dialect import ChoicesDialect
from llmproxy.wire.dialect import Signs
from llmproxy.wire.messages_dialect import MessagesDialect
from llmproxy.wire.responses_dialect import ResponsesDialect

ALL = pytest.mark.parametrize(
    "signs", [ChoicesDialect.signs, ResponsesDialect.signs, MessagesDialect.signs]
)


@ALL
def test_kinds_are_told_by_the_byte_after_the_quote(signs: Signs) -> None:
    """The pattern has no groups, so that a match is the sign itself."""
    assert signs.pattern.groups == 0
    assert signs.facts
    assert signs.texts


@ALL
@given(text=st.text())
def test_texts_hold_no_signs(signs: Signs, text: str) -> None:
    """Whatever a model says, inside a JSON string it is no sign."""
    for said in (text, f'"usage":{{"error":"{text}","text":"a"', f'"delta": "{text}"'):
        written = json.dumps({"x": [said], "y": said}, ensure_ascii=False).encode()
        assert signs.pattern.search(written) is None


@pytest.mark.parametrize(
    ("signs", "line", "fact", "text"),
    [
        (ChoicesDialect.signs, b'"usage":{', True, False),
        (ChoicesDialect.signs, b'"usage":null', False, False),
        (ChoicesDialect.signs, b'"finish_reason": "stop"', True, False),
        (ChoicesDialect.signs, b'"finish_reason":null', False, False),
        (ChoicesDialect.signs, b'"name":"f"', True, True),
        (ChoicesDialect.signs, b'"name":""', False, False),
        (ChoicesDialect.signs, b'"content":"a"', False, True),
        (ChoicesDialect.signs, b'"content":""', False, False),
        (ResponsesDialect.signs, b'"delta":"a"', False, True),
        (ResponsesDialect.signs, b'"delta":""', False, False),
        (ResponsesDialect.signs, b'"delta":{"x":1}', False, False),
        (ResponsesDialect.signs, b'"error":null', False, False),
        (ResponsesDialect.signs, b'"error" : null', False, False),
        (ResponsesDialect.signs, b'"error":{', True, False),
        (ResponsesDialect.signs, b'"type":"error",', True, False),
        (ResponsesDialect.signs, b'"type":"function_call",', True, False),
        (ResponsesDialect.signs, b'"type":"function_call_output",', False, False),
        (ResponsesDialect.signs, b'"type":"response.failed"', True, False),
        (ResponsesDialect.signs, b'"type":"response.created"', False, False),
        (ResponsesDialect.signs, b'"text":"a"', False, False),
        (MessagesDialect.signs, b'"type":"text","text":"a"', False, True),
        (MessagesDialect.signs, b'"type":"text","text":""', False, False),
        (MessagesDialect.signs, b'"partial_json":"{"', False, True),
        (MessagesDialect.signs, b'"thinking":"a"', False, True),
        (MessagesDialect.signs, b'"stop_reason":null', False, False),
        (MessagesDialect.signs, b'"stop_reason":"end_turn"', True, False),
        (MessagesDialect.signs, b'"type":"message_stop"', True, False),
        (MessagesDialect.signs, b'"type":"tool_use","name":"f"', True, False),
    ],
)
def test_signs(signs: Signs, line: bytes, fact: bool, text: bool) -> None:
    """What is a fact, and what is something generated."""
    assert signs.fact_in(line) == fact
    assert any(sign[1] in signs.texts for sign in signs.pattern.findall(line)) == text
