"""Canaries: no secret is found anywhere that it is not meant to be."""

from __future__ import annotations

import secrets
import signal
import socket
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.end_to_end.entitled import Entitled, Reply, ask, entitled_config
from tests.scripted_backend import Connection, ScriptedBackend


def canary(name: str) -> str:
    """Make a secret that is found wherever it sings."""
    return f"canary-{name}-{secrets.token_hex(12)}"


@attrs.define
class Echo:
    """A backend that answers with an error, in which it repeats the fields that it was sent.

    Attributes:
        heads: What it was sent.
    """

    heads: list[bytes] = attrs.field(factory=list)

    def __call__(self, connection: Connection) -> None:
        """Answer all requests of a connection."""
        while (seen := connection.read_request()) is not None:
            self.heads.append(seen.head)
            connection.answer(b'{"error":{"message":"no","type":"x"}}', status=b"500 Broken")


def raw(port: int, sent: bytes) -> bytes:
    """Send bytes that may be no request at all; give what comes back."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while more := sock.recv(65536):
            received += more
        return received


@pytest.fixture
def known() -> dict[str, str]:
    """The secrets, by what they are."""
    names = ("static", "stored", "unknown", "token", "wrong-token", "backend", "header", "hmac")
    return {name: canary(name) for name in (*names, "redis", "dsn", "webhook")}


def test_secrets_are_in_no_output(tmp_path: Path, known: dict[str, str]) -> None:
    """Neither logs nor answers, neither files nor the process's title have them."""
    echo = Echo()
    with ScriptedBackend(echo, models=("m",)) as backend:
        config: dict[str, Any] = entitled_config(
            tmp_path,
            [
                {
                    "name": "b",
                    "url": backend.url,
                    "api_key": known["backend"],
                    "headers": {"X-Further": known["header"]},
                }
            ],
            log={"level": "debug"},
            # Nobody listens there: what asks them fails, and says so in the log.
            storage={
                "caches": [{"name": "c", "addr": "127.0.0.1:1", "password": known["redis"]}],
                "databases": [
                    {
                        "name": "d",
                        "driver": "postgres",
                        "dsn": f"postgresql://u:{known['dsn']}@127.0.0.1:1/d",
                        "timeout": "1s",
                    }
                ],
            },
        )
        config["admin"] |= {"token": known["token"], "key_secret": known["hmac"]}
        config["auth"]["pipeline"] = [
            {
                "name": "static",
                "type": "static",
                "static": {"keys": [{"key": known["static"], "name": "s"}]},
            },
            {"name": "local", "type": "builtin"},
            {
                "name": "w",
                "type": "webhook",
                "webhook": {"url": "http://127.0.0.1:1/", "headers": {"X-Auth": known["webhook"]}},
            },
            {"name": "r", "type": "redis", "redis": {"storage": "c"}},
            {"name": "d", "type": "database", "database": {"storage": "d", "fields": ["status"]}},
        ]
        replies: list[Reply] = []
        with Entitled(tmp_path, config) as gateway:
            daemon = gateway.daemon
            admin_port = int(config["admin"]["listen"].rpartition(":")[2])

            def administer(path: str, body: object, token: str) -> Reply:
                fields = {"X-Admin-Token": token}
                return ask(admin_port, "GET" if body is None else "POST", path, body, fields)

            made = administer("/admin/keys/create", {"key": known["stored"]}, known["token"])
            assert made.json["data"]["key"] == known["stored"]  # shown once, and here
            for key in ("static", "stored", "unknown"):
                for path in ("/v1/chat/completions", "/v1/nothing", "/me", "/v1/models"):
                    asked = {"model": "m", "prompt": "x"} if "chat" in path else None
                    replies.append(gateway.get(path, known[key], asked))
                replies.append(gateway.chat(known[key], "not-a-model"))
                replies.append(ask(daemon.port, "GET", "/me", None, {"X-API-Key": known[key]}))
                sent = (
                    f"GET /me HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {known[key]}\r\n : \r\n"
                )
                replies.append(Reply(400, {}, raw(daemon.port, sent.encode() + b"\r\n")))
            for token in (known["wrong-token"], known["token"]):
                questions: list[tuple[str, object]] = [
                    ("/admin/keys/list", {"include_hash": True}),
                    ("/admin/keys/get", {"key": known["stored"]}),
                    ("/admin/keys/get", {"key": known["unknown"]}),
                    ("/admin/keys/create", {"key": known["stored"], "name": 5}),
                    ("/admin/keys/create", {"key": known["stored"]}),
                    ("/admin/usage/summary", {"group_by": ["key"]}),
                    ("/admin/backends", None),
                    ("/admin/config", None),
                    ("/admin/nothing", None),
                ]
                replies += [administer(path, body, token) for path, body in questions]
            statuses = {reply.status for reply in replies}
            assert {200, 400, 401, 404, 409, 500, 503} <= statuses, statuses
            assert daemon.process is not None
            proc = Path(f"/proc/{daemon.process.pid}")
            title = (proc / "cmdline").read_bytes() + (proc / "comm").read_bytes()
            files = {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
            assert any(path.suffix == ".db" for path in files)
            daemon.process.send_signal(signal.SIGTERM)
            daemon.process.wait(15)
        log = daemon.log().encode()
        assert b'"key_name":"s"' in log
        everything = {
            "an answer": b"".join(reply.body + repr(reply.fields).encode() for reply in replies),
            "the log": log,
            "the title": title,
            **{f"{path.name}": content for path, content in files.items()},
        }
        for name, secret in known.items():
            for place, content in everything.items():
                assert secret.encode() not in content, f"{name} is in {place}"
        upstream = b"".join(echo.heads)
        assert known["backend"].encode() in upstream
        assert known["header"].encode() in upstream
        assert known["static"].encode() not in upstream
        assert known["stored"].encode() not in upstream
