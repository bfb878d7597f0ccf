"""How requests end: what is seen of answers that break off, and what is left afterwards."""

from __future__ import annotations

import json
import time

import pytest

from tests.daemon import Daemon
from tests.gateway.raw_client import Cut, RawClient, request_bytes


def broken(client: RawClient) -> bytes:
    """Read the body of an answer that must not look complete, until the connection ends."""
    if client.headers.get("transfer-encoding") == "chunked":
        pieces: list[bytes] = []
        with pytest.raises(Cut):
            pieces.extend(piece for _, piece in client.pieces())
        return b"".join(pieces)
    body, was_reset = client.rest()
    assert was_reset or len(body) < int(client.headers["content-length"])
    return body


def split_farewell(body: bytes) -> tuple[bytes, dict[str, str]]:
    """Split a stream that broke off into what the backend sent and the error of our last event."""
    events, _, farewell = body.rpartition(b"data: ")
    assert farewell.endswith(b"\n\n")
    error: dict[str, str] = json.loads(farewell)["error"]
    assert error["type"] == "server_error"
    return events, error


def in_flight(daemon: Daemon) -> int:
    """Say how many requests all backends work on."""
    with RawClient(daemon.port) as client:
        client.send(request_bytes(b"", "/ready", method="GET", key=""))
        return sum(one["in_flight"] for one in json.loads(client.answer()[1])["backends"])


def at_rest(daemon: Daemon) -> bool:
    """Wait until no backend has a request in flight; say whether that came to be."""
    end = time.monotonic() + 10
    while in_flight(daemon):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
