"""What a webhook's receiver is sent: envelopes, flat records, signatures (Standard Webhooks 1.0).

The same batch gives the same bytes at every try. The module must not know how they are sent.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from hmac import digest
from typing import Literal

import msgspec

from llmproxy.deliveries import Batch
from llmproxy.wire.usage_record import decode_record

WebhookFormat = Literal["batch", "single"]


class FlatRecordJson(msgspec.Struct):
    """A record under the names that receivers of the Go LLMProxy know, and a few more.

    Attributes:
        id: Of the record: the same however often it comes.
        api_key: The id of the key; the key itself is nowhere.
        timestamp: When the request began.
        backend_url: The backend's name.
    """

    id: str
    request_id: str
    user_id: str
    api_key: str
    key_name: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    usage_source: str
    is_stream: bool
    endpoint: str
    timestamp: str
    backend_url: str
    status_code: int
    outcome: str
    latency_ms: int
    session_id: str


class _Timed(msgspec.Struct):
    time: str = ""


_TIMED = msgspec.json.Decoder(_Timed)


def messages(batch: Batch, message_format: WebhookFormat) -> Iterator[tuple[str, bytes]]:
    """Give the messages that a batch is sent as: the id of each, and its body.

    Many records are one message, or one each under flat names; alerts are one each.
    """
    if batch.kind == "usage" and message_format == "batch":
        # As they were stored: no number is rounded, no name is lost on the way.
        yield batch.id, _envelope("usage.batch", batch.events[-1], _records(batch.events))
        return
    for number, event in enumerate(batch.events):
        is_alert = batch.kind == "alert"
        body = _envelope("stream.alert", event, event) if is_alert else _flat(event)
        yield f"{batch.id}_{number}", body


def sign(keys: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Sign a message with each of the keys; the receiver knows one of them.

    Args:
        keys: The keys.
        message_id: As in the field ``webhook-id``.
        timestamp: As in the field ``webhook-timestamp``: seconds since the epoch.
        body: The exact bytes.

    Returns:
        The value of the field ``webhook-signature``.
    """
    signed = b"%s.%d.%s" % (message_id.encode("ascii"), timestamp, body)
    return " ".join(
        "v1," + b64encode(digest(key, signed, "sha256")).decode("ascii") for key in keys
    )


def _records(events: tuple[bytes, ...]) -> bytes:
    return b'{"records":[' + b",".join(events) + b"]}"


def _envelope(kind: str, newest: bytes, content: bytes) -> bytes:
    time = msgspec.json.encode(_TIMED.decode(newest).time)
    return b'{"type":"%s","timestamp":%s,"data":%s}' % (kind.encode("ascii"), time, content)


def _flat(event: bytes) -> bytes:
    record = decode_record(event)
    return msgspec.json.encode(
        FlatRecordJson(
            id=record.id,
            request_id=record.request_id,
            user_id=record.user_id,
            api_key=record.key_id,
            key_name=record.key_name,
            model=record.model,
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            total_tokens=record.total_tokens,
            cached_tokens=record.cached_tokens,
            reasoning_tokens=record.reasoning_tokens,
            usage_source=record.usage_source,
            is_stream=record.stream,
            endpoint=record.endpoint,
            timestamp=record.time,
            backend_url=record.backend,
            status_code=record.status,
            outcome=record.outcome,
            latency_ms=round(record.duration_ms),
            session_id=record.session_id,
        )
    )
