"""Tests of `llmproxy.wire.usage_record`."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.values import StreamAlert, TriedBackend, Usage, UsageRecord
from llmproxy.wire.usage_record import (
    UsageRecordJson,
    decode_record,
    encode_alert,
    encode_record,
    timestamp,
)

RECORD = UsageRecord(
    id="01900000-0000-7000-8000-000000000001",
    time=1_700_000_000.5,
    request_id="r-1",
    endpoint="/v1/chat/completions",
    key_id="k1",
    key_name="alice",
    user_id="u1",
    model="qwen",
    upstream_model="Qwen/Qwen3",
    backend="b1",
    stream=True,
    usage=Usage(10, 5, 15, 3, 2),
    usage_source="exact",
    outcome="ok",
    status=200,
    finish_reason="stop",
    tool_calls={"read": 2},
    session_id="s1",
    parent_session_id="s0",
    first_byte_ms=1.23456,
    duration_ms=20.0,
    queue_ms=0.5,
    attempts=2,
    tried=(TriedBackend("b0", "connect_failed"),),
    bytes_in=100,
    bytes_out=200,
    client_ip="192.0.2.1",
    user_agent="test",
)

CONTRACT = {
    "id",
    "time",
    "request_id",
    "key_id",
    "key_name",
    "user_id",
    "model",
    "upstream_model",
    "backend",
    "endpoint",
    "stream",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "usage_source",
    "outcome",
    "status",
    "finish_reason",
    "tool_calls",
    "session_id",
    "parent_session_id",
    "first_byte_ms",
    "duration_ms",
    "queue_ms",
    "attempts",
    "bytes_in",
    "bytes_out",
    "client_ip",
    "user_agent",
}


def test_a_record_under_the_names_of_the_contract() -> None:
    """All of them, with their values; the body of the request is not there."""
    told = json.loads(encode_record(RECORD))
    assert set(told) >= CONTRACT
    assert set(told) - CONTRACT == {"error_code", "tried"}
    assert told["time"] == "2023-11-14T22:13:20.500Z"
    assert (told["prompt_tokens"], told["cached_tokens"]) == (10, 3)
    assert told["tool_calls"] == {"read": 2}
    assert told["first_byte_ms"] == 1.235
    assert told["tried"] == [{"backend": "b0", "error": "connect_failed"}]


def test_a_body_where_it_is_wanted() -> None:
    """As text; bytes that are none are replaced."""
    told = json.loads(encode_record(attrs.evolve(RECORD, request_body=b'{"a":"\xff"}')))
    assert told["request_body"] == '{"a":"\ufffd"}'


@given(st.text(st.characters()), st.dictionaries(st.text(st.characters()), st.integers(0, 9)))
def test_any_text_is_one_line_and_comes_back(text: str, calls: dict[str, int]) -> None:
    """Line ends, quotes and lone surrogates included."""
    line = encode_record(attrs.evolve(RECORD, user_agent=text, model=text, tool_calls=calls))
    assert b"\n" not in line
    assert b"\r" not in line
    record = decode_record(line)
    assert record.model == text.encode("utf-8", "replace").decode()
    assert record.id == RECORD.id
    assert record.tried[0].backend == "b0"


def test_records_of_later_versions_are_read() -> None:
    """What is not known is passed over, and what is missing has its default."""
    assert decode_record(b'{"id":"x","status":200,"new":[1]}') == UsageRecordJson(
        id="x", status=200
    )


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"status":"x"}', b"\xff"])
def test_what_is_no_record(line: bytes) -> None:
    """Raises ValueError."""
    with pytest.raises(ValueError, match=r"."):
        decode_record(line)


def test_an_alert() -> None:
    """Says which stream, and for how long."""
    alert = StreamAlert(
        kind="stalled_stream", time=0.0, request_id="r", model="\ud800", duration_s=9, silent_s=1
    )
    told = json.loads(encode_alert(alert))
    assert told["kind"] == "stalled_stream"
    assert told["time"] == "1970-01-01T00:00:00.000Z"
    assert told["model"] == "?"
    assert (told["duration_s"], told["silent_s"]) == (9.0, 1.0)


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(0.9996, "1970-01-01T00:00:01.000Z"), (1.0014, "1970-01-01T00:00:01.001Z")],
)
def test_times_are_rounded(time_s: float, text: str) -> None:
    """To the nearest millisecond, over the second's edge too."""
    assert timestamp(time_s) == text
