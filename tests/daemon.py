"""The real daemon for tests: ``twistd -n llmproxy`` as a subprocess, on a free loopback port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import msgspec
import yaml

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
KEY = "sk-test-key-1"
FIRST_PORT, PROCESSES, PORTS_OF_EACH = 10_000, 10, 2_000
"""Below those that Linux gives to outgoing connections."""

_OPTIONS = ("-n", "--pidfile=", "llmproxy")
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="http")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What systemd does for a process that it hands a socket to; the socket is the first argument."""


def free_port() -> int:
    """Give a port that is free at this moment.

    It is none of those that the system gives to outgoing connections, and each process of a test
    run has some of its own: nobody else takes it before it is used.
    """
    for number in _ports:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", number)):
            return number
    raise AssertionError  # there is no end of them


def _own_ports() -> Iterator[int]:
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = FIRST_PORT + process % PROCESSES * PORTS_OF_EACH
    start = Random().randrange(PORTS_OF_EACH)
    return (first + (start + number) % PORTS_OF_EACH for number in count())


_ports = _own_ports()


def gateway_config(port: int, backends: list[dict[str, Any]], **sections: Any) -> dict[str, Any]:
    """Give a configuration with one key, `KEY`; sections replace what stands here."""
    return {
        "server": {"listen": f"127.0.0.1:{port}", "drain_delay": 0},
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
        handed: A listening socket that it is handed over as systemd would, under the name ``http``;
            then no listener need be one of its own.

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
        handed: socket.socket | None = None,
    ) -> None:
        self.file = folder / "llmproxy.yaml"
        self.write(config)
        self._output = folder / "output.log"
        self._environ = {**os.environ, **(environ or {})}
        self._command = [*under, str(twistd), *_OPTIONS, "--config", str(self.file)]
        self._working_directory = ROOT if twistd.parent == BIN else folder
        self._handed = handed
        if handed is None:
            listen = config["server"]["listen"]
            first = listen if isinstance(listen, str) else listen[0]
            self.port = int(first.rpartition(":")[2])
        else:
            self.port = int(handed.getsockname()[1])
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

    def write(self, config: Mapping[str, Any]) -> None:
        """Write its configuration file, as a whole: it may be read at any moment."""
        draft = self.file.with_suffix(".draft")
        draft.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        draft.replace(self.file)

    def start(self, timeout_s: float = 60.0) -> None:
        """Start it and wait until it answers."""
        command, handed = self._command, self._handed
        if handed is not None:
            command = [sys.executable, "-c", HAND_OVER, str(handed.fileno()), *command]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=self._working_directory,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=() if handed is None else (handed.fileno(),),
            )
        if handed is not None:
            self.wait_for_log("listening on", timeout_s)
            return
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.05)
        raise AssertionError(f"the daemon did not start: {self.log()}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def reload(self, config: Mapping[str, Any], timeout_s: float = 60.0) -> bool:
        """Have it take over another configuration, as ``kill -HUP`` does; say whether it did."""
        before = len(self._reloads())
        self.write(config)
        self.signal(signal.SIGHUP)
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            done = self._reloads()[before:]
            if done:
                return "is in force" in done[0]
            time.sleep(0.02)
        raise AssertionError(f"it has not reloaded: {self.log()}")

    def _reloads(self) -> list[str]:
        """Give the lines of its log that each end of a reload is told by."""
        lines = self.log().splitlines()
        return [line for line in lines if "llmproxy.reload" in line and " force" in line]

    def stop(self, timeout_s: float = 30.0) -> int:
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

    def wait_for_log(self, text: str, timeout_s: float = 20.0) -> str:
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
