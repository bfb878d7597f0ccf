"""Tests of the meter: by hand-made events, at any chunking, and over every recording."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.proxy.meter import TAIL_BYTES, WHOLE_LIMIT_BYTES, make_meter
from llmproxy.values import MeterReading, Usage
from tests import recorded
from tests.wire.test_sse import SIZES, chop


def read(pieces: list[bytes], *, stream: bool = True, complete: bool = True) -> MeterReading:
    """Feed the pieces and return the reading, asked for twice."""
    meter = make_meter(stream=stream)
    for piece in pieces:
        meter.feed(piece)
    reading = meter.reading(complete)
    assert meter.reading(complete) == reading
    return reading


def event(**content: Any) -> bytes:
    """Return one event with that JSON object."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def delta(index: int = 0, finish: str | None = None, /, **parts: Any) -> bytes:
    """Return one chunk of a chat with one choice."""
    choice = {"index": index, "delta": parts, "finish_reason": finish}
    return event(object="chat.completion.chunk", choices=[choice])


def call(index: int | None, name: str | None, arguments: str = "") -> dict[str, Any]:
    """Return one entry of ``tool_calls``."""
    function = {"name": name, "arguments": arguments}
    entry: dict[str, Any] = {"function": {k: v for k, v in function.items() if v is not None}}
    return entry if index is None else {"index": index, **entry}


REPORT = {"prompt_tokens": 17, "completion_tokens": 12, "total_tokens": 29}
USAGE = event(choices=[], usage=REPORT)
DONE = b"data: [DONE]\n\n"


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


def test_nothing() -> None:
    """An empty answer gives an empty reading."""
    for stream in (True, False):
        for complete in (True, False):
            assert read([], stream=stream, complete=complete) == MeterReading()


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
    counted = MeterReading(Usage(0, 6, 6), "partial", tool_calls={"f": 1})
    assert read(stream, complete=False) == counted
    assert read([b"".join(stream)], complete=False) == counted
    assert read(stream, complete=True) == MeterReading(tool_calls={"f": 1})


def test_cut_after_done_is_complete() -> None:
    """A client that leaves at ``[DONE]`` has had the whole answer."""
    assert read([delta(content="a"), USAGE, DONE], complete=False).usage_source == "exact"
    assert read([delta(content="a"), USAGE], complete=False).usage_source == "partial"
    assert read([delta(content="[DONE]"), USAGE], complete=False).usage_source == "partial"


def test_continuous_usage() -> None:
    """Cumulative usage: the last one, partial when the stream was cut."""

    def chunk(tokens: int) -> bytes:
        report = {"prompt_tokens": 17, "completion_tokens": tokens}
        return event(choices=[{"index": 0, "delta": {"content": "a"}}], usage=report)

    stream = [chunk(tokens) for tokens in range(5)]
    assert read(stream, complete=False) == MeterReading(Usage(17, 4, 21), "partial")
    assert read([*stream, USAGE]) == MeterReading(Usage(17, 12, 29), "exact")


def test_usage_null() -> None:
    """A null usage on each chunk is none."""
    chunk = event(choices=[{"index": 0, "delta": {"content": "a"}}], usage=None)
    assert read([chunk, chunk, USAGE]).usage == Usage(17, 12, 29)
    assert read([chunk, chunk]).usage_source == "none"


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
    assert read([garbage]).usage_source == "none"
    assert read([garbage.removeprefix(b"data: ")], stream=False).usage_source == "none"


def test_lone_surrogates_and_bad_bytes() -> None:
    """Text that msgspec refuses does not hide the usage beside it."""
    body = b'{"choices":[{"message":{"content":"%s"},"finish_reason":"stop"}],"usage":%s}'
    for text in (b"\\ud83d", b"\xff"):
        answer = body % (text, json.dumps(REPORT).encode())
        assert read([answer], stream=False) == MeterReading(Usage(17, 12, 29), "exact", "stop")


def test_long_lines_are_skipped() -> None:
    """A line over the limit is not kept and not read; the next one is."""
    meter = make_meter(stream=True)
    meter.feed(b'data: {"usage":{"prompt_tokens":5},"x":"')
    for _ in range(40):
        meter.feed(b"x" * 65_536)
    meter.feed(b'"}\n\n' + USAGE)
    assert meter.reading(True).usage == Usage(17, 12, 29)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000])
def test_byte_order_mark(size: int) -> None:
    """A byte order mark before a stream's first line hides nothing; elsewhere it is no mark."""
    mark = "\ufeff".encode()
    usual = MeterReading(Usage(17, 12, 29), "exact", "stop")
    stream = [USAGE, delta(0, "stop"), DONE]
    assert read(chop(mark + b"".join(stream), [size])) == usual
    assert read(chop(mark + USAGE.rstrip(), [size])).usage == usual.usage
    for where in (mark * 2 + USAGE, b"\n" + mark + USAGE):
        assert read(chop(where, [size])).usage_source == "none"


def test_last_line_without_end() -> None:
    """A stream that ends without a line end is read to its last byte."""
    assert read([delta(content="a"), USAGE[:-2]]).usage == Usage(17, 12, 29)


def test_ends_at_event() -> None:
    """The meter knows whether the client stands between two events."""
    meter = make_meter(stream=True)
    assert meter.ends_at_event
    meter.feed(USAGE[:-1])
    assert not meter.ends_at_event
    meter.feed(b"\n")
    assert meter.ends_at_event


def test_plain() -> None:
    """A plain answer is read when it is whole, and not when it is cut."""
    message = {"content": "x", "tool_calls": [call(None, "f"), call(None, "f")]}
    choices = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    body = json.dumps({"choices": choices, "usage": REPORT}).encode()
    whole = MeterReading(Usage(17, 12, 29), "exact", "tool_calls", {"f": 2})
    for sizes in ([], [1], [7, 100]):
        assert read(chop(body, sizes), stream=False) == whole
        assert read(chop(body, sizes), stream=False, complete=False) == MeterReading()
    assert read([body[:-1]], stream=False) == MeterReading()


@pytest.mark.parametrize("size", [100_000, WHOLE_LIMIT_BYTES, 5 * WHOLE_LIMIT_BYTES])
@pytest.mark.parametrize("piece", [200, 65_536, 2 * WHOLE_LIMIT_BYTES])
@pytest.mark.parametrize("after", [0, TAIL_BYTES - 200, TAIL_BYTES])
def test_huge_plain(size: int, piece: int, after: int) -> None:
    """Of a huge answer the usage is still exact, and only the end is kept."""
    body = b'{"usage":{"prompt_tokens":5},"data":["%s"],"usage":%s,"y":"%s"}'
    body %= (b"x" * size, json.dumps(REPORT).encode(), b"y" * after)
    found = read(chop(body, [piece]), stream=False)
    huge_and_far = len(body) > WHOLE_LIMIT_BYTES and after == TAIL_BYTES
    assert found == (MeterReading() if huge_and_far else MeterReading(Usage(17, 12, 29), "exact"))


def test_huge_plain_cut_inside_the_usage() -> None:
    """A tail whose usage cannot be read gives none."""
    for end in (b'"usage":{"prompt_tokens":', b'"usage":null}', b'"usage":{}}', b"}"):
        body = b'{"data":"' + b"x" * WHOLE_LIMIT_BYTES + b'",' + end
        assert read([body], stream=False) == MeterReading()


_EVENTS = st.lists(
    st.sampled_from(
        [
            USAGE,
            DONE,
            delta(content="a"),
            delta(0, "stop"),
            delta(1, "length"),
            delta(tool_calls=[call(0, "f")]),
            delta(1, tool_calls=[call(1, "g", "{")], function_call={"name": "g"}),
            event(choices=[{"index": 1, "text": "é"}], usage=REPORT, object="text_completion"),
            event(error={"message": "é"}),
            b": c\n\n",
            "data: é".encode(),
        ]
    ),
    max_size=12,
)


@given(
    events=_EVENTS,
    ending=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    sizes=SIZES,
    cut=st.integers(0, 40),
    complete=st.booleans(),
)
def test_any_chunking_gives_the_same_reading(
    events: list[bytes], ending: bytes, sizes: list[int], cut: int, complete: bool
) -> None:
    """However a stream is cut into pieces, with any line ends, the reading is the same."""
    stream = b"".join(events)
    stream = stream[: len(stream) - cut]
    wanted = read([stream], complete=complete)
    assert read(chop(stream.replace(b"\n", ending), sizes), complete=complete) == wanted


@given(body=st.binary(max_size=200), sizes=SIZES, stream=st.booleans())
def test_any_bytes(body: bytes, sizes: list[int], stream: bool) -> None:
    """Any bytes at all are survived, and read the same at any chunking."""
    assert read(chop(body, sizes), stream=stream) == read([body], stream=stream)


# Over the recordings


def expected(message: recorded.RecordedMessage) -> MeterReading:
    """Work the reading out from the whole body, the plain way."""
    if not message.header(b"content-type").startswith(b"text/event-stream"):
        answer = json.loads(message.body) if message.body.startswith(b"{") else {}
        return _expected([answer], "message", answer.get("usage"), error="")
    payloads = [
        line.removeprefix(b"data: ") for line in message.body.split(b"\n") if line[:5] == b"data:"
    ]
    events = [json.loads(payload) for payload in payloads if payload.startswith(b"{")]
    answers = [one["usage"] for one in events if one.get("choices") == [] and "usage" in one]
    on_choices = {
        one["choices"][0]["index"]: one["usage"]
        for one in events
        if one.get("choices") and one.get("usage")
    }
    usage = None
    if answers:
        usage = _summed(answers, own_prompts=False)
    elif on_choices:
        usage = _summed(list(on_choices.values()), own_prompts="text" in str(events[0]["object"]))
    errors = [one["error"]["message"] for one in events if isinstance(one.get("error"), dict)]
    reading = _expected(events, "delta", usage, error=errors[0] if errors else "")
    if reading.usage_source == "none" and (errors or not message.complete):
        texts = [
            part
            for one in events
            for choice in one.get("choices", [])
            if (part := choice.get("text") or choice.get("delta", {}).get("content"))
        ]
        return attrs.evolve(
            reading,
            usage=Usage(0, len(texts), len(texts)),
            usage_source="partial" if texts else "none",
        )
    return reading


def _summed(reports: list[dict[str, Any]], *, own_prompts: bool) -> dict[str, Any]:
    first = dict(reports[0])
    for other in reports[1:]:
        first["completion_tokens"] += other["completion_tokens"]
        if own_prompts:
            first["prompt_tokens"] += other["prompt_tokens"]
    cached = [_cached(report) for report in reports]
    first["prompt_tokens_details"] = {"cached_tokens": sum(cached) if own_prompts else max(cached)}
    first["total_tokens"] = first["prompt_tokens"] + first["completion_tokens"]
    return first


def _cached(report: dict[str, Any]) -> int:
    return int((report.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


def _expected(
    answers: list[dict[str, Any]], key: str, usage: dict[str, Any] | None, *, error: str
) -> MeterReading:
    reasons = []
    places: dict[tuple[int, int], str] = {}
    for choice in [choice for answer in answers for choice in answer.get("choices", [])]:
        if choice.get("finish_reason"):
            reasons.append(choice["finish_reason"])
        for place, one in enumerate(choice.get(key, {}).get("tool_calls") or []):
            if one["function"].get("name"):
                where = (choice["index"], one.get("index", place))
                places.setdefault(where, one["function"]["name"])
    calls: dict[str, int] = {}
    for name in places.values():
        calls[name] = calls.get(name, 0) + 1
    reading = MeterReading(
        finish_reason=reasons[0] if reasons else "", tool_calls=calls, error=error
    )
    if usage is None or "prompt_tokens" not in usage:
        return reading
    tokens = Usage(
        usage["prompt_tokens"],
        usage.get("completion_tokens", 0),
        usage["total_tokens"],
        _cached(usage),
    )
    return attrs.evolve(reading, usage=tokens, usage_source="exact")


def readings(message: recorded.RecordedMessage, name: str) -> list[MeterReading]:
    """Return the readings of one answer at several chunkings."""
    body = message.body
    cuts = [
        list(message.pieces),
        [body],
        chop(body, random.Random(name).choices(range(1, 600), k=20)),
    ]
    if len(body) < 15_000:
        cuts.append(chop(body, [7]))
    if len(body) < 5_000:
        cuts.append(chop(body, [1]))
    stream = message.header(b"content-type").startswith(b"text/event-stream")
    return [read(pieces, stream=stream, complete=message.complete) for pieces in cuts]


@pytest.mark.parametrize("name", recorded.names())
def test_recorded(name: str) -> None:
    """Every recorded answer reads as a plain parse of its whole body says, at any chunking."""
    for message in recorded.load(name).responses:
        wanted = expected(message)
        if name.split("/")[1].startswith(("responses_", "anthropic_")):
            wanted = MeterReading()  # Their usage is another dialect.
        for reading in readings(message, name):
            assert reading == wanted


WEATHER = {"get_weather": 1}


@pytest.mark.parametrize(
    ("name", "reading"),
    [
        ("vllm/chat_plain", MeterReading(Usage(17, 12, 29), "exact", "length")),
        ("vllm/chat_stream", MeterReading(finish_reason="length")),
        ("vllm/chat_stream_usage", MeterReading(Usage(17, 12, 29), "exact", "length")),
        ("vllm/chat_stream_usage_continuous", MeterReading(Usage(17, 12, 29), "exact", "length")),
        ("vllm/chat_stream_n2_usage", MeterReading(Usage(17, 24, 41), "exact", "length")),
        ("vllm/tool_ns_forced_plain", MeterReading(Usage(337, 69, 406), "exact", "stop", WEATHER)),
        ("vllm/tool_ns_forced_stream", MeterReading(finish_reason="stop", tool_calls=WEATHER)),
        (
            "vllm/tool_ns_forced_stream_usage",
            MeterReading(Usage(337, 69, 406), "exact", "stop", WEATHER),
        ),
        (
            "vllm/engine_killed_midstream",
            MeterReading(
                Usage(0, 5, 5),
                "partial",
                error="EngineCore encountered an issue. "
                "See stack trace (above) for the root cause.",
            ),
        ),
        ("llama_server/chat_stream_usage", MeterReading(Usage(17, 12, 29, 16), "exact", "length")),
        (
            "llama_server/chat_stream_n2_usage",
            MeterReading(Usage(17, 24, 41, 16), "exact", "length"),
        ),
        ("llama_server/comp_stream", MeterReading(Usage(4, 12, 16, 3), "exact", "length")),
        (
            "llama_server/comp_two_prompts_stream_usage",
            MeterReading(Usage(7, 24, 31, 3), "exact", "length"),
        ),
        (
            "llamacpp_python/tool_plain",
            MeterReading(Usage(27, 29, 56), "exact", "tool_calls", WEATHER),
        ),
        (
            "llamacpp_python/tool_stream_usage",
            MeterReading(finish_reason="tool_calls", tool_calls=WEATHER),
        ),
        ("transformers/chat_stream", MeterReading(Usage(17, 12, 29), "exact", "length")),
        (
            "transformers/err_overlong_stream",
            MeterReading(Usage(3013, 12, 3025), "exact", "length"),
        ),
    ],
)
def test_recorded_by_hand(name: str, reading: MeterReading) -> None:
    """The readings of some recordings, as a person reads them."""
    message = recorded.load(name).responses[0]
    assert readings(message, name) == [reading] * len(readings(message, name))
