"""Tests of what the demo model reads."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmproxy.backends.demo.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    prompts,
    read,
)
from llmproxy.errors import InvalidBody, InvalidJson

USER = {"role": "user", "content": "hi"}


def chat(**keys: Any) -> ChatRequest:
    """Read a conversation of one message with further keys."""
    return read(msgspec.json.encode({"messages": [USER], **keys}), ChatRequest)


def test_content_may_be_text_parts_or_null() -> None:
    """All of a message's text is found, and its images are counted."""
    parts = [
        {"type": "text", "text": "one"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "two"},
    ]
    request = chat(messages=[{"role": "user", "content": parts}, {"role": "assistant"}])
    assert [message.text for message in request.messages] == ["one\ntwo", ""]
    assert [message.images for message in request.messages] == [1, 0]


def test_unknown_keys_and_nulls_are_accepted() -> None:
    """Keys that mean nothing here, and nulls for those that do, change nothing."""
    nulls = dict.fromkeys(("stream", "stream_options", "n", "max_tokens", "stop", "tools"))
    assert chat(temperature=0.2, seed=7, cache_salt="x", **nulls) == chat()


def test_the_newer_name_of_the_token_limit_wins() -> None:
    """``max_completion_tokens`` replaces ``max_tokens``."""
    assert chat().token_limit is None
    assert chat(max_tokens=3).token_limit == 3
    assert chat(max_tokens=3, max_completion_tokens=5).token_limit == 5


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({}, False),
        ({"reasoning_effort": None}, False),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "low"}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, False),
    ],
)
def test_reasoning_comes_on_request(keys: dict[str, Any], wanted: bool) -> None:
    """Either way to ask for it is understood."""
    assert chat(**keys).wants_reasoning is wanted


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nope", b'{"messages": [{"role": "\xff"}]}', b'"\\ud800"', b'{"a":' * 50_000],
    ids=["empty", "open", "word", "not utf-8", "lone surrogate", "nested too deep"],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    """Broken JSON never raises anything but the one error."""
    with pytest.raises(InvalidJson):
        read(body, ChatRequest)


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [USER] * 429 + [{"role": 1}]}, "messages[].role"),
        ({"messages": [{"content": "no role"}]}, "messages[].role"),
        ({"model": 5}, "model"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": [{"function": {}}]}, "tools[].function.name"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_an_error_names_the_key_at_fault(keys: dict[str, Any], param: str) -> None:
    """Its message has no position in it that a client could take for a status."""
    with pytest.raises(InvalidBody) as caught:
        chat(**keys)
    assert caught.value.param == param
    assert "429" not in str(caught.value)


def test_missing_messages_are_named() -> None:
    """The key that is not there is the one at fault."""
    with pytest.raises(InvalidBody, match="messages") as caught:
        read(b"{}", ChatRequest)
    assert caught.value.param == "messages"


def test_a_list_is_no_request() -> None:
    """JSON that is no object has no key at fault."""
    with pytest.raises(InvalidBody) as caught:
        read(b"[]", EmbeddingRequest)
    assert caught.value.param is None


def test_completions_have_the_default_limit_of_the_api() -> None:
    """Without ``max_tokens`` a text is cut at sixteen tokens."""
    assert read(b'{"prompt":"a"}', CompletionRequest).token_limit == 16
    assert read(b'{"prompt":"a","max_tokens":99}', CompletionRequest).token_limit == 99


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_prompts_are_one_or_several(given: Any, expected: list[Any]) -> None:
    """Texts and token ids, one or a list of them."""
    assert prompts(given, "input") == expected


@pytest.mark.parametrize("given", [[], [[]], ["a", 1], [True], [None], [["a"]], [{}]])
def test_other_prompts_are_refused(given: Any) -> None:
    """Anything else names the key."""
    with pytest.raises(InvalidBody) as caught:
        prompts(given, "input")
    assert caught.value.param == "input"
