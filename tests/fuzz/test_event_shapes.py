"""The meter with shapes of events reads what it reads without: against one that never learns."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.proxy.meter import make_meter
from llmproxy.values import MeterReading, Usage
from llmproxy.wire.event_shape import EventShape
from tests.proxy.test_meter import DONE, USAGE


class NeverLearns(EventShape):
    """A shape that matches nothing, so that every event is searched: the oracle."""

    def learn(self, event: bytes, text_at: int) -> None:
        """Learn nothing."""


def _watched(pieces: list[bytes], *, complete: bool, shape: EventShape | None) -> MeterReading:
    meter: Any = make_meter(stream=True)
    if shape is not None:
        meter._shape = shape
    for piece in pieces:
        meter.feed(piece)
    reading: MeterReading = meter.reading(complete)
    return reading


_FRAMES = [
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
]
_KEYS = ["content", "text", "reasoning", "reasoning_content", "arguments"]
_OTHER_KEYS = ["name", "finish_reason", "error", "role", "refusal", "context", "x-content"]
_TEXTS = st.text(max_size=3) | st.sampled_from(
    [
        *("", "a", "12", '"', "\\", "x\\", '\\"', "é", "\n", "[DONE]", '"}}]}', '"error"'),
        *('data: {"content":"', '","finish_reason":"stop', "data: [DONE]\n\n"),
        '{"usage":{"prompt_tokens":5}}',
    ]
)


@st.composite
def _one_event(draw: st.DrawFn, frames: list[str], keys: list[str], parts: int) -> bytes:
    """Draw an event: a frame around one text, or two."""
    named = [
        json.dumps(draw(st.sampled_from(keys)))
        + ":"
        + json.dumps(draw(_TEXTS), ensure_ascii=draw(st.booleans()))
        for _ in range(parts)
    ]
    frame = draw(st.sampled_from(frames)).replace("%s", ",".join(named))
    number = str(draw(st.sampled_from([7, 8, 9, 10, 199])))
    return b"data: " + frame.replace("%d", number, 1).encode()


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
]


@st.composite
def _streams(draw: st.DrawFn) -> list[bytes]:
    """Draw a stream as pieces: runs of events of few kinds, others between, cut here and there."""
    end = draw(st.sampled_from([b"\n\n", b"\n\n", b"\r\n\r\n", b"\n", b"\r\r"]))
    frames = draw(st.lists(st.sampled_from(_FRAMES), min_size=1, max_size=2))
    keys = draw(st.lists(st.sampled_from(_KEYS), min_size=1, max_size=2))
    usual = _one_event(frames, keys, 1)
    alike = _one_event(frames, _KEYS + _OTHER_KEYS, 1)
    odd = st.sampled_from(_ONE_OFFS) | _one_event(_FRAMES, _KEYS + _OTHER_KEYS, 2)
    events = draw(
        st.lists(st.integers(0, 9).flatmap(lambda n: usual if n < 7 else alike if n < 9 else odd))
    )
    pieces = [b""]
    for one in events:
        pieces[-1] += one + end
        how = draw(st.integers(0, 9))
        if how < 6:
            pieces.append(b"")
        elif how == 6:
            cut = draw(st.integers(1, len(pieces[-1])))
            pieces[-1:] = [pieces[-1][:-cut], pieces[-1][-cut:]]
    return [piece for piece in pieces if piece]


@given(pieces=_streams(), complete=st.booleans())
@settings(max_examples=300)
def test_shapes_change_no_reading(pieces: list[bytes], complete: bool) -> None:
    """What is matched by its shape is read as if it had been searched, whatever is in between."""
    wanted = _watched(pieces, complete=complete, shape=NeverLearns())
    assert _watched(pieces, complete=complete, shape=None) == wanted


@pytest.mark.parametrize(
    ("other", "reading"),
    [
        (b'{"delta":{"role":"assistant"}}', MeterReading(Usage(0, 4, 4), "partial")),
        (b'{"delta":{"content":""}}', MeterReading(Usage(0, 4, 4), "partial")),
        (b'{"delta":{"content":"\\""}}', MeterReading(Usage(0, 5, 5), "partial")),
        (b'{"delta":{"content":"\\\\"}}', MeterReading(Usage(0, 5, 5), "partial")),
        (b"[DONE]", MeterReading()),
        (b'{"error":"boom"}', MeterReading(Usage(0, 4, 4), "partial", error="boom")),
    ],
)
def test_what_comes_between_texts(other: bytes, reading: MeterReading) -> None:
    """After reasoning and content have changed over, other events are still what they are."""
    texts = [b'data: {"delta":{"%b":"a"}}\n\n' % key for key in (b"reasoning", b"content") * 2]
    stream = [*texts, b"data: " + other + b"\n\n"]
    for pieces in (stream, [b"".join(stream)]):
        assert _watched(pieces, complete=False, shape=None) == reading
