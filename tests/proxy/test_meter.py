"""Tests of what meters have in common: the recordings, any chunking, which meter is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.proxy.meter import NOTHING_COUNTED, make_meter
from llmproxy.values import MeterReading, Usage
from tests import recorded
from tests.proxy import written_readings
from tests.proxy.metering import (
    CHAT,
    DONE,
    MESSAGES,
    REPORT,
    RESPONSES,
    USAGE,
    call,
    delta,
    event,
    named,
    read,
)
from tests.proxy.recorded_readings import READINGS
from tests.wire.test_sse import SIZES, chop

RESPONSE = {
    "status": "completed",
    "output": [{"type": "function_call", "name": "f"}],
    "usage": {"input_tokens": 17, "output_tokens": 12},
}
EVENTS: dict[bytes, list[bytes]] = {
    CHAT: [
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
    ],
    RESPONSES: [
        DONE,
        named("response.created", response={"status": "in_progress", "error": None}),
        named("response.output_text.delta", delta="a", sequence_number=7),
        named("response.output_text.delta", delta="é", sequence_number=8),
        named("response.output_item.added", item={"type": "function_call", "name": "f"}),
        named("response.completed", response=RESPONSE),
        named("response.failed", response={"error": {"message": "é"}}),
        named("error", message="died"),
        b": c\n\n",
        "data: é".encode(),
    ],
    MESSAGES: [
        DONE,
        named("message_start", message={"usage": {"input_tokens": 1, "output_tokens": 1}}),
        named("content_block_start", index=0, content_block={"type": "tool_use", "name": "f"}),
        named("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"}),
        named("content_block_delta", index=1, delta={"type": "text_delta", "text": "é"}),
        named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2}),
        named("message_stop"),
        named("error", error={"type": "overloaded_error"}),
        named("ping"),
        b": c\n\n",
    ],
}


@given(
    data=st.data(),
    endpoint=st.sampled_from([CHAT, RESPONSES, MESSAGES]),
    ending=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    sizes=SIZES,
    cut=st.integers(0, 40),
    complete=st.booleans(),
)
def test_any_chunking_gives_the_same_reading(
    data: Any, endpoint: bytes, ending: bytes, sizes: list[int], cut: int, complete: bool
) -> None:
    """However a stream is cut into pieces, with any line ends, the reading is the same."""
    stream = b"".join(data.draw(st.lists(st.sampled_from(EVENTS[endpoint]), max_size=12)))
    stream = stream[: len(stream) - cut]
    wanted = read([stream], complete=complete, endpoint=endpoint)
    pieces = chop(stream.replace(b"\n", ending), sizes)
    assert read(pieces, complete=complete, endpoint=endpoint) == wanted


@given(
    body=st.binary(max_size=200),
    sizes=SIZES,
    stream=st.booleans(),
    endpoint=st.sampled_from([CHAT, RESPONSES, MESSAGES]),
)
def test_any_bytes(body: bytes, sizes: list[int], stream: bool, endpoint: bytes) -> None:
    """Any bytes at all are survived, and read the same at any chunking."""
    wanted = read([body], stream=stream, endpoint=endpoint)
    assert read(chop(body, sizes), stream=stream, endpoint=endpoint) == wanted


@pytest.mark.parametrize("endpoint", sorted(NOTHING_COUNTED))
@pytest.mark.parametrize("complete", [True, False])
def test_endpoints_without_tokens(endpoint: bytes, complete: bool) -> None:
    """What uses no tokens has none, whatever its answers look like."""
    body = b'{"tokens":[1,2],"usage":{"prompt_tokens":5}}'
    assert read([body], stream=False, endpoint=endpoint, complete=complete) == MeterReading()


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
@pytest.mark.parametrize("stream", [True, False])
def test_refusals_use_nothing(status: int, stream: bool) -> None:
    """An answer whose status is an error is not looked into."""
    for complete in (True, False):
        for body in (USAGE, b'{"error":{"message":"x"}}'):
            reading = read([body], stream=stream, status=status, complete=complete)
            assert reading == MeterReading()


def test_a_refusal_may_be_a_stream() -> None:
    """Whether it stands between two events is known there as well."""
    meter = make_meter(CHAT, status=500, stream=True, prompt_tokens=1)
    assert meter.ends_at_event
    for piece, at_end in ((b"data: x", False), (b"\n", False), (b"\n", True), (b"\r\n", True)):
        meter.feed(piece)
        assert meter.ends_at_event == at_end
        assert meter.ends_torn() is not at_end
    assert not meter.done


# The recordings


def answers(status: bytes = b"200") -> dict[str, tuple[bytes, recorded.RecordedMessage]]:
    """Give the recorded answers with that status, and the paths that they answer, by name."""
    found = {}
    for name in recorded.names():
        recording = recorded.load(name)
        for number, message in enumerate(recording.responses):
            if message.start_line.split()[1] == status:
                request = recording.requests[min(number, len(recording.requests) - 1)]
                path = request.start_line.split()[1]
                found[f"{name}#{number}" if number else name] = (path, message)
    return found


ANSWERS = answers()


def readings_of(name: str, sizes: list[int] | None = None) -> MeterReading:
    """Meter a recorded answer, in its own chunks or in pieces of these sizes."""
    path, message = ANSWERS[name]
    return read(
        list(message.pieces) if sizes is None else chop(message.body, sizes),
        stream=message.header(b"content-type").startswith(b"text/event-stream"),
        complete=message.complete,
        endpoint=path,
    )


def test_every_answer_has_its_reading() -> None:
    """No recorded answer is left out of the table, and none stands there that is not recorded."""
    assert set(READINGS) == set(ANSWERS)


@pytest.mark.parametrize("name", sorted(READINGS))
def test_recorded(name: str) -> None:
    """Every recorded answer reads as the table says, in its own chunks, whole, and cut small."""
    assert readings_of(name) == READINGS[name]
    assert readings_of(name, []) == READINGS[name]
    size = len(ANSWERS[name][1].body)
    for step in (1, 7) if size < 5_000 else (7,) if size < 15_000 else (997,):
        assert readings_of(name, [step]) == READINGS[name]


@given(name=st.sampled_from(sorted(READINGS)), sizes=SIZES)
def test_recorded_at_any_chunking(name: str, sizes: list[int]) -> None:
    """However a recorded answer is cut, it reads the same."""
    assert readings_of(name, sizes) == READINGS[name]


# Streams written after the formats of TGI, SGLang and Ollama

WRITTEN = Path(__file__).parent.parent / "written"


def written_reading(name: str, sizes: list[int], *, complete: bool = True) -> MeterReading:
    """Meter a written stream in pieces of these sizes."""
    body = (WRITTEN / f"{name}.sse").read_bytes()
    endpoint, _ = written_readings.READINGS[name]
    return read(chop(body, sizes), endpoint=endpoint, complete=complete)


def test_every_written_stream_has_its_reading() -> None:
    """The table has all of them, and no others."""
    assert set(written_readings.READINGS) == {path.stem for path in WRITTEN.glob("*.sse")}


@given(name=st.sampled_from(sorted(written_readings.READINGS)), sizes=SIZES)
def test_written_at_any_chunking(name: str, sizes: list[int]) -> None:
    """However a written stream is cut, it reads as the table says."""
    _, reading = written_readings.READINGS[name]
    assert written_reading(name, sizes) == reading


@pytest.mark.parametrize("name", sorted(written_readings.READINGS))
def test_written(name: str) -> None:
    """Each reads as the table says, and is over at its last event, however the client leaves."""
    _, reading = written_readings.READINGS[name]
    for sizes in ([], [1], [7]):
        assert written_reading(name, sizes) == reading
        if not reading.error:
            assert written_reading(name, sizes, complete=False) == reading


# What was seen of real servers, by name


def test_usage_in_a_chunk_of_its_own() -> None:
    """vLLM: one last chunk without choices, when it is asked for."""
    assert readings_of("vllm/chat_stream_usage").usage == Usage(17, 12, 29)
    assert readings_of("vllm/chat_stream").usage_source == "estimated"


def test_usage_on_every_chunk() -> None:
    """Of vLLM's continuous usage, which grows, the last one stands."""
    assert readings_of("vllm/chat_stream_usage_continuous").usage == Usage(17, 12, 29)


def test_usage_chunks_for_each_choice() -> None:
    """llama-server with two choices: a usage chunk after each, of which the completions add up."""
    assert readings_of("llama_server/chat_stream_n2_usage").usage == Usage(17, 24, 41, 16)


def test_usage_on_the_finish_chunk_of_completions() -> None:
    """llama-server's completions carry usage on the finish chunk; two prompts have one each."""
    assert readings_of("llama_server/comp_stream").usage == Usage(4, 12, 16, 3)
    name = "llama_server/comp_two_prompts_stream_usage"
    assert readings_of(name).usage == Usage(7, 24, 31, 3)


def test_cached_tokens_beside_the_input() -> None:
    """llama-server's Messages: one token of the prompt was new, sixteen were cached."""
    for name in ("llama_server/anthropic_plain", "llama_server/anthropic_stream"):
        assert readings_of(name).usage == Usage(17, 12, 29, 16)


def test_usage_with_choices_and_without_done() -> None:
    """transformers: usage on the finish chunk, which has choices; the stream just ends."""
    assert b"[DONE]" not in ANSWERS["transformers/chat_stream"][1].body
    assert readings_of("transformers/chat_stream").usage == Usage(17, 12, 29)


def test_streams_without_usage() -> None:
    """llama_cpp.server: none, even when it is asked for."""
    reading = readings_of("llamacpp_python/tool_stream_usage")
    assert reading.usage_source == "estimated"


def test_responses_and_messages_end_without_done() -> None:
    """Their streams are over with their own last event; a client may leave then."""
    for name in ("vllm/responses_stream", "llama_server/anthropic_stream"):
        path, message = ANSWERS[name]
        assert b"[DONE]" not in message.body
        meter = make_meter(path, status=200, stream=True, prompt_tokens=1)
        meter.feed(message.body)
        assert meter.done
        assert meter.reading(complete=False) == READINGS[name]


def test_several_events_in_a_chunk_and_an_event_in_several() -> None:
    """llama-server's first chunk holds many events; cut into single bytes, it reads the same."""
    name = "llama_server/responses_stream"
    assert ANSWERS[name][1].pieces[0].count(b"\n\n") > 1
    assert readings_of(name) == readings_of(name, [1]) == READINGS[name]


def test_comments_between_events() -> None:
    """What vLLM can send, ``: keep-alive``, counts for nothing."""
    name = "vllm/keepalive_comments_stream"
    assert b"\n: keep-alive" in b"\n" + ANSWERS[name][1].body
    assert readings_of(name).usage == Usage(17, 60, 77)


def test_error_under_status_200() -> None:
    """The engine of vLLM died mid-stream: an error, then ``[DONE]``; what had come is partial."""
    reading = readings_of("vllm/engine_killed_midstream")
    assert reading.error.startswith("EngineCore encountered an issue.")
    assert (reading.usage_source, reading.usage.completion_tokens) == ("partial", 5)


def test_error_without_done() -> None:
    """llama-server reports it the same way, and ends without ``[DONE]``."""
    died = event(error={"code": 500, "message": "died", "type": "server_error"})
    assert read([delta(content="a"), died]).error == "died"


def test_empty_stream_for_a_prompt_that_is_too_long() -> None:
    """llama_cpp.server: status 200 and nothing at all, which costs nothing."""
    assert readings_of("llamacpp_python/err_overlong_stream") == MeterReading()


@pytest.mark.parametrize("flat", [True, False])
def test_errors_of_sglang(flat: bool) -> None:
    """SGLang nests its errors in a stream, and has them flat elsewhere; ``[DONE]`` follows."""
    error = {"object": "error", "message": "died", "type": "X", "param": None, "code": 500}
    stream = [delta(content="a"), event(**(error if flat else {"error": error})), DONE]
    assert (read(stream).error, read(stream).usage_source) == ("died", "partial")


def test_forced_calls_finish_with_stop() -> None:
    """vLLM: the name first, then pieces of the arguments, then ``stop``."""
    reading = readings_of("vllm/tool_ns_forced_stream_usage")
    assert (reading.finish_reason, reading.tool_calls) == ("stop", {"get_weather": 1})


def test_names_on_every_delta() -> None:
    """llama_cpp.server repeats name and id with each piece, in an older key too: it is one call."""
    body = ANSWERS["llamacpp_python/tool_stream"][1].body
    assert body.count(b'"get_weather"') > 40
    assert readings_of("llamacpp_python/tool_stream").tool_calls == {"get_weather": 1}


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_reasoning(key: str) -> None:
    """Both vLLM's ``reasoning`` and SGLang's ``reasoning_content`` are generated tokens."""
    assert read([delta(**{key: "a"}), delta(content="b")]).usage.completion_tokens == 2


def test_ids_are_not_looked_at() -> None:
    """Some repeat the client's request id as the answer's (vLLM, transformers)."""
    stream = [event(id="x", choices=[{"index": 0, "delta": {"content": "a"}}])] * 2
    assert read(stream).usage.completion_tokens == 2
