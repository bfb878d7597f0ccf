"""A receiver of usage webhooks that can be down, slow, in error, or cut off in mid-answer."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self, get_args

from tests.daemon import free_port

Mood = Literal["well", "down", "slow", "error", "cut"]
MOODS: tuple[Mood, ...] = get_args(Mood)
SLOW_S = 0.5


class UsageReceiver:
    """Keeps every record that it was sent, in the order in which they came.

    ``cut`` is the unkind one: it keeps what it was sent, and closes without an answer, so that all
    of it comes again.

    Attributes:
        mood: What it does now.
        records: All that came, those that came again included.
        deliveries: How many there were in each mood.
    """

    def __init__(self) -> None:
        self.mood: Mood = "well"
        self.records: list[dict[str, Any]] = []
        self.deliveries: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._port = free_port()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """Where records are to be sent."""
        return f"http://127.0.0.1:{self._port}/usage"

    def __enter__(self) -> Self:
        self.become("well")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.become("down")

    def become(self, mood: Mood) -> None:
        """Change its mood; down, its port is closed."""
        self.mood = mood
        if mood == "down":
            server, self._server = self._server, None
            if server is not None:
                server.shutdown()
                server.server_close()
        elif self._server is None:
            self._server = self._open()

    def ids(self) -> dict[str, set[str]]:
        """Give the ids of the records of each request."""
        by_request: dict[str, set[str]] = {}
        with self._lock:
            for record in self.records:
                by_request.setdefault(record["request_id"], set()).add(record["id"])
        return by_request

    def _open(self) -> ThreadingHTTPServer:
        receiver = self

        class Receiving(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                mood = receiver.mood
                if mood == "slow":
                    time.sleep(SLOW_S)
                if mood != "error":
                    receiver.take(json.loads(body))
                receiver.deliveries[mood] += 1
                if mood in ("cut", "down"):
                    self.close_connection = True
                    return
                self.send_response(500 if mood == "error" else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                del format, args

        server = ThreadingHTTPServer(("127.0.0.1", self._port), Receiving)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def take(self, message: dict[str, Any]) -> None:
        """Keep what one delivery brought."""
        assert message["type"] == "usage.batch"
        with self._lock:
            self.records += message["data"]["records"]
