"""The daemon under systemd: its messages, its sockets, and a restart that nobody notices."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.daemon import BIN, ROOT, Daemon, free_port, gateway_config
from tests.gateway.held import FIRST, LAST, Held
from tests.gateway.raw_client import RawClient, chat_body
from tests.scripted_backend import ScriptedBackend
from tests.upstream.certificates import Authority

STREAMS = 200

needs_socket_activate = pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is missing"
)


class Systemd:
    """The socket that systemd hears its services on.

    Args:
        address: Where.
    """

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(30)

    def close(self) -> None:
        """Hear nothing more."""
        self._socket.close()

    def hear(self, skip: str = "WATCHDOG=1") -> dict[str, str]:
        """Give the next message, as fields, that is not the one to be skipped."""
        while True:
            message = self._socket.recv(4096).decode()
            if message != skip:
                return dict(line.split("=", 1) for line in message.split("\n"))


def test_it_tells_how_it_is(tmp_path: Path) -> None:
    """Ready when it listens, each reload and its end, and signs of life all the time."""
    systemd = Systemd(str(tmp_path / "notify"))
    config = gateway_config(free_port(), [{"name": "demo", "url": "demo:"}])
    config["server"]["drain_timeout"] = "90s"
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
    with Daemon(tmp_path, config, environ) as daemon:
        first = systemd.hear()
        assert first["READY"] == "1"
        digest = first["STATUS"].removeprefix("configuration ")
        assert f"starts, configuration {digest}" in daemon.log()
        socket.create_connection(("127.0.0.1", daemon.port), 5).close()
        for _ in range(2):
            assert systemd.hear(skip="") == {"WATCHDOG": "1"}
        asked_us = time.monotonic_ns() // 1000
        config["routing"] = {"retry": {"max_retries": 5}}
        assert daemon.reload(config)
        reloading = systemd.hear()
        assert reloading["RELOADING"] == "1"
        assert asked_us <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        ready = systemd.hear()
        assert ready["READY"] == "1"
        assert ready["STATUS"] not in ("", f"configuration {digest}")
        config["routing"] = {"nonsense": 1}
        assert not daemon.reload(config)
        assert systemd.hear()["RELOADING"] == "1"
        assert systemd.hear() == {
            "READY": "1",
            "STATUS": ready["STATUS"] + "; the last reload failed",
        }
        daemon.signal(signal.SIGTERM)
        stopping = systemd.hear()
        assert stopping["STOPPING"] == "1"
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 90_000_000
        assert daemon.process is not None
        assert daemon.process.wait(30) == 0
    systemd.close()


def test_a_file_that_is_bad_from_the_start(tmp_path: Path) -> None:
    """It never says that it is ready, and exits with 1."""
    systemd = Systemd(str(tmp_path / "notify"))
    file = tmp_path / "x.yaml"
    file.write_text("backends: []\n")
    ended = subprocess.run(
        [str(BIN / "twistd"), "-n", "--pidfile=", "llmproxy", "--config", str(file)],
        cwd=ROOT,
        env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    systemd._socket.settimeout(0)
    with pytest.raises(BlockingIOError):
        systemd.hear()
    systemd.close()


@needs_socket_activate
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("which", ["index=0", "name=http"])
def test_the_first_connection_starts_it(tmp_path: Path, which: str, tls: bool) -> None:
    """Whoever connected before it ran is answered; over TLS as well."""
    port = free_port()
    config = gateway_config(port, [{"name": "demo", "url": "demo:"}])
    config["server"]["listen"] = f"systemd:domain=INET:{which}"
    scheme, trust = "http", []
    if tls:
        authority = Authority(tmp_path, "authority")
        cert_file, key_file = authority.issue("127.0.0.1")
        config["server"]["tls"] = {
            "enabled": True,
            "cert_file": str(cert_file),
            "key_file": str(key_file),
        }
        scheme, trust = "https", ["--cacert", authority.cert_file]
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(config))
    command = ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", "--fdname=http"]
    # What it starts is given a bare environment.
    command += [f"--setenv=PATH={os.environ['PATH']}"]
    command += [str(BIN / "twistd"), "-n", "--pidfile=", "llmproxy", "--config", str(file)]
    with (tmp_path / "output.log").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    patience = ("--retry", "20", "--retry-delay", "1", "--retry-connrefused", "--max-time", "60")
    try:
        answer = subprocess.run(
            ["curl", "-s", *patience, *trust, f"{scheme}://127.0.0.1:{port}/health"],
            capture_output=True,
            timeout=90,
            check=False,
        )
        log = (tmp_path / "output.log").read_text()
        assert answer.stdout == b'{"status":"ok"}', log
        assert f"listening on 127.0.0.1:{port}" in log
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    assert status == 0


def test_a_socket_that_was_not_handed_over(tmp_path: Path) -> None:
    """One line says so, and the exit status is 1."""
    file = tmp_path / "x.yaml"
    config = gateway_config(1, [{"name": "demo", "url": "demo:"}])
    config["server"]["listen"] = "systemd:domain=INET:name=http"
    file.write_text(yaml.safe_dump(config))
    ended = subprocess.run(
        [str(BIN / "twistd"), "-n", "--pidfile=", "llmproxy", "--config", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "llmproxy: cannot listen on 'systemd:domain=INET:name=http': "
        "systemd has handed over no such socket, or one without a name\n"
    )


class Handed:
    """A listening socket that daemons are handed one after the other, and a held model.

    Attributes:
        socket: The socket.
        port: Its port.
        held: The model.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.socket = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        self.port = int(self.socket.getsockname()[1])
        self.held = Held()
        stack.callback(self.held.let.set)
        self._backend = stack.enter_context(ScriptedBackend(self.held))

    def daemon(self, name: str) -> Daemon:
        """Start a daemon."""
        config: dict[str, Any] = gateway_config(
            1, [{"name": "b0", "url": self._backend.url, "models": ["m"]}]
        )
        config["server"]["listen"] = "systemd:domain=INET:name=http"
        folder = self._folder / name
        folder.mkdir()
        return self._stack.enter_context(Daemon(folder, config, handed=self.socket))


@contextmanager
def asking(port: int) -> Iterator[list[str]]:
    """Ask again and again, on a new connection each time; give what was not answered well."""
    over = threading.Event()
    failures: list[str] = []
    answered: list[int] = []

    def ask() -> None:
        while not over.is_set():
            try:
                with RawClient(port, 60) as client:
                    answered.append(client.post(chat_body()).answer()[0])
            except Exception as error:  # noqa: BLE001 - told by the test
                failures.append(repr(error))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        yield failures
    finally:
        over.set()
        for asker in askers:
            asker.join(90)
    failures += [str(status) for status in answered if status != 200]
    assert len(answered) > 10


def exit_status(daemon: Daemon) -> int:
    """Wait for a daemon's end."""
    assert daemon.process is not None
    return daemon.process.wait(90)


def test_a_rolling_restart(tmp_path: Path) -> None:
    """A second daemon takes over under 200 streams: none is cut, nobody is refused."""
    with ExitStack() as stack:
        handed = Handed(tmp_path, stack)
        before = handed.daemon("before")
        clients = []
        for _ in range(STREAMS):
            client = stack.enter_context(RawClient(handed.port, 90))
            clients.append(client.post(chat_body(stream=True)))
        streams = [client.pieces() for client in clients if client.head() == 200]
        assert [next(stream)[1] for stream in streams] == [FIRST] * STREAMS
        with asking(handed.port) as failures:
            after = handed.daemon("after")
            before.signal(signal.SIGTERM)
            draining = before.wait_for_log("draining: ", 60)
            assert int(draining.split("draining: ")[1].split()[0]) >= STREAMS
            time.sleep(0.5)  # the new one alone
            assert before.process is not None
            assert before.process.poll() is None
            handed.held.let.set()
            ends = [b"".join(data for _, data in stream) for stream in streams]
            assert exit_status(before) == 0
        assert ends == [LAST] * STREAMS
        assert failures == []
        assert "still run" not in before.log()
        assert after.stop(60) == 0


def test_nobody_is_refused_while_no_daemon_runs(tmp_path: Path) -> None:
    """As with ``systemctl restart``: who connects meanwhile waits for the next one."""
    with ExitStack() as stack:
        handed = Handed(tmp_path, stack)
        before = handed.daemon("before")
        with asking(handed.port) as failures:
            time.sleep(0.5)
            before.signal(signal.SIGTERM)
            assert exit_status(before) == 0
            after = handed.daemon("after")
            time.sleep(0.5)
        assert failures == []
        assert after.stop(60) == 0
