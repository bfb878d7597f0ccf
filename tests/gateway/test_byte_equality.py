"""What backends send is what clients get, byte for byte, but for the withheld usage chunk."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

from tests import recorded
from tests.gateway.conftest import Start
from tests.gateway.raw_client import RawClient, chat_body
from tests.scripted_backend import Connection, ScriptedBackend

RELAYED = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
)

Cutter = Callable[[bytes], list[bytes]]


def whole(raw: bytes) -> list[bytes]:
    """All at once."""
    return [raw]


def sevens(raw: bytes) -> list[bytes]:
    """Seven bytes at a time, or a thousand pieces of a long one."""
    size = max(7, len(raw) // 1000)
    return [raw[at : at + size] for at in range(0, len(raw), size)]


def anyhow(raw: bytes) -> list[bytes]:
    """At random places, the same ones each time."""
    source = random.Random(len(raw))
    cuts = sorted(source.sample(range(len(raw)), min(40, len(raw))))
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


class Replay:
    """A backend that answers each request with recorded bytes, cut as the test wants."""

    def __init__(self) -> None:
        self.raw = b""
        self.cut: Cutter = whole

    def __call__(self, connection: Connection) -> None:
        """Serve one connection; a recorded answer may be the last on it."""
        while connection.read_request() is not None:
            for piece in self.cut(self.raw):
                connection.send(piece)
            if b"chunked" not in self.raw.lower() and b"content-length" not in self.raw.lower():
                return


def usage_chunks(body: bytes) -> list[bytes]:
    """Find the events that only carry usage, by an independent reading."""
    found = []
    for part in body.split(b"\n\n"):
        if part.startswith(b"data: {"):
            chunk = json.loads(part[6:])
            if chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict):
                found.append(part + b"\n\n")
    return found


def path_of(recording: recorded.Recording) -> str:
    """Give the path that a recorded request went to."""
    return recording.request_line.split()[1].decode()


def replayable() -> list[recorded.Recording]:
    """Give the recordings of one complete answer to a JSON request for a model."""
    found = []
    for name in recorded.names():
        recording = recorded.load(name)
        path = path_of(recording)
        if len(recording.requests) != 1 or not recording.complete or path not in RELAYED:
            continue
        try:
            body = json.loads(recording.request_body)
        except ValueError:
            continue
        if isinstance(body, dict) and isinstance(body.get("model"), str):
            found.append(recording)
    return found


@pytest.mark.parametrize("cut", [whole, sevens, anyhow])
def test_recordings(start: Start, cut: Cutter) -> None:
    """Every recorded answer of vLLM, llama.cpp and transformers passes unchanged."""
    replay = Replay()
    replay.cut = cut
    with ScriptedBackend(replay) as backend:
        settings = {"name": "b", "url": backend.url, "models": ["*"]}
        daemon = start(settings, health_check={"enabled": False})
        recordings = replayable()
        assert len(recordings) > 100
        withheld = 0
        for recording in recordings:
            replay.raw = recording.response_bytes
            asked = recording.request_body
            # The same answer again, to a client that did not want the usage that it carries.
            unwanted = asked.replace(b'"include_usage": true', b'"include_usage": false')
            for request_body in {asked, unwanted}:
                backend.seen.clear()
                path = path_of(recording)
                with RawClient(daemon.port) as client:
                    status, body = client.post(request_body, path).answer()
                injected = asks_nothing(request_body) and path in RELAYED[:2]
                expected = recording.body
                if injected and recording.is_stream:
                    for chunk in usage_chunks(recording.body):
                        expected = expected.replace(chunk, b"")
                        withheld += 1
                assert status == recording.status, recording.name
                assert body == expected, recording.name
                sent_up = backend.seen[0].body
                if injected:
                    assert json.loads(sent_up)["stream_options"]["include_usage"] is True
                else:
                    assert sent_up == request_body, recording.name
        assert backend.errors == []
        assert withheld > 10, "no recording showed the withholding"


def asks_nothing(request_body: bytes) -> bool:
    """Whether a request is for a stream without usage."""
    asked = json.loads(request_body)
    options = asked.get("stream_options") or {}
    return asked.get("stream") is True and options.get("include_usage") is not True


def events_of_every_kind() -> bytes:
    """Tool deltas, reasoning, unknown fields, a 1 MB line, odd white space, comments, UTF-8."""
    long_text = "ü€😀" * 120_000
    lines = [
        ": a comment\n\n",
        'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}],"odd":{"a":[1.50,1e3]}}\n\n',
        'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm \\u00fc"}}]}\n\n',
        'data:{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","function":'
        '{"name":"read","arguments":""}}]}}]}\n\n',
        'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":'
        '{"arguments":"{\\"filePath\\":"}}]}}]}\r\n\r\n',
        f'data: {{"choices":[{{"index":0,"delta":{{"content":"{long_text}"}}}}]}}\n\n',
        'id: 7\nevent: m\ndata: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        'data: {"choices":[],"usage":null}\n\n',
        'data: {"choices":[],"usage":'
        '{"prompt_tokens":7,"completion_tokens":8,"total_tokens":15}}\n\n',
        "data: [DONE]\n\n",
    ]
    return "".join(lines).encode()


@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize("size", [1, 1000, 65536])
def test_scripted_stream(start: Start, size: int, include_usage: bool) -> None:
    """At any size of chunk, even inside a character, all bytes arrive in order."""
    body = events_of_every_kind()

    def script(connection: Connection) -> None:
        while connection.read_request() is not None:
            connection.stream_head()
            # Single bytes for the start and the end, where everything happens.
            pieces = [body[at : at + size] for at in range(0, 3000, size)] if size == 1 else []
            begin = len(b"".join(pieces))
            tail = 2000 if size == 1 else 0
            middle = body[begin : len(body) - tail]
            step = max(size, 4096 if size == 1 else size)
            pieces += [middle[at : at + step] for at in range(0, len(middle), step)]
            pieces += [body[at : at + 1] for at in range(len(body) - tail, len(body))]
            connection.send(b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n")

    daemon = start(script)
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    with RawClient(daemon.port) as client:
        status, got = client.post(chat_body(stream=True, **options)).answer()
    assert status == 200
    (usage,) = usage_chunks(body.replace(b"\r\n", b"\n"))
    assert got == (body if include_usage else body.replace(usage, b""))
    line = daemon.wait_for_log('"usage_source":"exact"')
    assert '"total_tokens":15' in line
    assert '"tool_calls":{"read":1}' in line


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_request_bodies(start: Start, framing: str) -> None:
    """Odd but valid JSON of 5 MB goes up byte for byte, however the client framed it."""
    text = "x€" * 1_200_000
    body = (f'{{ "stream" :false,"model":\t"m" , "n":1.0,"n":1,"x":"{text}\\u0000" }}\n').encode()

    def script(connection: Connection) -> None:
        while connection.read_request() is not None:
            connection.answer(b"{}")

    with ScriptedBackend(script) as backend:
        daemon = start(backend)
        with RawClient(daemon.port) as client:
            if framing == "length":
                client.post(body)
            else:
                client.send(
                    b"POST /v1/chat/completions?a=%2F&b HTTP/1.1\r\nHost: a\r\n"
                    b"X-API-Key: sk-test-key-1\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                for at in range(0, len(body), 100_003):
                    piece = body[at : at + 100_003]
                    client.send(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece))
                client.send(b"0\r\nX-Trailer: no\r\n\r\n")
            assert client.answer() == (200, b"{}")
        (seen,) = backend.seen
        assert seen.body == body
        if framing == "chunked":
            assert seen.request_line == "POST /v1/chat/completions?a=%2F&b HTTP/1.1"
            assert seen.header("x-trailer") == ""
