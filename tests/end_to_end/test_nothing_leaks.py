"""However requests end, nothing that limits took stays taken: in memory, and in Redis."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.entitled import Entitled, entitled_config
from tests.scripted_backend import Connection, ScriptedBackend, event
from tests.services import RedisServer

ENDS = (
    "well",
    "no body",
    "no answer",
    "mid-stream",
    "at done",
    "cut by the backend",
    "reset by the backend",
    "error of the backend",
)
REQUESTS = 160
CLIENTS = 10
PLACES = 6


def play(connection: Connection) -> None:
    """Answer as the prompt says."""
    while (seen := connection.read_request()) is not None:
        end = json.loads(seen.body)["prompt"]
        if end == "no answer":
            connection.wait_for_close()
            return
        if end == "reset by the backend":
            connection.reset()
            return
        if end == "error of the backend":
            connection.answer(b'{"error":{"message":"no","type":"x"}}', status=b"500 Broken")
            continue
        connection.stream_head()
        connection.chunk(event('{"choices":[{"index":0,"text":"word "}]}'))
        if end == "cut by the backend":
            connection.sock.shutdown(socket.SHUT_RDWR)
            return
        if end == "mid-stream":
            connection.wait_for_close()
            return
        usage = '{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}'
        connection.chunk(event('{"choices":[{"index":0,"text":"","finish_reason":"stop"}]}'))
        connection.chunk(event(usage))
        connection.chunk(event("[DONE]"))
        if end == "at done":
            connection.wait_for_close()
            return
        connection.chunk(b"")


def request(port: int, key: str, end: str) -> int:
    """Send one request and end it; give the status of its answer, 0 if it has none."""
    body = json.dumps({"model": "m", "prompt": end, "stream": True, "max_tokens": 50}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode()
    with closing(socket.create_connection(("127.0.0.1", port), 10)) as sock:
        if end == "no body":
            sock.sendall(head + body[:-5])
            time.sleep(0.02)
            return 0
        sock.sendall(head + body)
        if end == "no answer":
            sock.settimeout(0.1)  # long enough to be with the backend, most of the time
        until = {"mid-stream": b"word", "at done": b"[DONE]"}.get(end)
        received = b""
        with suppress(OSError):
            while more := sock.recv(65536):
                received += more
                if until is not None and until in received:
                    break
        return int(received.split(b" ", 2)[1]) if received else 0


@pytest.fixture(params=["memory", "redis"])
def limits(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Where limits are counted."""
    places = {"global": {"max_concurrent": PLACES}, "per_key": {"tokens_per_minute": 1_000_000}}
    if request.param == "memory":
        yield {"rate_limit": places}
        return
    if reason := RedisServer.missing():
        pytest.skip(reason)
    with RedisServer() as server:
        yield {
            "rate_limit": {"storage": "redis", "redis": "r", **places},
            "storage": {"caches": [{"name": "r", "addr": server.addr}]},
        }


def test_nothing_stays_taken(tmp_path: Path, limits: dict[str, Any]) -> None:
    """Places, reservations and the backend's slots are all back, and use is what was used."""
    with ScriptedBackend(play, models=("m",)) as backend:
        config = entitled_config(tmp_path, [{"name": "b", "url": backend.url}], **limits)
        config["routing"] = {"retry": {"enabled": False}}
        with Entitled(tmp_path, config) as gateway, ThreadPoolExecutor(CLIENTS) as pool:
            own = {"max_concurrent": PLACES}
            key, key_id = gateway.new_key(total_quota=1_000_000, rate_limit=own)
            chosen = random.Random(4)
            ends = [chosen.choice(ENDS) for _ in range(REQUESTS)]
            port = gateway.daemon.port
            statuses = list(pool.map(lambda end: request(port, key, end), ends))
            assert {200, 429, 500, 502, 0} >= set(statuses) >= {200, 429, 500, 502}, set(statuses)
            end_s = time.monotonic() + 5
            while True:
                mine = gateway.get("/me", key).json
                places = mine["limits"]["max_concurrent"]["remaining"]
                if (places, mine["quota"]["reserved"]) == (PLACES, 0):
                    break
                assert time.monotonic() < end_s, mine
                time.sleep(0.05)
            (state,) = gateway.get("/ready", "").json["backends"]
            assert state["in_flight"] == 0
            # All places are really there, not only shown.
            for _ in range(3):
                again = list(pool.map(lambda _: request(port, key, "well"), range(PLACES)))
                assert again == [200] * PLACES
            # What is charged is what the records say, estimates included.
            assert mine["quota"]["used"] == mine["usage"]["this_month"]["total_tokens"] > 0
            used = mine["quota"]["used"] + 3 * PLACES * 4
            while gateway.key_now(key_id)["used_quota"] != used:
                assert time.monotonic() < end_s + 5, gateway.key_now(key_id)
                time.sleep(0.05)
            assert "Traceback" not in gateway.daemon.log()
