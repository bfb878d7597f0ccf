"""One question to the admin API after the other: a token, JSON there, an envelope back.

With the standard library's client, on purpose. A command is a short synchronous program: it asks,
waits, prints and ends. A reactor would cost it a quarter of a second at the start and give it
nothing, and ``http.client`` follows no redirects, reads no proxies from the environment and keeps
no cookies, so the token goes to one place only. It knows the envelope, not what is inside.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from typing import Any, Final, TypeVar

import msgspec

from llmproxy.commands.failures import Refused, Unreachable
from llmproxy.commands.target import Target
from llmproxy.wire.admin import TOKEN_HEADER

T = TypeVar("T")

TIMEOUT_S: Final = 60.0
"""For a connection, and for each silence: a large synchronisation takes some seconds."""

LARGEST_ANSWER_BYTES: Final = 256 * 1024 * 1024


def shaped(answer: Any, shape: type[T]) -> T:
    """Give an answer's ``data`` as one of the shapes in ``wire``; fields that are new are left out.

    Raises:
        Unreachable: It has another shape.
    """
    try:
        return msgspec.convert(answer, shape)
    except msgspec.ValidationError:
        raise Unreachable(
            "the answer is not what this command knows: is the daemon of another version? "
            "--json shows it as it is"
        ) from None


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            raise


class AdminApi:
    """The admin API of one daemon.

    Args:
        target: Where it is, and its token.
        timeout_s: How long it may be silent.
    """

    def __init__(self, target: Target, timeout_s: float = TIMEOUT_S) -> None:
        self._target = target
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"<AdminApi {self._target}>"

    def get(self, path: str) -> Any:
        """Ask for what stands at a path below ``/admin/``; see `post`."""
        return self._ask("GET", path, None)

    def post(self, path: str, **fields: Any) -> Any:
        """Send an object to a path below ``/admin/``.

        Returns:
            The answer's ``data``.

        Raises:
            Refused: It said no.
            Unreachable: It cannot be asked, or what answered is not an admin API.
        """
        return self._ask("POST", path, json.dumps(fields).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        status, answer = self._exchange(method, f"{self._target.path}/admin/{path}", body)
        try:
            envelope = json.loads(answer)
            success = envelope["success"] is True
            if success:
                return envelope["data"]
            message, code = str(envelope["error"]), str(envelope["code"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Unreachable(
                f"{self._target} answered ({status}), but not as LLMProxy's admin API does. "
                "Is that the address of admin.listen?"
            ) from None
        if code == "unauthorized":
            message += " (is the token that of the running daemon? It reads it when it starts)"
        param = str(envelope.get("param") or "")
        raise Refused(message if param in message else f"{param}: {message}", code)

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = self._connection()
        headers = {TOKEN_HEADER.decode(): self._target.token, "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            # Who is refused may be so before all of a long body was taken: the answer says why.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read(LARGEST_ANSWER_BYTES)
        except http.client.HTTPException as error:
            raise Unreachable(
                f"what listens at {self._target} does not speak HTTP as LLMProxy does "
                f"({type(error).__name__})"
            ) from None
        except OSError as error:
            raise Unreachable(self._why_unreachable(error)) from None
        finally:
            connection.close()
        return response.status, answer

    def _connection(self) -> http.client.HTTPConnection:
        target = self._target
        if target.socket_path:
            return _SocketConnection(target.socket_path, self._timeout_s)
        if target.tls:
            return http.client.HTTPSConnection(
                target.host,
                target.port,
                timeout=self._timeout_s,
                context=ssl.create_default_context(),
            )
        return http.client.HTTPConnection(target.host, target.port, timeout=self._timeout_s)

    def _why_unreachable(self, error: OSError) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted: {error.verify_message}"
        elif isinstance(error, TimeoutError):
            reason = "no answer came in time"
        else:
            reason = (error.strerror or str(error) or type(error).__name__).lower()
        return (
            f"cannot reach the admin API at {self._target}: {reason}. Does the daemon run "
            "(twistd -n llmproxy --config FILE), with admin.enabled: true?"
        )
