"""Tests of the meter of streams: by hand-made events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from llmproxy.proxy.stream_meter import StreamMeter
from llmproxy.values import MeterReading, Usage
from llmproxy.wire.choices_dialect import ChoicesDialect
from tests.proxy.metering import (
    DONE,
    MESSAGES,
    PROMPT,
    REPORT,
    RESPONSES,
    USAGE,
    call,
    delta,
    estimated,
    event,
    named,
    partial,
    read,
)
from tests.wire.test_sse import chop


def test_stream() -> None:
    """Usage and the finish reason of a usual stream."""
    stream = [
        delta(role="assistant", content=""),
        delta(content="a"),
        delta(0, "length"),
        USAGE,
        DONE,
    ]
    assert read(stream) == MeterReading(Usage(17, 12, 29), "exact", "length")


def test_finish_reason_of_the_first_that_has_one() -> None:
    """The first finish reason stands; null and empty ones are none."""
    stream = [delta(0), delta(1, ""), delta(1, "stop"), delta(0, "length")]
    assert read(stream).finish_reason == "stop"


@pytest.mark.parametrize(
    ("stream", "calls"),
    [
        # The name first, then the arguments in pieces.
        (
            [
                delta(tool_calls=[call(0, "f")]),
                delta(tool_calls=[call(0, None, "{")]),
                delta(tool_calls=[call(0, None, '"name": "g"}')]),
            ],
            {"f": 1},
        ),
        # The name with every piece, and the older key beside it.
        ([delta(tool_calls=[call(0, "f", "{")], function_call={"name": "f"})] * 5, {"f": 1}),
        ([delta(function_call={"name": "f", "arguments": "{"})] * 3, {"f": 1}),
        ([delta(function_call=None, tool_calls=None, content="x")], {}),
        # Several calls, in one event or not, and of several choices.
        ([delta(tool_calls=[call(0, "f"), call(1, "g"), call(2, "f")])], {"f": 2, "g": 1}),
        ([delta(0, tool_calls=[call(0, "f")]), delta(1, tool_calls=[call(0, "f")])], {"f": 2}),
        (
            [delta(0, tool_calls=[call(0, "f")]), delta(1, function_call={"name": "g"})],
            {"f": 1, "g": 1},
        ),
        ([delta(tool_calls=[call(None, "f"), call(None, "g")])], {"f": 1, "g": 1}),
        # Malformed parts.
        ([delta(tool_calls=[call(0, ""), 7, {"function": "f"}, {"function": {"name": 7}}])], {}),
        ([event(choices=[7, {"index": "x", "delta": {"tool_calls": [call(0, "f")]}}])], {"f": 1}),
        ([event(choices={"name": "f"})], {}),
    ],
)
def test_tool_calls(stream: list[bytes], calls: Mapping[str, int]) -> None:
    """A call is counted once, by its place."""
    assert read(stream).tool_calls == calls


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b'{"error": {"message": "Engine died", "type": "X", "code": 500}}', "Engine died"),
        (b'{"error": {"message": "", "type": "server_error"}}', "server_error"),
        (b'{"error": {"message": null, "code": 500}}', "500"),
        (b'{"error": {}}', "error"),
        (b'{"error": "Unauthorized"}', "Unauthorized"),
        (b'{"object": "error", "message": "flat", "type": "T"}', "flat"),
        (b'{"error": "' + b"x" * 10_000 + b'"}', "x" * 500),
        (b'{"error": null, "choices": []}', ""),
        (b'{"choices": [{"delta": {"content": "error"}}]}', ""),
        (b'{"error": {"message": "cut', ""),
    ],
)
def test_error_events(payload: bytes, error: str) -> None:
    """An error in the stream is told by its message or type, and the answer is not whole."""
    stream = [delta(content="a"), b"data: " + payload + b"\n\n", DONE]
    assert read(stream).error == error
    assert read([*stream[:2], USAGE]).usage_source == ("partial" if error else "exact")


def test_cut_stream_is_counted() -> None:
    """Events with text, reasoning or calls count as one token each; others do not."""
    stream = [
        delta(role="assistant", content=""),
        delta(content='"'),
        delta(reasoning="a"),
        delta(reasoning_content="a"),
        delta(tool_calls=[call(0, "f", "{")], function_call={"name": "f", "arguments": "{"}),
        delta(tool_calls=[call(0, None, "{")]),
        event(choices=[{"index": 0, "text": "a"}]),
        delta(content=None),
        b": keep-alive\n\n",
        delta(),
    ]
    for pieces in (stream, [b"".join(stream)]):
        assert read(pieces, complete=False) == partial(6, tool_calls={"f": 1})
        assert read(pieces, complete=True) == estimated(6, tool_calls={"f": 1})


@pytest.mark.parametrize("endpoint", [RESPONSES, MESSAGES])
def test_other_dialects_are_counted_too(endpoint: bytes) -> None:
    """Events with text, reasoning or arguments count, whatever they are called."""
    kinds: list[tuple[str, dict[str, Any]]]
    if endpoint == RESPONSES:
        kinds = [
            ("response.output_text.delta", {"delta": "a"}),
            ("response.reasoning_text.delta", {"delta": "a"}),
            ("response.function_call_arguments.delta", {"delta": "{"}),
            ("response.output_text.delta", {"delta": ""}),
            ("response.output_text.done", {"text": "a"}),
            ("response.content_part.done", {"part": {"type": "output_text", "text": "a"}}),
        ]
    else:
        kinds = [
            ("content_block_delta", {"delta": {"type": "text_delta", "text": "a"}}),
            ("content_block_delta", {"delta": {"type": "thinking_delta", "thinking": "a"}}),
            ("content_block_delta", {"delta": {"type": "x", "partial_json": "{"}}),
            ("content_block_delta", {"delta": {"type": "text_delta", "text": ""}}),
            ("content_block_start", {"content_block": {"type": "text", "text": ""}}),
            ("content_block_delta", {"delta": {"type": "signature_delta", "signature": "x"}}),
            ("ping", {}),
        ]
    stream = [named(kind, **content) for kind, content in kinds]
    for pieces, tokens in ((stream, 3), ([b"".join(stream)], 3), (stream * 3, 9)):
        assert read(pieces, complete=False, endpoint=endpoint) == partial(tokens)
        assert read(pieces, endpoint=endpoint) == estimated(tokens)


def test_partial_is_no_less_than_what_was_seen() -> None:
    """It is what the backend counted before the cut, or the events that came, if that is more."""
    start = named("message_start", message={"usage": {"input_tokens": 9, "output_tokens": 1}})
    text = named("content_block_delta", delta={"type": "text_delta", "text": "a"})
    for texts, tokens in ((0, 1), (1, 1), (5, 5)):
        reading = read([start, *[text] * texts], complete=False, endpoint=MESSAGES)
        assert reading == MeterReading(Usage(9, tokens, 9 + tokens), "partial")


def test_an_opened_stream_has_used_its_prompt() -> None:
    """A client that leaves before the first text has made the backend work on its prompt."""
    assert read([], complete=False) == partial(0)
    assert read([delta(role="assistant", content="")], complete=False) == partial(0)


def test_nothing_to_count() -> None:
    """A whole stream without a byte, and one that only tells an error, have used nothing."""
    assert read([]) == MeterReading()
    died = event(error={"message": "died"})
    for complete in (True, False):
        assert read([died], complete=complete) == MeterReading(error="died")
        assert read([died, DONE], complete=complete) == MeterReading(error="died")
    assert read([delta(content="a"), died]) == partial(1, error="died")


def test_cut_after_done_is_complete() -> None:
    """A client that leaves at ``[DONE]`` has had the whole answer."""
    assert read([delta(content="a"), USAGE, DONE], complete=False).usage_source == "exact"
    assert read([delta(content="a"), DONE], complete=False) == estimated(1)
    assert read([delta(content="a"), USAGE], complete=False).usage_source == "partial"
    assert read([delta(content="[DONE]"), USAGE], complete=False).usage_source == "partial"


@pytest.mark.parametrize(
    ("endpoint", "last"),
    [
        (RESPONSES, named("response.completed", response={"status": "completed"})),
        (RESPONSES, named("response.incomplete", response={"status": "incomplete"})),
        (MESSAGES, named("message_stop")),
        (RESPONSES, DONE),
        (MESSAGES, DONE),
    ],
)
def test_cut_after_the_last_word_is_complete(endpoint: bytes, last: bytes) -> None:
    """What says no ``[DONE]`` is over with the event that ends it."""
    text = named("x", delta="a", text="a")
    meter = StreamMeter(ChoicesDialect(), PROMPT)
    assert not meter.done
    assert read([text, last], complete=False, endpoint=endpoint).usage_source == "estimated"
    assert read([text, last[:-12]], complete=False, endpoint=endpoint).usage_source == "partial"


def test_continuous_usage() -> None:
    """Cumulative usage: the last one, partial when the stream was cut."""

    def chunk(tokens: int) -> bytes:
        report = {"prompt_tokens": 17, "completion_tokens": tokens}
        return event(choices=[{"index": 0, "delta": {"content": "a"}}], usage=report)

    stream = [chunk(tokens) for tokens in range(1, 5)]
    assert read(stream, complete=False) == MeterReading(Usage(17, 4, 21), "partial")
    assert read([*stream, USAGE]) == MeterReading(Usage(17, 12, 29), "exact")


def test_usage_null() -> None:
    """A null usage on each chunk is none."""
    chunk = event(choices=[{"index": 0, "delta": {"content": "a"}}], usage=None)
    assert read([chunk, chunk, USAGE]).usage == Usage(17, 12, 29)
    assert read([chunk, chunk]) == estimated(2)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n\n",
        b"data: null\n\n",
        b'data: "usage":{\n\n',
        b'data: {"usage":{"prompt_tokens":"x"}}\n\n',
        b'data: {"usage":{},"choices":7}\n\n',
        b'data: ["usage",{"usage":{}}]\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":' + b"[" * 5000 + b"\n\n",
        b'event: {"choices":[],"usage":{"prompt_tokens":5}}\n\n',
        b'data: {"usage":{"prompt_tokens":1' + b"0" * 5000 + b"}}\n\n",
        b"\xff\xfe\n\n",
    ],
)
def test_garbage_is_survived(garbage: bytes) -> None:
    """Nothing in a stream can make the meter fail, or miss what comes after."""
    assert read([garbage, delta(0, "stop"), USAGE]) == MeterReading(
        Usage(17, 12, 29), "exact", "stop"
    )
    assert read([garbage]) == estimated(0)


def test_lone_surrogates_and_bad_bytes() -> None:
    """Text that msgspec refuses does not hide the usage beside it."""
    chunk = b'data: {"choices":[{"delta":{"content":"%b"}}],"usage":%b}\n\n'
    for text in (b"\\ud83d", b"\xff"):
        answer = chunk % (text, json.dumps(REPORT).encode())
        assert read([answer]) == MeterReading(Usage(17, 12, 29), "exact")


def test_long_lines_are_skipped() -> None:
    """A line over the limit is not kept and not read; the next one is."""
    long_line = [b'data: {"usage":{"prompt_tokens":5},"x":"', *[b"x" * 65_536] * 40]
    assert read([*long_line, b'"}\n\n' + USAGE]).usage == Usage(17, 12, 29)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000])
def test_byte_order_mark(size: int) -> None:
    """A byte order mark before a stream's first line hides nothing; elsewhere it is no mark."""
    mark = "\ufeff".encode()
    usual = MeterReading(Usage(17, 12, 29), "exact", "stop")
    stream = [USAGE, delta(0, "stop"), DONE]
    assert read(chop(mark + b"".join(stream), [size])) == usual
    assert read(chop(mark + USAGE.rstrip(), [size])).usage == usual.usage
    for where in (mark * 2 + USAGE, b"\n" + mark + USAGE):
        assert read(chop(where, [size])) == estimated(0)


def test_last_line_without_end() -> None:
    """A stream that ends without a line end is read to its last byte."""
    assert read([delta(content="a"), USAGE[:-2]]).usage == Usage(17, 12, 29)


def test_a_last_word_without_end() -> None:
    """Whoever says all that there is to say, and no line end after it, was not cut."""
    for last, torn in ((b"data: [DONE]", False), (b"data: [DONE", True), (USAGE[:-2], True)):
        meter = StreamMeter(ChoicesDialect(), PROMPT)
        meter.feed(delta(content="a"))
        meter.feed(last)
        assert meter.ends_torn() is torn
        assert meter.reading(complete=True).usage == read([delta(content="a"), last]).usage


def test_ends_at_event() -> None:
    """The meter knows whether the client stands between two events."""
    meter = StreamMeter(ChoicesDialect(), PROMPT)
    assert meter.ends_at_event
    meter.feed(USAGE[:-1])
    assert not meter.ends_at_event
    assert meter.ends_torn()
    meter.feed(b"\n")
    assert meter.ends_at_event
    assert not meter.ends_torn()
    assert repr(meter) == "<StreamMeter deltas=0 done=False>"
