"""A miniature soak, and that its clients notice every way in which a stream can be wrong."""

from __future__ import annotations

import asyncio
import json
import time
from random import Random

import pytest

from benchmarks import soak
from benchmarks.soak import Sample, slope_bytes_per_minute
from benchmarks.soak_clients import Clients, Seen
from benchmarks.toolchain import compiler
from tests.scripted_backend import Connection, ScriptedBackend

DONE = b"data: [DONE]\n\n"
FINISH = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
ERROR = b'data: {"error":{"message":"m","code":"connection_lost"}}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
REFUSAL = b'{"error": {"message": "m", "code": "no_backend"}}'


@pytest.mark.skipif(compiler() is None, reason="the model server needs a C compiler: cc")
def test_a_miniature_has_no_faults(capsys: pytest.CaptureFixture[str]) -> None:
    """A few streams, a few seconds, one fault of a backend."""
    arguments = ["--minutes", "0.1", "--streams", "8", "--fault-every", "3", "--seed", "7"]
    assert soak.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "  whole" in printed
    assert "WRONG" not in printed
    assert "killed backend" in printed


def events(body: bytes, mark: str = "") -> list[bytes]:
    """Give the events that a request asks for, with its own mark or another."""
    text = json.loads(body)["messages"][0]["content"]
    count, _, own = (word.partition("=")[2] for word in text.split())
    contents = [f" {mark or own}token-{number:06d}" for number in range(int(count))]
    return [
        b"data: %b\n\n"
        % json.dumps({"choices": [{"delta": {"content": one}, "finish_reason": None}]}).encode()
        for one in contents
    ]


def chunked(*pieces: bytes) -> bytes:
    """Give a chunked body with one chunk for each piece."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)


END = b"0\r\n\r\n"


def answered(kind: str, body: bytes) -> bytes:
    """Give an answer of that kind."""
    own = events(body)
    return {
        "whole": STREAM + chunked(*own, FINISH, DONE) + END,
        "error": STREAM + chunked(*own[:2], ERROR),
        "refused": b"HTTP/1.1 503 x\r\nContent-Length: %d\r\n\r\n%b" % (len(REFUSAL), REFUSAL),
        "another's": STREAM + chunked(*events(body, "other"), FINISH, DONE) + END,
        "short": STREAM + chunked(*own[:-1], FINISH, DONE) + END,
        "unfinished": STREAM + chunked(*own, DONE) + END,
        "broken": STREAM + chunked(*own[:2]),
        "error shown as complete": STREAM + chunked(*own, ERROR) + END,
        "no words": b"HTTP/1.1 503 x\r\nContent-Length: 2\r\n\r\n{}",
        "client's fault": b"HTTP/1.1 400 x\r\nContent-Length: %d\r\n\r\n%b"
        % (len(REFUSAL), REFUSAL),
        "nothing": b"",
    }[kind]


def look_at(kind: str, leaving: float = 0.0) -> Seen:
    """Have one client look at one answer."""

    def script(connection: Connection) -> None:
        request = connection.read_request()
        if request is not None:
            connection.send(answered(kind, request.body))

    async def ask(port: int, seen: Seen) -> None:
        until_s = time.monotonic() + 0.05
        await Clients(
            port, count=1, leaving=leaving, until_s=until_s, random=Random(1), seen=seen
        ).run()

    seen = Seen()
    with ScriptedBackend(script) as backend:
        asyncio.run(ask(backend.port, seen))
    return seen


@pytest.mark.parametrize(
    ("kind", "end"),
    [("whole", "whole"), ("error", "stream connection_lost"), ("refused", "503 no_backend")],
)
def test_true_ends(kind: str, end: str) -> None:
    """Whole, or a clear error."""
    seen = look_at(kind)
    assert not seen.faults
    assert seen.ends[end] >= 1


@pytest.mark.parametrize(
    "kind",
    [
        "another's",
        "short",
        "unfinished",
        "broken",
        "error shown as complete",
        "no words",
        "client's fault",
        "nothing",
    ],
)
def test_everything_else_is_a_fault(kind: str) -> None:
    """Another's bytes, answers shown as complete that are not, ends that tell nothing."""
    assert look_at(kind).fault_count >= 1


def test_who_leaves_has_no_end() -> None:
    """And that is no fault."""
    seen = look_at("whole", leaving=1.0)
    assert not seen.faults
    assert seen.ends["left"] >= 1


def test_the_slope_of_memory() -> None:
    """Over the second half: what a start takes does not count."""
    samples = [Sample(float(at), 10_000_000 if at < 50 else 20_000_000) for at in range(100)]
    assert slope_bytes_per_minute(samples) == pytest.approx(0.0)
    growing = [Sample(float(at), at * 1000) for at in range(100)]
    assert slope_bytes_per_minute(growing) == pytest.approx(60_000)
    assert slope_bytes_per_minute([]) == 0.0
