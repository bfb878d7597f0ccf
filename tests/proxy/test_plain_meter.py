"""Tests of the meter of plain answers."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from llmproxy.proxy.meter import make_meter
from llmproxy.proxy.plain_meter import WHOLE_LIMIT_BYTES
from llmproxy.values import MeterReading, Usage
from llmproxy.wire.skeleton import TAIL_BYTES
from tests.proxy.metering import (
    CHAT,
    MESSAGES,
    REPORT,
    RESPONSES,
    call,
    estimated,
    partial,
    read,
)
from tests.wire.test_sse import chop

MESSAGE = {"content": "x", "tool_calls": [call(None, "f"), call(None, "f")]}
CHOICES = [{"index": 0, "message": MESSAGE, "finish_reason": "tool_calls"}]


def test_plain() -> None:
    """A plain answer is read when it is whole."""
    body = json.dumps({"choices": CHOICES, "usage": REPORT}).encode()
    whole = MeterReading(Usage(17, 12, 29), "exact", "tool_calls", {"f": 2})
    for sizes in ([], [1], [7, 100]):
        assert read(chop(body, sizes), stream=False) == whole


def test_nothing_came() -> None:
    """Without a byte there is nothing to count, however it ended."""
    for complete in (True, False):
        assert read([], stream=False, complete=complete) == MeterReading()


@pytest.mark.parametrize("sizes", [[], [1], [7, 100]])
def test_cut(sizes: list[int]) -> None:
    """A cut answer is not parsed; what came of it counts by its size."""
    body = json.dumps({"choices": CHOICES, "usage": REPORT}).encode()[:101]
    assert read(chop(body, sizes), stream=False, complete=False) == partial(26)


@pytest.mark.parametrize(
    ("endpoint", "answer", "reading"),
    [
        (
            CHAT,
            {"choices": [{"message": {"content": "12345", "reasoning_content": "é"}}]},
            estimated(2),
        ),
        (
            CHAT,
            {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]},
            estimated(0, "stop"),
        ),
        (CHAT, {"choices": CHOICES, "usage": {}}, estimated(1, "tool_calls", tool_calls={"f": 2})),
        (b"/v1/completions", {"choices": [{"text": "12345678"}]}, estimated(2)),
        (
            RESPONSES,
            {
                "status": "completed",
                "output": [
                    {"type": "message", "content": [{"type": "output_text", "text": "1234"}]},
                    {"type": "function_call", "name": "f", "arguments": "{}  5"},
                ],
                "usage": None,
            },
            estimated(3, "completed", tool_calls={"f": 1}),
        ),
        (
            MESSAGES,
            {
                "content": [
                    {"type": "thinking", "thinking": "1234"},
                    {"type": "text", "text": "12345678"},
                    {"type": "tool_use", "name": "f", "input": {"a": "b"}},
                ],
                "stop_reason": "tool_use",
            },
            estimated(6, "tool_use", tool_calls={"f": 1}),
        ),
        (b"/v1/embeddings", {"data": [{"embedding": [0.5] * 100}]}, estimated(0)),
        (b"/v1/rerank", {"results": [{"document": {"text": "1234"}}]}, estimated(0)),
        (b"/v1/score", {"data": [{"score": 0.5}]}, estimated(0)),
    ],
)
def test_estimated(endpoint: bytes, answer: object, reading: MeterReading) -> None:
    """Without usage, a token for every 4 bytes of text; nothing where nothing is generated."""
    body = json.dumps(answer).encode()
    assert read([body], stream=False, endpoint=endpoint) == reading


@pytest.mark.parametrize(
    "body", [b"<html>ok</html>!", b'["usage", 1, 2 ]', b'{"choices": [ {]', b"\x1f\x8b" + b"x" * 14]
)
def test_what_cannot_be_read(body: bytes) -> None:
    """An answer that is no JSON object, or compressed, counts by its size."""
    assert read([body], stream=False) == estimated(4)
    assert read([body], stream=False, endpoint=b"/v1/embeddings") == estimated(0)


@pytest.mark.parametrize(
    ("endpoint", "answer", "reading"),
    [
        (CHAT, {"error": {"message": "died"}}, MeterReading(error="died")),
        (CHAT, {"object": "error", "message": "flat"}, MeterReading(error="flat")),
        (
            RESPONSES,
            {"status": "failed", "error": {"code": "x"}},
            MeterReading(error="x", finish_reason="failed"),
        ),
        (
            MESSAGES,
            {"type": "error", "error": {"type": "overloaded_error"}},
            MeterReading(error="overloaded_error"),
        ),
        (
            RESPONSES,
            {
                "status": "failed",
                "error": {"message": "died"},
                "usage": {"input_tokens": 5, "output_tokens": 2},
            },
            MeterReading(Usage(5, 2, 7), "exact", "failed", error="died"),
        ),
    ],
)
def test_errors_with_status_200(endpoint: bytes, answer: object, reading: MeterReading) -> None:
    """An answer that is an error is told as one, and only counts if the backend counted it."""
    assert read([json.dumps(answer).encode()], stream=False, endpoint=endpoint) == reading


def test_lone_surrogates_and_bad_bytes() -> None:
    """Text that msgspec refuses does not hide the usage beside it."""
    body = b'{"choices":[{"message":{"content":"%s"},"finish_reason":"stop"}],"usage":%s}'
    for text in (b"\\ud83d", b"\xff"):
        answer = body % (text, json.dumps(REPORT).encode())
        assert read([answer], stream=False) == MeterReading(Usage(17, 12, 29), "exact", "stop")


LONG = b'x\\"\\u00e9' * (WHOLE_LIMIT_BYTES // 9)


@pytest.mark.parametrize("piece", [200, 65_536, 2 * WHOLE_LIMIT_BYTES])
@pytest.mark.parametrize(
    ("endpoint", "body", "reading"),
    [
        (
            CHAT,
            b'{"choices":[{"index":0,"message":{"content":"%b","tool_calls":[{"function":'
            b'{"name":"f","arguments":"%b"}},{"function":{"name":"g","arguments":"{}"}}]},'
            b'"finish_reason":"tool_calls"}],'
            b'"usage":{"prompt_tokens":17,"completion_tokens":12,"total_tokens":29}}'
            % (LONG, LONG),
            MeterReading(Usage(17, 12, 29), "exact", "tool_calls", {"f": 1, "g": 1}),
        ),
        (
            RESPONSES,
            b'{"usage":{"input_tokens":17,"output_tokens":12},"status":"completed","output":'
            b'[{"type":"message","content":[{"text":"%b"}]},'
            b'{"type":"function_call","name":"f","arguments":"%b"}]}' % (LONG, LONG),
            MeterReading(Usage(17, 12, 29), "exact", "completed", {"f": 1}),
        ),
        (
            MESSAGES,
            b'{"content":[{"type":"text","text":"%b"},{"type":"tool_use","name":"f","input":{}}],'
            b'"stop_reason":"tool_use","usage":{"input_tokens":17,"output_tokens":12}}' % LONG,
            MeterReading(Usage(17, 12, 29), "exact", "tool_use", {"f": 1}),
        ),
        (
            b"/v1/embeddings",
            b'{"data":[{"index":0,"embedding":[%b0.5]},{"index":1,"embedding":[%b-2e-05]}],'
            b'"usage":{"prompt_tokens":17,"total_tokens":17}}'
            % (b"-0.0123, " * 100_000, b"1.5e-7," * 100_000),
            MeterReading(Usage(17, 0, 17), "exact"),
        ),
    ],
    ids=["chat", "responses", "messages", "embeddings"],
)
def test_huge(piece: int, endpoint: bytes, body: bytes, reading: MeterReading) -> None:
    """Of a huge answer everything is still read."""
    assert len(body) > WHOLE_LIMIT_BYTES
    assert read(chop(body, [piece]), stream=False, endpoint=endpoint) == reading


def test_huge_without_usage() -> None:
    """It counts by its size, for its texts are not kept."""
    body = b'{"choices":[{"message":{"content":"%b"},"finish_reason":"stop"}]}' % LONG
    assert read([body], stream=False) == estimated(-(-len(body) // 4), "stop")


@pytest.mark.parametrize("piece", [10_000, 65_536])
def test_huge_with_countless_small_parts(piece: int) -> None:
    """Where even the skeleton is too long, the usage at the end is still read."""
    token = b'{"token":"abc","logprob":-0.5,"bytes":[97,98,99]},'
    body = b'{"choices":[{"logprobs":[%b{}],"finish_reason":"stop"}],"usage":%b}' % (
        token * 60_000,
        json.dumps(REPORT).encode(),
    )
    assert read(chop(body, [piece]), stream=False) == MeterReading(Usage(17, 12, 29), "exact")
    away = body + b" " * TAIL_BYTES
    assert read(chop(away, [piece]), stream=False) == estimated(-(-len(away) // 4))
    for end in (b'"usage":{"prompt_tokens":', b'"usage":null}', b'"usage":{}}', b"}"):
        cut_off = body[: body.rindex(b'"usage"')] + end
        assert read([cut_off], stream=False) == estimated(-(-len(cut_off) // 4))


@pytest.mark.parametrize("filling", [b"x", b'"abc",', b"0.25,"])
def test_memory_is_bounded(filling: bytes) -> None:
    """However long an answer is, and whatever it is made of, only so much of it is kept."""
    meter = make_meter(CHAT, status=200, stream=False, prompt_tokens=1)
    meter.feed(b'{"choices":[')
    tracemalloc.start()
    try:
        for _ in range(20):
            meter.feed(filling * (1024 * 1024 // len(filling)))
        assert tracemalloc.get_traced_memory()[0] < 3 * WHOLE_LIMIT_BYTES
    finally:
        tracemalloc.stop()


def test_repr() -> None:
    """Its repr tells its size and nothing of the answer; of streams it knows nothing."""
    meter = make_meter(CHAT, status=200, stream=False, prompt_tokens=1)
    meter.feed(b"secret")
    assert repr(meter) == "<PlainMeter size=6>"
    assert not meter.ends_torn()
