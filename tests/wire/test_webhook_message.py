"""Tests of `llmproxy.wire.webhook_message`."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from llmproxy.deliveries import Batch
from llmproxy.wire.usage_record import encode_alert, encode_record
from llmproxy.wire.webhook_message import messages, sign
from tests.usage.rig import alert, record

KEYS = (b"k" * 24, b"p" * 32)


def test_a_batch_is_one_message() -> None:
    """Its records stand in it byte for byte as they were stored."""
    events = (encode_record(record("a")), b'{"id":"b","time":"T","n":1.10}')
    ((message_id, body),) = list(messages(Batch("msg_1", "usage", events), "batch"))
    assert message_id == "msg_1"
    assert body == (
        b'{"type":"usage.batch","timestamp":"T","data":{"records":[' + b",".join(events) + b"]}}"
    )


def test_alerts_are_one_message_each() -> None:
    """With an id of its own, the same at every try."""
    batch = Batch("msg_1", "alert", (encode_alert(alert("x")), encode_alert(alert("y"))))
    sent = list(messages(batch, "batch"))
    assert [message_id for message_id, _ in sent] == ["msg_1_0", "msg_1_1"]
    body = json.loads(sent[1][1])
    assert (body["type"], body["timestamp"]) == ("stream.alert", "2027-01-15T08:00:00.000Z")
    assert body["data"]["request_id"] == "y"
    assert sent == list(messages(batch, "batch"))


def test_single_records_are_flat() -> None:
    """Under the names that receivers of the Go LLMProxy read."""
    event = encode_record(record("a", stream=True, duration_ms=12.6, session_id="s"))
    ((message_id, body),) = list(messages(Batch("msg_1", "usage", (event,)), "single"))
    assert message_id == "msg_1_0"
    assert json.loads(body) == {
        "id": "a",
        "request_id": "req_a",
        "user_id": "alice",
        "api_key": "key-1",
        "key_name": "alice-laptop",
        "model": "m",
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "total_tokens": 30,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "usage_source": "exact",
        "is_stream": True,
        "endpoint": "/v1/chat/completions",
        "timestamp": "2027-01-15T08:00:00.000Z",
        "backend_url": "b",
        "status_code": 200,
        "outcome": "ok",
        "latency_ms": 13,
        "session_id": "s",
    }


@pytest.mark.parametrize("key", KEYS)
def test_signatures_verify_with_either_key(key: bytes) -> None:
    """By the package that receivers use, during a rotation; nothing else does."""
    now = int(datetime.now(UTC).timestamp())
    body = b'{"text":"\xc3\xa4"}'
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": sign(KEYS, "msg_1", now, body),
    }
    secret = "whsec_" + b64encode(key).decode()
    assert Webhook(secret).verify(body, headers) == {"text": "ä"}
    for name, value in (
        ("webhook-id", "msg_2"),
        ("webhook-timestamp", str(now - 1)),
        ("webhook-signature", sign((b"x" * 24,), "msg_1", now, body)),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, {**headers, name: value})
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body + b" ", headers)
