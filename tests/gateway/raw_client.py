"""A client on a bare socket, which sees every byte and when it came."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from tests.daemon import KEY

CHAT = "/v1/chat/completions"


def request_bytes(
    body: bytes,
    path: str = CHAT,
    headers: Mapping[str, str] | None = None,
    key: str = KEY,
    method: str = "POST",
) -> bytes:
    """Encode a request."""
    fields = {
        "Host": "gateway.test",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **({"Authorization": f"Bearer {key}"} if key else {}),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def chat_body(**more: Any) -> bytes:
    """Encode the body of a chat request for the model ``m``."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}
    return json.dumps(body).encode()


class Cut(Exception):
    """The connection ended before the answer did."""


class RawClient:
    """One connection to the gateway.

    Attributes:
        status: Of the answer, once its head was read.
        headers: Of the answer, names lower-cased.
    """

    def __init__(self, port: int, timeout_s: float = 10.0) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.status = 0
        self.headers: dict[str, str] = {}
        self._left = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave."""
        self.sock.close()

    def send(self, data: bytes) -> Self:
        """Send bytes."""
        self.sock.sendall(data)
        return self

    def post(self, body: bytes, path: str = CHAT, **more: Any) -> Self:
        """Send a request."""
        return self.send(request_bytes(body, path, **more))

    def _more(self) -> None:
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionResetError as error:
            raise Cut from error
        if not data:
            raise Cut
        self._left += data

    def _line(self) -> bytes:
        while (end := self._left.find(b"\r\n")) < 0:
            self._more()
        line = bytes(self._left[:end])
        del self._left[: end + 2]
        return line

    def _take(self, size: int) -> bytes:
        while len(self._left) < size:
            self._more()
        data = bytes(self._left[:size])
        del self._left[:size]
        return data

    def head(self) -> int:
        """Read the answer's head; give its status."""
        self.status = int(self._line().split()[1])
        self.headers = {}
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.lower()] = value.strip()
        return self.status

    def pieces(self) -> Iterator[tuple[float, bytes]]:
        """Give the chunks of the body, each with the moment it came, on `time.monotonic`.

        Raises:
            Cut: The connection ended before the last chunk.
        """
        while True:
            size = int(self._line(), 16)
            data = self._take(size)
            moment = time.monotonic()
            assert self._take(2) == b"\r\n"
            if not size:
                return
            yield moment, data

    def body(self) -> bytes:
        """Read the whole body, however it is framed."""
        if self.headers.get("transfer-encoding") == "chunked":
            return b"".join(data for _, data in self.pieces())
        return self._take(int(self.headers["content-length"]))

    def answer(self) -> tuple[int, bytes]:
        """Read head and body."""
        return self.head(), self.body()

    def error(self) -> tuple[int, str]:
        """Read an answer that must be one of our errors; give its status and code."""
        status, body = self.answer()
        assert self.headers["x-request-id"]
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return status, error["code"]

    def rest(self) -> tuple[bytes, bool]:
        """Read all raw bytes until the connection ends; say whether it was reset."""
        try:
            while True:
                self._more()
        except Cut as cut:
            return bytes(self._left), isinstance(cut.__cause__, ConnectionResetError)
