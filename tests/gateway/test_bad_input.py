"""Bad input over real sockets: each with its status, its JSON and the right end."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.gateway.conftest import Start
from tests.gateway.raw_client import CHAT, RawClient, chat_body, request_bytes
from tests.scripted_backend import Connection, ScriptedBackend

KEYS: list[dict[str, Any]] = [
    {"key": "sk-test-key-1", "name": "tester"},
    {"key": "sk-disabled", "status": "disabled"},
    {"key": "sk-expired", "expires_at": "2020-01-01"},
    {"key": "sk-elsewhere", "allowed_ips": ["192.0.2.0/24"]},
    {"key": "sk-not-here", "denied_ips": ["127.0.0.0/8"]},
    {"key": "sk-other-model", "allowed_models": ["other-*"]},
]

AUTH = {"pipeline": [{"name": "static", "type": "static", "static": {"keys": KEYS}}]}


def fine(connection: Connection) -> None:
    """Answer every request."""
    while connection.read_request() is not None:
        connection.answer(b'{"ok":true}')


def strict(start: Start, backend: ScriptedBackend) -> Daemon:
    """Start a daemon with tight limits."""
    daemon = start(
        backend,
        auth=AUTH,
        server={
            "max_body_size": 2000,
            "max_inflight_bytes": 3000,
            "header_timeout": "500ms",
            "body_timeout": "500ms",
        },
    )
    daemon.wait_for_log("lists 1 models")
    return daemon


GOOD = chat_body()

CASES: dict[str, tuple[bytes, int, str]] = {
    "no JSON": (request_bytes(b"hello"), 400, "invalid_json"),
    "empty body": (request_bytes(b""), 400, "invalid_json"),
    "a JSON list": (request_bytes(b"[1]"), 400, "invalid_body"),
    "no model": (request_bytes(b"{}"), 400, "invalid_body"),
    "model is a number": (request_bytes(b'{"model":1}'), 400, "invalid_body"),
    "unknown model": (request_bytes(b'{"model":"nope"}'), 404, "model_not_found"),
    "unknown path": (request_bytes(GOOD, "/v1/files"), 404, "unknown_url"),
    "encoded path": (request_bytes(GOOD, "/v1/chat%2Fcompletions"), 404, "unknown_url"),
    "dotted path": (request_bytes(GOOD, "/v1/x/../chat/completions"), 404, "unknown_url"),
    "trailing slash": (request_bytes(GOOD, CHAT + "/"), 404, "unknown_url"),
    "wrong method": (request_bytes(b"", CHAT, method="GET"), 405, "method_not_allowed"),
    "DELETE": (request_bytes(b"", "/v1/models", method="DELETE"), 405, "method_not_allowed"),
    "TRACE": (request_bytes(b"", CHAT, method="TRACE"), 405, "method_not_allowed"),
    "body over the limit": (request_bytes(b"x" * 2001), 413, "request_too_large"),
    "chunked body over the limit": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-API-Key: sk-test-key-1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 3,
        413,
        "request_too_large",
    ),
    "too many headers": (
        request_bytes(GOOD, headers={f"X-{number}": "1" for number in range(101)}),
        431,
        "headers_too_large",
    ),
    "a huge header": (request_bytes(GOOD, headers={"X": "1" * 40_000}), 431, "headers_too_large"),
    "a long target": (request_bytes(GOOD, CHAT + "?" + "a" * 40_000), 414, "uri_too_long"),
    "no key": (request_bytes(GOOD, key=""), 401, "invalid_api_key"),
    "bad key": (request_bytes(GOOD, key="sk-wrong"), 401, "invalid_api_key"),
    "a key of odd bytes": (request_bytes(GOOD, key="sk-\xff' OR 1=1"), 401, "invalid_api_key"),
    "disabled key": (request_bytes(GOOD, key="sk-disabled"), 403, "key_disabled"),
    "expired key": (request_bytes(GOOD, key="sk-expired"), 403, "key_expired"),
    "wrong IP": (request_bytes(GOOD, key="sk-elsewhere"), 403, "ip_not_allowed"),
    "denied IP": (request_bytes(GOOD, key="sk-not-here"), 403, "ip_not_allowed"),
    "model not allowed": (request_bytes(GOOD, key="sk-other-model"), 403, "model_not_allowed"),
    "compressed body": (
        request_bytes(GOOD, headers={"Content-Encoding": "gzip"}),
        415,
        "unsupported_content_encoding",
    ),
    "other expectation": (request_bytes(GOOD, headers={"Expect": "x"}), 417, "expectation_failed"),
    "two lengths": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
        b"Content-Length: 3\r\n\r\nabc",
        400,
        "bad_request",
    ),
    "length and chunks": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    "no Host": (b"GET /health HTTP/1.1\r\n\r\n", 400, "bad_request"),
    "TLS on a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad_request"),
    "slow head": (b"GET /health HTTP/1.1\r\nHost: a\r\n", 408, "request_timeout"),
    "slow body": (request_bytes(GOOD)[:-1], 408, "request_timeout"),
}


def test_every_case(start: Start) -> None:
    """None reaches a backend, each is answered in JSON, and the daemon lives on."""
    with ScriptedBackend(fine) as backend:
        daemon = strict(start, backend)
        for name, (raw, status, code) in CASES.items():
            with RawClient(daemon.port) as client:
                assert client.send(raw).error() == (status, code), name
        assert backend.seen == []
        with RawClient(daemon.port) as client:
            assert client.post(GOOD).answer() == (200, b'{"ok":true}')


def test_refusal_in_the_middle_of_an_upload_is_readable(start: Start) -> None:
    """A client that is still sending when it is refused can read why."""
    with ScriptedBackend(fine) as backend:
        daemon = strict(start, backend)
        with RawClient(daemon.port) as client:
            client.send(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-API-Key: sk-test-key-1\r\n"
                b"Content-Length: 500000\r\n\r\n"
            )
            for _ in range(5):
                client.send(b"x" * 100_000)
                time.sleep(0.01)
            assert client.error() == (413, "request_too_large")


def test_byte_budget(start: Start) -> None:
    """While others' bodies fill max_inflight_bytes, a further one is a 503 with Retry-After."""
    with ScriptedBackend(fine) as backend:
        daemon = strict(start, backend)
        with RawClient(daemon.port) as first, RawClient(daemon.port) as second:
            body = chat_body(x="y" * 1700)
            first.send(request_bytes(body)[:-1])
            time.sleep(0.1)
            assert second.send(request_bytes(body)).error() == (503, "queue_full")
            assert second.headers["retry-after"] == "1"
            first.send(body[-1:])
            assert first.answer()[0] == 200
        with RawClient(daemon.port) as third:
            assert third.post(body).answer()[0] == 200


def test_expect_continue(start: Start) -> None:
    """100 comes after the key was checked, not before."""
    with ScriptedBackend(fine) as backend:
        daemon = strict(start, backend)
        expect = {"Expect": "100-continue"}
        with RawClient(daemon.port) as client:
            head = request_bytes(GOOD, headers=expect)[: -len(GOOD)]
            client.send(head)
            assert client.head() == 100
            assert client.send(GOOD).answer() == (200, b'{"ok":true}')
        with RawClient(daemon.port) as client:
            head = request_bytes(GOOD, headers=expect, key="sk-wrong")[: -len(GOOD)]
            assert client.send(head).error() == (401, "invalid_api_key")


def test_keep_alive_and_pipelining(start: Start) -> None:
    """Requests sent together are answered in their order, good and bad ones alike."""
    with ScriptedBackend(fine) as backend:
        daemon = strict(start, backend)
        with RawClient(daemon.port) as client:
            client.send(
                request_bytes(GOOD)
                + request_bytes(b'{"model":"nope"}')
                + request_bytes(b"", "/health", method="GET")
                + b"BAD\r\n\r\n"
            )
            assert client.answer() == (200, b'{"ok":true}')
            assert client.error() == (404, "model_not_found")
            assert client.answer() == (200, b'{"status":"ok"}')
            assert client.error() == (400, "bad_request")
            assert client.headers["connection"] == "close"
            assert client.rest() == (b"", False)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m"])
def test_models(start: Start, path: str) -> None:
    """The list of models is filtered by key."""
    with ScriptedBackend(fine) as backend:
        daemon = strict(start, backend)
        with RawClient(daemon.port) as client:
            status, body = client.send(request_bytes(b"", path, method="GET")).answer()
            assert status == 200
            assert b'"id":"m"' in body
            client.send(request_bytes(b"", path, method="GET", key="sk-other-model"))
            status, body = client.answer()
            assert b'"id":"m"' not in body
            assert status == (404 if path.endswith("/m") else 200)
            assert client.send(request_bytes(b"", path, method="GET", key="")).error()[0] == 401
