"""A gateway whose keys are in its own store, and who administers it: by command and by HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from tests.daemon import BIN, ROOT, Daemon, free_port

TOKEN = "violet-anchor-9d41f0c2b7a85e63"
COMMAND_LIMIT_S = 30


def entitled_config(
    folder: Path, backends: list[dict[str, Any]], **sections: Any
) -> dict[str, Any]:
    """Give a configuration with the admin API and its key store; sections replace what is here."""
    return {
        "server": {"listen": f"127.0.0.1:{free_port()}"},
        "backends": backends,
        "auth": {"pipeline": [{"name": "local", "type": "builtin"}]},
        "admin": {
            "enabled": True,
            "token": TOKEN,
            "listen": f"127.0.0.1:{free_port()}",
            "db_path": str(folder / "keys" / "llmproxy.db"),
        },
        "logging": {"access": {"format": "json"}},
        **sections,
    }


@attrs.frozen
class Reply:
    """An answer.

    Attributes:
        status: Its status.
        fields: Its fields, by lower-case names.
        body: Its body, as far as it came.
        cut: Whether it broke off.
    """

    status: int
    fields: Mapping[str, str]
    body: bytes
    cut: bool = False

    @property
    def json(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)

    @property
    def error_code(self) -> str:
        """The code of the error that it is."""
        return str(self.json["error"]["code"])


def ask(
    port: int,
    method: str,
    path: str,
    body: object = None,
    fields: Mapping[str, str] | None = None,
    timeout_s: float = 20.0,
) -> Reply:
    """Send one request on a connection of its own."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)) as connection:
        connection.request(
            method,
            path,
            None if body is None else json.dumps(body),
            {"Content-Type": "application/json", **(fields or {})},
        )
        answer = connection.getresponse()
        try:
            read, cut = answer.read(), False
        except http.client.IncompleteRead as broken:
            read, cut = broken.partial, True
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, named, read, cut)


class Entitled:
    """A running gateway, and its administrator.

    Args:
        folder: Where its files go.
        config: Its configuration; see `entitled_config`.

    Attributes:
        daemon: The gateway.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.daemon = Daemon(folder, config)
        self._config_file = folder / "llmproxy.yaml"
        self._admin_port = int(str(config["admin"]["listen"]).rpartition(":")[2])

    def __enter__(self) -> Entitled:
        self.daemon.start()
        end_s = time.monotonic() + 5
        while time.monotonic() < end_s:  # its listener comes after the other
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self._admin_port), 1).close()
                return self
            time.sleep(0.02)
        raise AssertionError(f"the admin API does not listen: {self.daemon.log()}")

    def __exit__(self, *_: object) -> None:
        self.daemon.stop()

    def command(self, *words: str, status: int = 0) -> str:
        """Run ``llmproxy``; give what it printed.

        Args:
            *words: What stands after the program's name.
            status: The exit status that is expected.
        """
        finished = subprocess.run(
            [str(BIN / "llmproxy"), *words],
            cwd=ROOT,
            env={**os.environ, "LLMPROXY_CONFIG": str(self._config_file)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        assert finished.returncode == status, finished.stdout + finished.stderr
        return finished.stdout if status == 0 else finished.stderr

    def admin(self, path: str, body: object = None, token: str = TOKEN) -> Reply:
        """Ask the admin API: a POST with a body, a GET without."""
        method = "GET" if body is None else "POST"
        return ask(self._admin_port, method, path, body, {"X-Admin-Token": token})

    def new_key(self, **fields: Any) -> tuple[str, str]:
        """Make a key; gives it and its id."""
        reply = self.admin("/admin/keys/create", fields)
        assert reply.status == 200, reply.body
        made = reply.json["data"]
        return made["key"], made["id"]

    def key_now(self, key_id: str) -> dict[str, Any]:
        """Give what the admin API tells of a key."""
        found: dict[str, Any] = self.admin("/admin/keys/get", {"id": key_id}).json["data"]
        return found

    def chat(self, key: str, model: str = "demo", **fields: Any) -> Reply:
        """Ask for a completion."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
        return self.get("/v1/chat/completions", key, body)

    def get(self, path: str, key: str, body: object = None) -> Reply:
        """Ask the gateway as a key's holder."""
        method = "GET" if body is None else "POST"
        return ask(self.daemon.port, method, path, body, {"Authorization": f"Bearer {key}"})
