"""Tests of the JSON that the demo model sends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmproxy.backends.demo import shapes
from llmproxy.backends.demo.answers import Answer, ToolCall

FRAME = shapes.Frame("chatcmpl-1", "any-name", prompt_tokens=7, include_usage=True)
TEXT = Answer("Hello, deterministic world. ")
THOUGHT = Answer("Yes.", reasoning="Let me think about it.")
CALL = Answer(
    reasoning="Hm.",
    call=ToolCall("chatcmpl-tool-1", "read", '{"filePath":"a.txt"}'),
    finish_reason="tool_calls",
)


def chunks(beats: shapes.Beats) -> list[dict[str, Any]]:
    """Parse a stream, which must end with ``[DONE]``."""
    events = [event for beat in beats for event in beat]
    assert all(event.startswith(b"data: ") and event.endswith(b"\n\n") for event in events)
    assert events.pop() == b"data: [DONE]\n\n"
    return [msgspec.json.decode(event[6:]) for event in events]


def reassembled(parsed: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """Put one choice of a chat stream together, as a client does."""
    message: dict[str, Any] = {"content": ""}
    finish_reason = None
    for chunk in parsed:
        for choice in chunk["choices"]:
            if choice["index"] != index:
                continue
            assert finish_reason is None, "nothing comes after the finish reason"
            delta = choice["delta"]
            message["role"] = delta.get("role", message.get("role"))
            if "content" in delta:
                message["content"] += delta["content"]
            if "reasoning_content" in delta:
                thought = message.get("reasoning_content", "")
                message["reasoning_content"] = thought + delta["reasoning_content"]
            for call in delta.get("tool_calls", []):
                assert call["index"] == 0
                if "id" in call:
                    message["content"] = None
                    name = call["function"]["name"]
                    made = {"id": call["id"], "type": call["type"]}
                    made["function"] = {"name": name, "arguments": ""}
                    message["tool_calls"] = [made]
                told = message["tool_calls"][0]["function"]
                told["arguments"] += call["function"]["arguments"]
            finish_reason = choice["finish_reason"]
    return {"message": message, "finish_reason": finish_reason}


@pytest.mark.parametrize("answers", [[TEXT], [THOUGHT], [CALL], [TEXT, THOUGHT, CALL], [Answer()]])
def test_a_chat_stream_reassembled_is_the_plain_answer(answers: list[Answer]) -> None:
    """Every choice, and the usage; and each event has the same frame."""
    plain = msgspec.json.decode(shapes.chat(FRAME, answers))
    parsed = chunks(shapes.chat_stream(FRAME, answers))
    for index in range(len(answers)):
        expected = plain["choices"][index]
        expected["message"].pop("refusal")
        got = reassembled(parsed, index)
        assert got["finish_reason"] == expected["finish_reason"]
        assert got["message"] == expected["message"]
    assert parsed[-1]["choices"] == []
    assert parsed[-1]["usage"] == plain["usage"]
    assert all("usage" not in chunk for chunk in parsed[:-1])
    for chunk in parsed:
        assert chunk["object"] == "chat.completion.chunk"
        for key in ("id", "created", "model", "system_fingerprint"):
            assert chunk[key] == plain[key]


def test_a_plain_chat_answer_has_the_shape_of_the_api() -> None:
    """The whole object."""
    assert msgspec.json.decode(shapes.chat(FRAME, [THOUGHT])) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": shapes.CREATED,
        "model": "any-name",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Yes.",
                    "refusal": None,
                    "reasoning_content": "Let me think about it.",
                },
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "system_fingerprint": "llmproxy-demo",
        "usage": {
            "prompt_tokens": 7,
            "total_tokens": 13,
            "completion_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
    }


def test_a_call_is_streamed_name_first_then_its_arguments_in_pieces() -> None:
    """As vLLM does."""
    parsed = chunks(shapes.chat_stream(FRAME, [CALL]))
    deltas = [chunk["choices"][0]["delta"] for chunk in parsed if chunk["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[1] == {"reasoning_content": "Hm."}
    named = {"name": "read", "arguments": ""}
    first = {"id": "chatcmpl-tool-1", "type": "function", "index": 0, "function": named}
    assert deltas[2] == {"tool_calls": [first]}
    rest = [delta["tool_calls"][0] for delta in deltas[3:-1]]
    assert len(rest) >= 2
    assert all(set(piece) == {"index", "function"} for piece in rest)
    assert deltas[-1] == {}


def test_a_beat_has_one_piece_of_each_choice() -> None:
    """Choices are interleaved, the shorter ends first."""
    beats = list(shapes.chat_stream(FRAME, [Answer("a b c"), Answer("a")]))
    assert [len(beat) for beat in beats] == [2, 2, 2, 1, 1, 2]


def test_usage_is_streamed_only_when_asked_for() -> None:
    """Without it no event tells any."""
    frame = shapes.Frame("x", "m", 1)
    for stream in (shapes.chat_stream(frame, [TEXT]), shapes.completion_stream(frame, [TEXT])):
        assert not any("usage" in chunk or not chunk["choices"] for chunk in chunks(stream))


def test_usage_sums_all_choices() -> None:
    """The total is the sum of its parts."""
    usage = FRAME.usage([TEXT, THOUGHT, CALL])
    parts = [answer.completion_tokens for answer in (TEXT, THOUGHT, CALL)]
    assert usage["completion_tokens"] == sum(parts)
    assert usage["total_tokens"] == 7 + sum(parts)
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 6}


@pytest.mark.parametrize(
    "answers", [[TEXT], [TEXT, Answer("b", finish_reason="length")], [Answer()]]
)
def test_a_completion_stream_reassembled_is_the_plain_answer(answers: list[Answer]) -> None:
    """Every choice, and the usage; the last piece carries the finish reason."""
    plain = msgspec.json.decode(shapes.completion(FRAME, answers))
    parsed = chunks(shapes.completion_stream(FRAME, answers))
    assert plain["object"] == "text_completion"
    for index, expected in enumerate(plain["choices"]):
        told = [one for chunk in parsed for one in chunk["choices"] if one["index"] == index]
        assert "".join(one["text"] for one in told) == expected["text"]
        assert [one["finish_reason"] for one in told[:-1]] == [None] * (len(told) - 1)
        assert told[-1]["finish_reason"] == expected["finish_reason"]
        assert set(told[0]) == set(expected)
    assert parsed[-1]["usage"] == plain["usage"]


def test_errors_and_embeddings_have_their_shapes() -> None:
    """The whole objects."""
    assert msgspec.json.decode(shapes.error("No.", "t", None, "c")) == {
        "error": {"message": "No.", "type": "t", "param": None, "code": "c"}
    }
    assert msgspec.json.decode(shapes.embeddings("m", [[0.5], "AAAA"], 3)) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5]},
            {"object": "embedding", "index": 1, "embedding": "AAAA"},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
