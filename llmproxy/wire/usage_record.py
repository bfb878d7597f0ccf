"""The JSON of usage records and alerts: what is spooled, and what receivers are sent.

One line for each: JSON escapes every line end inside a text. The names are the contract's. What is
written here is kept on disks and read by receivers: a name never changes its meaning, and readers
must bear names that they do not know. The module must not know where a record goes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from llmproxy.values import StreamAlert, UsageRecord


class TriedJson(msgspec.Struct):
    """One attempt that did not give the answer."""

    backend: str = ""
    error: str = ""


class UsageRecordJson(msgspec.Struct, omit_defaults=False):
    """A usage record as JSON; see `UsageRecord` for what the fields mean.

    Attributes:
        time: When the request began: RFC 3339, UTC, milliseconds.
        tool_calls: How many calls of each function.
        request_body: The request's body as text, where the configuration wants it; else absent.
    """

    id: str = ""
    time: str = ""
    request_id: str = ""
    key_id: str = ""
    key_name: str = ""
    user_id: str = ""
    model: str = ""
    upstream_model: str = ""
    backend: str = ""
    endpoint: str = ""
    stream: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    usage_source: str = "none"
    outcome: str = ""
    status: int = 0
    error_code: str = ""
    finish_reason: str = ""
    tool_calls: dict[str, int] = {}
    session_id: str = ""
    parent_session_id: str = ""
    first_byte_ms: float | None = None
    duration_ms: float = 0.0
    queue_ms: float = 0.0
    attempts: int = 0
    tried: list[TriedJson] = []
    bytes_in: int = 0
    bytes_out: int = 0
    client_ip: str = ""
    user_agent: str = ""
    request_body: str | msgspec.UnsetType = msgspec.UNSET


class StreamAlertJson(msgspec.Struct):
    """An alert as JSON; see `StreamAlert`."""

    kind: str = ""
    time: str = ""
    request_id: str = ""
    key_id: str = ""
    key_name: str = ""
    user_id: str = ""
    model: str = ""
    backend: str = ""
    session_id: str = ""
    duration_s: float = 0.0
    silent_s: float = 0.0


_ENCODER = msgspec.json.Encoder()
_RECORD = msgspec.json.Decoder(UsageRecordJson)


def encode_record(record: UsageRecord) -> bytes:
    """Encode a record; never fails, whatever texts are in it."""
    usage = record.usage
    first_byte_ms = record.first_byte_ms
    body = record.request_body
    return _encode(
        UsageRecordJson(
            id=record.id,
            time=timestamp(record.time),
            request_id=record.request_id,
            key_id=record.key_id,
            key_name=record.key_name,
            user_id=record.user_id,
            model=record.model,
            upstream_model=record.upstream_model,
            backend=record.backend,
            endpoint=record.endpoint,
            stream=record.stream,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            usage_source=record.usage_source,
            outcome=record.outcome,
            status=record.status,
            error_code=record.error_code,
            finish_reason=record.finish_reason,
            tool_calls=dict(record.tool_calls),
            session_id=record.session_id,
            parent_session_id=record.parent_session_id,
            first_byte_ms=None if first_byte_ms is None else round(first_byte_ms, 3),
            duration_ms=round(record.duration_ms, 3),
            queue_ms=round(record.queue_ms, 3),
            attempts=record.attempts,
            tried=[TriedJson(one.backend, one.error) for one in record.tried],
            bytes_in=record.bytes_in,
            bytes_out=record.bytes_out,
            client_ip=record.client_ip,
            user_agent=record.user_agent,
            request_body=msgspec.UNSET if body is None else body.decode("utf-8", "replace"),
        )
    )


def decode_record(line: bytes) -> UsageRecordJson:
    """Read a record that `encode_record` wrote, by this version or another.

    Raises:
        ValueError: It is none.
    """
    return _RECORD.decode(line)


def encode_alert(alert: StreamAlert) -> bytes:
    """Encode an alert; never fails, whatever texts are in it."""
    return _encode(
        StreamAlertJson(
            kind=alert.kind,
            time=timestamp(alert.time),
            request_id=alert.request_id,
            key_id=alert.key_id,
            key_name=alert.key_name,
            user_id=alert.user_id,
            model=alert.model,
            backend=alert.backend,
            session_id=alert.session_id,
            duration_s=round(alert.duration_s, 3),
            silent_s=round(alert.silent_s, 3),
        )
    )


def timestamp(time_s: float) -> str:
    """Write a time as RFC 3339 has it, in UTC, with milliseconds.

    Args:
        time_s: Seconds since the epoch.
    """
    milliseconds = round(time_s * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=8)
def _second(second: int) -> str:
    """Write a whole second; most records share theirs with the one before."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _encode(value: msgspec.Struct) -> bytes:
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        # Valid JSON may spell half of a surrogate pair, in a function's name for example.
        return _ENCODER.encode(_encodable(msgspec.to_builtins(value)))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_encodable(name): _encodable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_encodable(one) for one in value]
    return value
