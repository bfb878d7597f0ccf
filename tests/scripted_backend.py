"""A backend whose every byte a test decides: real loopback sockets, threads of its own."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import attrs


@attrs.define
class Seen:
    """One request as the backend received it, byte for byte."""

    head: bytes
    body: bytes

    @property
    def request_line(self) -> str:
        """The first line."""
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    def header(self, name: str) -> str:
        """The value of the first field of that name, or nothing."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.decode("latin-1").lower() == name.lower():
                return value.strip().decode("latin-1")
        return ""


class Connection:
    """One accepted connection, as a script sees it."""

    def __init__(self, sock: socket.socket, backend: ScriptedBackend) -> None:
        self.sock = sock
        self._backend = backend
        self._left = b""

    def read_request(self) -> Seen | None:
        """Read one request with a Content-Length body; None when the peer closed before it."""
        received = self._left
        while b"\r\n\r\n" not in received:
            more = self.sock.recv(65536)
            if not more:
                return None
            received += more
        head, _, rest = received.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length":
                length = int(value)
        parts, have = [rest], len(rest)
        while have < length:
            more = self.sock.recv(1 << 20)
            if not more:
                return None
            parts.append(more)
            have += len(more)
        body = b"".join(parts)
        self._left = body[length:]
        seen = Seen(head, body[:length])
        self._backend.seen.append(seen)
        return seen

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def stream_head(self, more: bytes = b"") -> None:
        """Begin a chunked event stream."""
        self.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n" + more + b"\r\n"
        )

    def chunk(self, data: bytes) -> None:
        """Send one chunk; an empty one ends the body."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def answer(
        self,
        body: bytes,
        status: bytes = b"200 OK",
        content_type: bytes = b"application/json",
        more: bytes = b"",
    ) -> None:
        """Send a plain answer with its length."""
        self.send(
            b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n%s"
            % (status, content_type, len(body), more, body)
        )

    def wait_for_close(self, timeout_s: float = 5.0) -> float:
        """Wait until the peer closes or resets; give the moment, on `time.monotonic`.

        Raises:
            TimeoutError: It did not.
        """
        self.sock.settimeout(timeout_s)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while self.sock.recv(65536):
                pass
        moment = time.monotonic()
        self._backend.closed_at.append(moment)
        return moment

    def wait_for_reset(self, timeout_s: float = 5.0) -> None:
        """Wait until the peer resets, and read nothing of what it sent.

        Raises:
            TimeoutError: It did not.
        """
        reset = select.poll()
        reset.register(self.sock, 0)  # which is told of whatever is asked for
        if not reset.poll(timeout_s * 1000):
            raise TimeoutError
        self._backend.closed_at.append(time.monotonic())

    def reset(self) -> None:
        """Close with a reset instead of an orderly end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.sock.close()


Script = Callable[[Connection], None]


class ScriptedBackend:
    """Accepts connections and runs a script on each, until it is stopped.

    ``GET`` requests for ``/health`` and ``/v1/models`` are answered before the script sees them,
    unless ``raw`` is set; each of these comes on a connection of its own.

    Attributes:
        seen: All requests that scripts have read.
        closed_at: When `Connection.wait_for_close` or `wait_for_reset` saw peers go.
        connections: How many were accepted for the script.
        errors: What scripts raised, but for broken connections.
    """

    def __init__(
        self, script: Script, *, models: tuple[str, ...] = ("m",), raw: bool = False, port: int = 0
    ) -> None:
        self._script = script
        self._models = models
        self._raw = raw
        self.seen: list[Seen] = []
        self.closed_at: list[float] = []
        self.connections = 0
        self.errors: list[BaseException] = []
        self._server = socket.create_server(("127.0.0.1", port), backlog=512)
        self._open: set[socket.socket] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port."""
        return int(self._server.getsockname()[1])

    @property
    def url(self) -> str:
        """The origin."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Accept no more, and cut what is open."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for sock in tuple(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(2)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            if not self._raw and self._answer_probe(sock):
                return
            self.connections += 1
            self._script(Connection(sock, self))
        except (ConnectionResetError, BrokenPipeError, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                self.errors.append(error)
        except OSError as error:
            if not self._stopping:
                self.errors.append(error)
        except BaseException as error:  # noqa: BLE001 - shown by the test that looks
            self.errors.append(error)
        finally:
            self._open.discard(sock)
            sock.close()

    def _answer_probe(self, sock: socket.socket) -> bool:
        """Answer a health check or a question for models; say whether it was one."""
        start = sock.recv(4, socket.MSG_PEEK)
        if start[:3] != b"GET":
            return not start
        head = b""
        while b"\r\n\r\n" not in head:
            more = sock.recv(65536)
            if not more:
                return True
            head += more
        if b"/v1/models" in head.split(b"\r\n", 1)[0]:
            listed = ",".join(f'{{"id":"{name}","object":"model"}}' for name in self._models)
            body = f'{{"object":"list","data":[{listed}]}}'.encode()
        else:
            body = b"{}"
        sock.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        return True


def event(data: str) -> bytes:
    """Encode one event."""
    return f"data: {data}\n\n".encode()
