"""The real daemon for tests: ``twistd -n llmproxy`` as a subprocess, on a free loopback port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import yaml

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
KEY = "sk-test-key-1"
_OPTIONS = ("-n", "--pidfile=", "llmproxy")


def free_port() -> int:
    """Give a port that is free at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def gateway_config(port: int, backends: list[dict[str, Any]], **sections: Any) -> dict[str, Any]:
    """Give a configuration with one key, `KEY`; sections replace what stands here."""
    return {
        "server": {"listen": f"127.0.0.1:{port}"},
        "backends": backends,
        "auth": {
            "pipeline": [
                {
                    "name": "static",
                    "type": "static",
                    "static": {"keys": [{"key": KEY, "name": "tester"}]},
                }
            ]
        },
        "logging": {"access": {"format": "json"}},
        **sections,
    }


class Daemon:
    """A running gateway.

    Args:
        folder: Where its files go.
        config: Its configuration; the first listener must be ``127.0.0.1:PORT``.
        environ: Further environment variables.
        under: A command that runs it, in the same process.
        twistd: The program; with one of another environment, the checkout is out of its sight.

    Attributes:
        port: Its port.
        url: Its origin.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        environ: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
        twistd: Path = BIN / "twistd",
    ) -> None:
        self._folder = folder
        self._file = folder / "llmproxy.yaml"
        self._file.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        self._output = folder / "output.log"
        self._environ = {**os.environ, **(environ or {})}
        self._command = [*under, str(twistd), *_OPTIONS, "--config", str(self._file)]
        self._working_directory = ROOT if twistd.parent == BIN else folder
        self.port = int(str(config["server"]["listen"]).rpartition(":")[2])
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, timeout_s: float = 20.0) -> None:
        """Start it and wait until it answers."""
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._working_directory,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.05)
        raise AssertionError(f"the daemon did not start: {self.log()}")

    def stop(self, timeout_s: float = 10.0) -> int:
        """End it as systemd would; give its exit status."""
        process = self.process
        assert process is not None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return process.returncode

    def log(self) -> str:
        """Give all that it has printed."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def wait_for_log(self, text: str, timeout_s: float = 5.0) -> str:
        """Wait until it has printed something; give the line."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            for line in self.log().splitlines():
                if text in line:
                    return line
            time.sleep(0.02)
        raise AssertionError(f"{text!r} is not in the log: {self.log()}")

    def record(self, request_id: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """Wait for a request's line in the access log, which must be JSON; give it."""
        line = self.wait_for_log(f'"request_id":"{request_id}"', timeout_s)
        record: dict[str, Any] = msgspec.json.decode(line)
        return record
