"""Tests of `llmproxy.commands.admin_api`: over real sockets, for that is what it is about."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmproxy.commands.admin_api import AdminApi, shaped
from llmproxy.commands.failures import Refused, Unreachable
from llmproxy.commands.target import Target
from llmproxy.wire.admin_keys import KeyDeleted
from tests.commands.admin_server import TOKEN, FakeAdmin, serving
from tests.daemon import free_port
from tests.upstream.certificates import Authority


@contextmanager
def answering(
    answer: bytes, listener: socket.socket | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[int, list[bytes]]]:
    """Serve one connection: read a head, send the bytes, close; gives the port and what came."""
    listening = listener or socket.create_server(("127.0.0.1", 0))
    came: list[bytes] = []

    def serve() -> None:
        connection, _ = listening.accept()
        connection.settimeout(10)
        with connection, contextlib.suppress(ssl.SSLError):  # who does not trust us goes away
            if tls is not None:
                connection = tls.wrap_socket(connection, server_side=True)
            received = b""
            while b"\r\n\r\n" not in received and (part := connection.recv(65536)):
                received += part
            came.append(received)
            connection.sendall(answer)
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1] if listener is None else 0, came
        thread.join(10)
    finally:
        listening.close()


def api(port: int, timeout_s: float = 10.0, token: str = TOKEN) -> AdminApi:
    """Give the API at a port of loopback."""
    return AdminApi(Target(host="127.0.0.1", port=port, token=token), timeout_s)


OK = b'{"success": true, "message": "m", "data": {"a": 1}}'


def http_answer(body: bytes, status: str = "200 OK", head: bytes = b"") -> bytes:
    """Give the bytes of an answer."""
    length = str(len(body)).encode()
    return b"HTTP/1.1 %b\r\n%bContent-Length: %b\r\n\r\n%b" % (status.encode(), head, length, body)


def test_what_is_sent() -> None:
    """The token in its field, JSON, and nothing that was not asked for."""
    with answering(http_answer(OK)) as (port, came):
        assert api(port).get("backends") == {"a": 1}
    lines = came[0].decode().split("\r\n")
    assert lines[0] == "GET /admin/backends HTTP/1.1"
    assert f"X-Admin-Token: {TOKEN}" in lines
    assert f"Host: 127.0.0.1:{port}" in lines


def test_a_prefix_of_the_path_is_kept() -> None:
    """For an admin API behind a reverse proxy."""
    with answering(http_answer(OK)) as (port, came):
        AdminApi(Target(host="127.0.0.1", port=port, path="/llm", token=TOKEN)).post("keys/list")
    assert came[0].startswith(b"POST /llm/admin/keys/list HTTP/1.1\r\n")


def test_a_refusal_is_told_in_the_words_of_the_api() -> None:
    """With the field that is wrong."""
    fake = FakeAdmin()
    with serving(fake) as port:
        with pytest.raises(Refused, match=r"^There is no backend of that name\.") as caught:
            api(port).post("backends/drain", name="none")
        assert (caught.value.code, caught.value.exit_code) == ("not_found", 1)
        with pytest.raises(Refused, match="is the token that of the running daemon") as caught:
            api(port, token="another").get("backends")
        assert caught.value.code == "unauthorized"


def test_nobody_listens() -> None:
    """What to do about it is said."""
    port = free_port()
    with pytest.raises(Unreachable) as caught:
        api(port).get("backends")
    assert caught.value.exit_code == 3
    assert caught.value.message == (
        f"cannot reach the admin API at http://127.0.0.1:{port}: connection refused. Does the "
        "daemon run (twistd -n llmproxy --config FILE), with admin.enabled: true?"
    )


def test_somebody_listens_and_says_nothing() -> None:
    """It is waited for, but not for ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(Unreachable, match="no answer came in time"):
            api(port, timeout_s=0.05).get("backends")


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(b"<html>hello</html>"),
        http_answer(b"[]"),
        http_answer(b"null"),
        http_answer(b"{}"),
        http_answer(b'{"success": true}'),
        http_answer(b'{"error": {"message": "no"}}', "401 Unauthorized"),
        http_answer(b"[" * 100_000),
        http_answer(b"\xff\xfe\xfd"),
        http_answer(b"", "302 Found", b"Location: http://elsewhere/\r\n"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
)
def test_something_else_answers(answer: bytes) -> None:
    """It is told apart from a refusal; nothing is followed."""
    with answering(answer) as (port, _), pytest.raises(Unreachable):
        api(port).get("backends")


def test_a_refusal_before_the_body_was_taken() -> None:
    """Its words are told, though the rest of the body could not be sent."""
    listener = socket.create_server(("127.0.0.1", 0))
    answer = http_answer(
        b'{"success": false, "error": "too large", "code": "request_too_large", "param": ""}',
        "413 Payload Too Large",
    )

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            # What was sent is taken and dropped, so that the answer is not lost in a reset.
            while connection.recv(65536):
                continue

    thread = threading.Thread(target=refuse)
    thread.start()
    with listener, pytest.raises(Refused, match="too large"):
        api(listener.getsockname()[1]).post("keys/sync", keys=["x" * 1000] * 5000)
    thread.join(10)


def test_a_socket_of_the_machine(tmp_path: Path) -> None:
    """HTTP over it is the same; one that is not there is told."""
    path = str(tmp_path / "admin.sock")
    target = Target(socket_path=path, token=TOKEN)
    with pytest.raises(Unreachable, match=f"at unix:{path}: no such file"):
        AdminApi(target).get("backends")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with answering(http_answer(OK), listener) as (_, came):
            assert AdminApi(target).get("backends") == {"a": 1}
    assert b"Host: localhost\r\n" in came[0]


def test_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent to a server whose certificate is not trusted."""
    authority = Authority(tmp_path, "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("127.0.0.1"))
    with answering(http_answer(OK), tls=context) as (port, came):
        target = Target(host="127.0.0.1", port=port, tls=True, token=TOKEN)
        with pytest.raises(Unreachable, match="its certificate is not trusted"):
            AdminApi(target).get("backends")
    assert came == []
    monkeypatch.setenv("SSL_CERT_FILE", authority.cert_file)
    with answering(http_answer(OK), tls=context) as (port, _):
        target = Target(host="127.0.0.1", port=port, tls=True, token=TOKEN)
        assert AdminApi(target).get("backends") == {"a": 1}


def test_an_answer_in_another_shape() -> None:
    """A field more is nothing; one that is missing is a daemon of another version."""
    assert shaped({"id": "key_1", "more": 1}, KeyDeleted).id == "key_1"
    with pytest.raises(Unreachable, match="another version"):
        shaped({"id": 5}, KeyDeleted)


def test_no_repr_shows_the_token() -> None:
    """It says where the API is."""
    assert repr(api(8010)) == "<AdminApi http://127.0.0.1:8010>"
