"""Usage records and batches of them, for those who store and deliver them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmproxy.deliveries import Batch
from llmproxy.values import TriedBackend, Usage, UsageRecord
from llmproxy.wire.usage_record import UsageRecordJson, decode_record, encode_record

START_S = 1_790_000_000.0


def record(number: int = 0, **more: Any) -> UsageRecord:
    """Give a record: each number has an id of its own, and begins a second after the one before."""
    fields: dict[str, Any] = {
        "id": f"rec-{number:06d}",
        "time": START_S + number,
        "request_id": f"req-{number}",
        "endpoint": "/v1/chat/completions",
        "key_id": "key_1",
        "key_name": "ada's key",
        "user_id": "ada",
        "model": "qwen-72b",
        "upstream_model": "qwen",
        "backend": "gpu-1",
        "stream": True,
        "usage": Usage(100, 10, 110, 60, 4),
        "usage_source": "exact",
        "outcome": "ok",
        "status": 200,
        "finish_reason": "tool_calls",
        "tool_calls": {"read": 2},
        "session_id": "ses_1",
        "first_byte_ms": 12.5,
        "duration_ms": 800.0,
        "queue_ms": 0.25,
        "attempts": 2,
        "tried": (TriedBackend("gpu-2", "connect_failed"),),
        "bytes_in": 1000,
        "bytes_out": 2000,
        "client_ip": "10.0.0.7",
        "user_agent": "opencode/1",
    }
    return UsageRecord(**fields | more)


def as_json(number: int = 0, **more: Any) -> UsageRecordJson:
    """Give a record as its JSON is read."""
    return decode_record(encode_record(record(number, **more)))


def batch(records: Iterable[UsageRecord], name: str = "batch-1") -> Batch:
    """Give a batch of these."""
    return Batch(name, "usage", tuple(map(encode_record, records)))
