"""The meter with shapes of events reads what it reads without: against one that never learns."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.proxy.meter import make_meter
from llmproxy.values import MeterReading
from llmproxy.wire.event_shape import EventShape
from tests import recorded
from tests.proxy.metering import (
    CHAT,
    DONE,
    MESSAGES,
    PROMPT,
    RESPONSES,
    USAGE,
    estimated,
    named,
    partial,
)


class NeverLearns(EventShape):
    """A shape that matches nothing, so that every event is searched: the oracle."""

    def learn(self, event: bytes, text_at: int) -> None:
        """Learn nothing."""


def _watched(
    pieces: list[bytes],
    *,
    complete: bool,
    shape: EventShape | None = None,
    endpoint: bytes = CHAT,
) -> MeterReading:
    meter: Any = make_meter(endpoint, status=200, stream=True, prompt_tokens=PROMPT)
    if shape is not None:
        meter._shape = shape
    for piece in pieces:
        meter.feed(piece)
    reading: MeterReading = meter.reading(complete)
    return reading


_FRAMES = {
    CHAT: [
        '{"id":"x","created":17,"choices":[{"index":0,"delta":{%s},"finish_reason":null}]}',
        '{"id":"x","created":17,"choices":[{"index":0,"delta":{%s},"finish_reason":"stop"}]}',
        '{"id": "x%d", "choices": [{"index": 0, "delta": {%s}, "logprobs": null}], "usage": null}',
        '{"created":%d,"choices":[{"delta":{"role":"assistant",%s}}]}',
        '{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{%s}}]}}]}',
        '{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f",%s}}]}}]}',
        '{"choices":[{"delta":{%s}}],"usage":{"prompt_tokens":3,"completion_tokens":%d}}',
        '{"choices":[{%s,"delta":{}}],"n":%d}',
        '{"choices":[{%s}]}',
        "{%s}",
    ],
    RESPONSES: [
        '{"type":"response.output_text.delta","item_id":"m",%s}',
        '{"content_index":0,%s,"item_id":"m","sequence_number":%d,"type":"response.text.delta"}',
        '{%s,"sequence_number":%d,"type":"response.function_call_arguments.delta"}',
        '{"type":"response.completed","response":{"status":"completed"},%s}',
        '{"type":"response.output_item.added","output_index":%d,"item":'
        '{"type":"function_call","name":"f"},%s}',
        '{"sequence_number":%d,%s}',
    ],
    MESSAGES: [
        '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta",%s}}',
        '{"type":"content_block_delta","delta":{"type":"thinking_delta",%s},"index":%d}',
        '{"type":"content_block_start","index":%d,"content_block":{"type":"tool_use",%s}}',
        '{"type":"message_delta","delta":{"stop_reason":"end_turn",%s},'
        '"usage":{"output_tokens":%d}}',
        '{"type":"message_stop",%s}',
    ],
}
_KEYS = {
    CHAT: ["content", "text", "reasoning", "reasoning_content", "arguments"],
    RESPONSES: ["delta"],
    MESSAGES: ["text", "thinking", "partial_json"],
}
_OTHER_KEYS = ["name", "finish_reason", "error", "role", "refusal", "context", "x-content", "type"]
_NAMES = {
    CHAT: ["", "", "event: x\n"],
    RESPONSES: ["event: response.output_text.delta\n", "event: x\n", 'event: {"delta":"a"}\n', ""],
    MESSAGES: ["event: content_block_delta\n", "event: x\n", 'event: {"text":"a"}\n', ""],
}
"""What stands before an event's data: nothing, a name, or what no server says."""
_TEXTS = st.text(max_size=3) | st.sampled_from(
    [
        *("", "a", "12", '"', "\\", "x\\", '\\"', "é", "\n", "[DONE]", '"}}]}', '"error"'),
        *('data: {"content":"', '","finish_reason":"stop', "data: [DONE]\n\n"),
        '{"usage":{"prompt_tokens":5}}',
    ]
)


@st.composite
def _one_event(draw: st.DrawFn, frames: list[str], keys: list[str], parts: int, name: str) -> bytes:
    """Draw an event: a name, and a frame around one text, or two."""
    texts = [
        json.dumps(draw(st.sampled_from(keys)))
        + ":"
        + json.dumps(draw(_TEXTS), ensure_ascii=draw(st.booleans()))
        for _ in range(parts)
    ]
    frame = draw(st.sampled_from(frames)).replace("%s", ",".join(texts))
    number = str(draw(st.sampled_from([7, 8, 9, 10, 199])))
    return (name + "data: " + frame.replace("%d", number, 1)).encode()


_ONE_OFFS = [
    USAGE.rstrip(),
    DONE.rstrip(),
    b": keep-alive",
    b"event: x",
    b'data: {"error":"boom"}',
    b'data: {"error":{"message":"boom"}}',
    b'data: {"choices":[{"delta":{"role":"assistant"},"finish_reason":null}]}',
    b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}',
    b"data: {cut",
    named("message_start", message={"usage": {"input_tokens": 3, "output_tokens": 1}}).rstrip(),
    named("response.output_text.done", text="a").rstrip(),
    named("response.failed", response={"error": None}).rstrip(),
    named("ping").rstrip(),
]


@st.composite
def _streams(draw: st.DrawFn, endpoint: bytes) -> list[bytes]:
    """Draw a stream as pieces: runs of events of few kinds, others between, cut here and there."""
    end = draw(st.sampled_from([b"\n\n", b"\n\n", b"\r\n\r\n", b"\n", b"\r\r"]))
    frames = draw(st.lists(st.sampled_from(_FRAMES[endpoint]), min_size=1, max_size=2))
    keys = draw(st.lists(st.sampled_from(_KEYS[endpoint]), min_size=1, max_size=2))
    name = draw(st.sampled_from(_NAMES[endpoint]))
    all_keys = _KEYS[endpoint] + _OTHER_KEYS
    usual = _one_event(frames, keys, 1, name)
    alike = _one_event(frames, all_keys, 1, name)
    odd = st.sampled_from(_ONE_OFFS) | _one_event(
        _FRAMES[endpoint], all_keys, 2, draw(st.sampled_from(_NAMES[endpoint]))
    )
    events = draw(
        st.lists(st.integers(0, 9).flatmap(lambda n: usual if n < 7 else alike if n < 9 else odd))
    )
    pieces = [b""]
    for one in events:
        pieces[-1] += one.replace(b"\n", end[: len(end) // 2] or end) + end
        how = draw(st.integers(0, 9))
        if how < 6:
            pieces.append(b"")
        elif how == 6:
            cut = draw(st.integers(1, len(pieces[-1])))
            pieces[-1:] = [pieces[-1][:-cut], pieces[-1][-cut:]]
    return [piece for piece in pieces if piece]


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES, MESSAGES])
@given(data=st.data(), complete=st.booleans())
@settings(max_examples=300)
def test_shapes_change_no_reading(data: st.DataObject, endpoint: bytes, complete: bool) -> None:
    """What is matched by its shape is read as if it had been searched, whatever is in between."""
    pieces = data.draw(_streams(endpoint))
    wanted = _watched(pieces, complete=complete, shape=NeverLearns(), endpoint=endpoint)
    assert _watched(pieces, complete=complete, endpoint=endpoint) == wanted


@pytest.mark.parametrize("name", [one for one in recorded.names() if recorded.load(one).is_stream])
def test_shapes_change_no_recorded_reading(name: str) -> None:
    """Every recorded stream reads as if each of its events had been searched."""
    recording = recorded.load(name)
    endpoint = recording.request_line.split()[1]
    for complete in (True, False):
        for pieces in (list(recording.pieces), [recording.body]):
            wanted = _watched(pieces, complete=complete, shape=NeverLearns(), endpoint=endpoint)
            assert _watched(pieces, complete=complete, endpoint=endpoint) == wanted


class Counts(EventShape):
    """A shape that tells how many blocks it matched."""

    def __init__(self) -> None:
        super().__init__()
        self.matched = 0

    def texts(self, block: bytes) -> int:
        """Count a match."""
        count = super().texts(block)
        self.matched += count >= 0
        return count


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("vllm/chat_stream_long", 55),
        ("vllm/anthropic_stream", 9),
        ("llama_server/chat_stream_long", 272),
        ("llama_server/anthropic_stream", 7),
        ("llama_server/responses_stream", 12),
        ("transformers/responses_stream", 7),
    ],
)
def test_texts_of_real_streams_are_matched(name: str, texts: int) -> None:
    """The shape of a real server's events is learnt from the first ones, in every dialect."""
    recording = recorded.load(name)
    endpoint = recording.request_line.split()[1]
    meter: Any = make_meter(endpoint, status=200, stream=True, prompt_tokens=PROMPT)
    meter._shape = shape = Counts()
    for one in recording.body.split(b"\n\n"):
        meter.feed(one + b"\n\n")
    assert meter._deltas == texts
    assert shape.matched >= texts - 4


@pytest.mark.parametrize(
    ("other", "reading"),
    [
        (b'{"delta":{"role":"assistant"}}', partial(4)),
        (b'{"delta":{"content":""}}', partial(4)),
        (b'{"delta":{"content":"\\""}}', partial(5)),
        (b'{"delta":{"content":"\\\\"}}', partial(5)),
        (b"[DONE]", estimated(4)),
        (b'{"error":"boom"}', partial(4, error="boom")),
    ],
)
def test_what_comes_between_texts(other: bytes, reading: MeterReading) -> None:
    """After reasoning and content have changed over, other events are still what they are."""
    texts = [b'data: {"delta":{"%b":"a"}}\n\n' % key for key in (b"reasoning", b"content") * 2]
    stream = [*texts, b"data: " + other + b"\n\n"]
    for pieces in (stream, [b"".join(stream)]):
        assert _watched(pieces, complete=False) == reading
