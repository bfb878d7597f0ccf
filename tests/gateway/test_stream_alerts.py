"""A stream that falls silent, with the real daemon: told of once, and left alone."""

from __future__ import annotations

import threading
from urllib.request import urlopen

from tests.daemon import Daemon
from tests.gateway.conftest import Start
from tests.gateway.raw_client import RawClient, chat_body
from tests.scripted_backend import Connection

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
END = b"data: [DONE]\n\n"


def told(daemon: Daemon, kind: str) -> float:
    """Say how many alerts of a kind there were."""
    metric = f'llmproxy_stream_alerts_total{{backend="b0",kind="{kind}"}}'
    with urlopen(f"{daemon.url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    (value,) = (line.rpartition(" ")[2] for line in lines if line.startswith(metric))
    return float(value)


def test_a_silent_stream(start: Start) -> None:
    """It is in the log and in the metrics; afterwards it goes on as if nothing had been."""
    goes_on = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.stream_head()
        connection.chunk(EVENT)
        assert goes_on.wait(60)
        connection.chunk(END)
        connection.chunk(b"")

    daemon = start(script, monitoring={"stalled_stream_alert": "500ms", "long_stream_alert": "1h"})
    assert told(daemon, "stalled_stream") == 0
    with RawClient(daemon.port, timeout_s=60) as client:
        client.post(chat_body(stream=True), headers={"X-Request-ID": "req-silent"})
        assert client.head() == 200
        pieces = client.pieces()
        assert next(pieces)[1] == EVENT
        line = daemon.wait_for_log("stalled_stream: request req-silent to m at b0", timeout_s=60)
        assert "is silent for" in line
        assert told(daemon, "stalled_stream") == 1
        assert told(daemon, "long_stream") == 0
        goes_on.set()
        assert [piece for _, piece in pieces] == [END]
