"""The shape of errors: as an answer, as an event, as raw bytes."""

from __future__ import annotations

import json

import pytest

from llmproxy.errors import HeadersTooLarge, InvalidApiKey, InvalidBody, MemoryBudgetSpent
from llmproxy.wire.api_errors import (
    error_answer,
    error_event,
    error_object,
    raw_answer,
    reason_phrase,
)


def test_error_object() -> None:
    """OpenAI's, with all four keys, always."""
    assert error_object('say "é"', "t", "c", "p") == (
        '{"error":{"message":"say \\"é\\"","type":"t","param":"p","code":"c"}}'.encode()
    )
    assert json.loads(error_object("m", "t", "c"))["error"]["param"] is None


def test_error_answer() -> None:
    """The length is the body's; further fields come last."""
    fields, body = error_answer(InvalidBody("Bad.", param="model", headers=((b"X", b"y"),)))
    assert fields == [
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"%d" % len(body)),
        (b"X", b"y"),
    ]
    assert json.loads(body)["error"] == {
        "message": "Bad.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "invalid_body",
    }


@pytest.mark.parametrize(
    ("retry_after_s", "seconds", "milliseconds"),
    [
        (None, b"1", b"1000"),
        (0, b"0", b"0"),
        (5, b"5", b"5000"),
        (0.0001, b"1", b"1"),
        (0.25, b"1", b"250"),
        (1.0, b"1", b"1000"),
        (1.2005, b"2", b"1201"),
        (59.9999, b"60", b"60000"),
    ],
)
def test_retry_after(retry_after_s: float | None, seconds: bytes, milliseconds: bytes) -> None:
    """In whole seconds and milliseconds, rounded up: who comes then does not come too early."""
    fields = dict(error_answer(MemoryBudgetSpent(retry_after_s=retry_after_s))[0])
    assert (fields[b"Retry-After"], fields[b"retry-after-ms"]) == (seconds, milliseconds)


def test_no_retry_after() -> None:
    """Where nothing gets better by waiting, nothing is said."""
    assert not {b"Retry-After", b"retry-after-ms"} & set(dict(error_answer(InvalidBody())[0]))


def test_a_restated_error_is_answered_as_it_says() -> None:
    """Its message is in the body, its status in the status line; type and code stay."""
    raw = raw_answer(InvalidApiKey().restated(403, "Ask the help desk for a key."), ())
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"WWW-Authenticate: Bearer" in head
    assert json.loads(body)["error"] == {
        "message": "Ask the help desk for a key.",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }


def test_error_event() -> None:
    """One event, its line whole whatever the message holds, of the type that clients show."""
    event = error_event("a\nb", "stalled")
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2
    assert json.loads(event[6:])["error"] == {
        "message": "a\nb",
        "type": "server_error",
        "param": None,
        "code": "stalled",
    }


@pytest.mark.parametrize(
    ("status", "phrase"), [(200, b"OK"), (431, b"Request Header Fields Too Large"), (299, b"")]
)
def test_reason_phrases(status: int, phrase: bytes) -> None:
    """The standard ones; unknown statuses have none."""
    assert reason_phrase(status) == phrase


def test_raw_answer() -> None:
    """A whole answer, byte for byte."""
    body = error_object(HeadersTooLarge.message, "invalid_request_error", "headers_too_large")
    assert raw_answer(HeadersTooLarge(), ((b"X-Request-ID", b"1"),)) == (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
        b"Content-Type: application/json\r\n"
        b"Content-Length: %d\r\n"
        b"X-Request-ID: 1\r\n"
        b"Connection: close\r\n"
        b"\r\n%b" % (len(body), body)
    )
