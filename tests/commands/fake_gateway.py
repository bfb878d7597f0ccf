"""A stand-in for a running gateway's ``/v1/models``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs


@attrs.define
class FakeGateway:
    """What it answers, and what it was asked.

    Attributes:
        status: The status of its answers.
        body: Their body.
        url: Where it is; set by `running`.
        asked: The paths and header fields of all requests.
    """

    status: int = 200
    body: bytes = b'{"object":"list","data":[]}'
    url: str = ""
    asked: list[tuple[str, dict[str, str]]] = attrs.field(factory=list)


@contextmanager
def running(gateway: FakeGateway) -> Iterator[FakeGateway]:
    """Serve it on a free port."""

    class Asked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            gateway.asked.append((self.path, dict(self.headers.items())))
            self.send_response(gateway.status)
            self.send_header("Location", f"{gateway.url}/elsewhere")
            self.send_header("Content-Length", str(len(gateway.body)))
            self.end_headers()
            self.wfile.write(gateway.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Asked) as server:
        gateway.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield gateway
        finally:
            server.shutdown()
            thread.join()
