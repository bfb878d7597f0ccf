"""The daemon's life as a process: how it starts, what it refuses, what it logs, how it ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.daemon import BIN, KEY, Daemon, free_port, gateway_config
from tests.scripted_backend import Connection, ScriptedBackend, event

ASKED = json.dumps({"model": "m", "stream": True, "messages": []})


def run(program: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment to its end."""
    return subprocess.run(
        [str(BIN / program), *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


def post(
    daemon: Daemon, body: str = ASKED, headers: dict[str, str] | None = None
) -> http.client.HTTPResponse:
    """Ask for a chat; the connection closes with the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=20)
    fields = {"Authorization": f"Bearer {KEY}", "Connection": "close", **(headers or {})}
    connection.request("POST", "/v1/chat/completions", body, fields)
    return connection.getresponse()


class HeldStream:
    """A model that says one word, and the rest when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Answer one request."""
        connection.read_request()
        connection.stream_head()
        connection.chunk(event("one"))
        assert self.let.wait(20)
        connection.chunk(event("two") + event("[DONE]"))
        connection.chunk(b"")


@contextmanager
def streaming(folder: Path) -> Iterator[tuple[Daemon, HeldStream, http.client.HTTPResponse]]:
    """Run a daemon with one stream that has begun; to be ended by the test."""
    held = HeldStream()
    with ScriptedBackend(held) as backend:
        config = gateway_config(free_port(), [{"name": "b", "url": backend.url}])
        with Daemon(folder, config) as daemon:
            daemon.wait_for_log("lists")
            answer = post(daemon)
            assert answer.readline() == b"data: one\n"
            try:
                yield daemon, held, answer
            finally:
                held.let.set()
                answer.close()


def terminate(daemon: Daemon) -> subprocess.Popen[bytes]:
    """Send SIGTERM and wait until it shows."""
    process = daemon.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    daemon.wait_for_log("draining")
    return process


# how it ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_idle(number: signal.Signals, tmp_path: Path) -> None:
    """It ends at once, and well, for systemd as for Ctrl-C."""
    config = gateway_config(free_port(), [{"name": "demo", "url": "demo:"}])
    with Daemon(tmp_path, config) as daemon:
        daemon.wait_for_log("lists")
        assert daemon.process is not None
        daemon.process.send_signal(number)
        assert daemon.process.wait(5) == 0
    assert "Traceback" not in daemon.log()


def test_sigterm_while_streaming(tmp_path: Path) -> None:
    """Nobody gets in any more; the stream goes on to its end, and so does the daemon."""
    with streaming(tmp_path) as (daemon, held, answer):
        process = terminate(daemon)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", daemon.port), 5)
        assert process.poll() is None
        held.let.set()
        assert answer.read() == b"\ndata: two\n\ndata: [DONE]\n\n"
        assert process.wait(10) == 0
    (record,) = [json.loads(line) for line in daemon.log().splitlines() if line[0] == "{"]
    assert record["outcome"] == "ok"
    assert "Traceback" not in daemon.log()


def test_second_sigterm(tmp_path: Path) -> None:
    """It ends now; the client sees that its stream is not complete."""
    with streaming(tmp_path) as (daemon, _, answer):
        process = terminate(daemon)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            answer.read()
    assert "Traceback" not in daemon.log()


def test_drain_timeout(tmp_path: Path) -> None:
    """What runs after it is cut."""
    held = HeldStream()
    with ScriptedBackend(held) as backend:
        config = gateway_config(free_port(), [{"name": "b", "url": backend.url}])
        config["server"]["drain_timeout"] = "300ms"
        with Daemon(tmp_path, config) as daemon:
            daemon.wait_for_log("lists")
            answer = post(daemon)
            assert answer.readline() == b"data: one\n"
            assert terminate(daemon).wait(5) == 0
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                answer.read()
            held.let.set()


# what it refuses


def test_port_in_use(tmp_path: Path) -> None:
    """One line on standard error, exit status 1, no pid file, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = gateway_config(port, [{"name": "demo", "url": "demo:"}])
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(config))
        ended = run("twistd", "-n", "llmproxy", "--config", "x.yaml", folder=tmp_path)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line == f"llmproxy: cannot listen on '127.0.0.1:{port}': Address already in use"
    assert "Traceback" not in ended.stdout
    assert not (tmp_path / "twistd.pid").exists()


BAD_FILES = {
    "unknown keys and wrong types": (
        "server:\n"
        "  lisen: ':8000'\n"
        "  idle_timeout: soon\n"
        "backends:\n"
        "  - name: a\n"
        "    url: ftp://x\n"
        "    weight: many\n"
        "auth: {enabled: false}\n"
        "discovery: {enabled: true}\n",
        [
            ("2", "server.lisen", "listen"),
            ("3", "server.idle_timeout", "soon"),
            ("6", "backends[0].url", "ftp://x"),
            ("7", "backends[0].weight", "many"),
            ("9", "discovery", "not available yet"),
        ],
    ),
    "no YAML": ("server:\n  listen: [\nbackends: }\n", [("3", "", "")]),
    "empty": ("", [("", "", "")]),
    "no key": ("backends: [{name: a, url: 'demo:'}]\n", [("", "auth.enabled", "no key")]),
    "an unset variable": (
        "backends:\n  - {name: a, url: 'demo:', api_key: '${LLMPROXY_TEST_UNSET}'}\n"
        "auth: {enabled: false}\n",
        [("2", "backends[0].api_key", "LLMPROXY_TEST_UNSET")],
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file(name: str, tmp_path: Path) -> None:
    """Every problem on a line of its own, from the daemon as from ``check-config``."""
    text, wanted = BAD_FILES[name]
    (tmp_path / "x.yaml").write_text(text)
    ended = run("twistd", "-n", "llmproxy", "--config", "x.yaml", folder=tmp_path)
    assert ended.returncode == 1
    problems = ended.stderr.splitlines()
    assert len(problems) == len(wanted), ended.stderr
    for problem, (line, path, words) in zip(problems, wanted, strict=True):
        place = f"x.yaml:{line}: " if line else "x.yaml"
        assert problem.startswith(place), problem
        assert path in problem
        assert words in problem
    assert ended.stdout == ""
    assert not (tmp_path / "twistd.pid").exists()
    checked = run("llmproxy", "check-config", "x.yaml", folder=tmp_path)
    assert checked.returncode == 1
    assert checked.stderr.splitlines()[:-1] == problems


def test_no_file(tmp_path: Path) -> None:
    """It says which."""
    ended = run("twistd", "-n", "llmproxy", "--config", "gone.yaml", folder=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == "gone.yaml: does not exist; want a YAML file\n"
    assert ended.stdout == ""


def test_no_config_option(tmp_path: Path) -> None:
    """It says what is missing; nothing has begun."""
    ended = run("twistd", "-n", "llmproxy", folder=tmp_path)
    assert ended.returncode == 1
    assert "--config FILE is needed" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not (tmp_path / "twistd.pid").exists()


# what it logs


def test_no_secret_is_logged(tmp_path: Path) -> None:
    """Keys of clients and of backends, good, bad or garbled: in no line, not even for debugging."""

    def answer(connection: Connection) -> None:
        while (seen := connection.read_request()) is not None:
            assert seen.header("Authorization") == "Bearer canary-up-1"
            connection.answer(b'{"choices":[]}')

    with ScriptedBackend(answer) as backend:
        config = gateway_config(
            free_port(),
            [
                {"name": "good", "url": backend.url, "api_key": "canary-up-1"},
                {
                    "name": "gone",
                    "url": f"http://127.0.0.1:{free_port()}",
                    "models": ["gone"],
                    "headers": {"X-Token": "canary-up-2"},
                },
            ],
            auth={
                "pipeline": [
                    {
                        "name": "static",
                        "type": "static",
                        "static": {"keys": [{"key": "canary-key-1"}]},
                    }
                ]
            },
            health_check={"interval": "100ms", "unhealthy_threshold": 1},
            log={"level": "debug"},
        )
        with Daemon(tmp_path, config) as daemon:
            daemon.wait_for_log("lists")
            good = {"Authorization": "Bearer canary-key-1"}
            asked = json.dumps({"model": "m", "messages": [{"content": "canary-prompt"}]})
            assert post(daemon, asked, good).status == 200
            assert post(daemon, asked.replace('"m"', '"gone"'), good).status in (502, 503)
            assert post(daemon, "canary-prompt", good).status == 400
            for bad in (
                {"Authorization": "Bearer canary-key-2"},
                {"Authorization": "Basic canary-key-2"},
                {"Authorization": "", "X-API-Key": "canary-key-2"},
            ):
                assert post(daemon, asked, bad).status == 401
            with socket.create_connection(("127.0.0.1", daemon.port), 5) as garbled:
                garbled.sendall(b"GET / HTTP/1.1\r\nAuthorization : Bearer canary-key-1\r\n\r\n")
                assert garbled.recv(100).startswith(b"HTTP/1.1 400 ")
            daemon.wait_for_log("gone")
        assert backend.errors == []
    log = daemon.log()
    assert log.count('"endpoint"') == 7
    assert "canary" not in log


def test_a_log_of_json(tmp_path: Path) -> None:
    """Every line from the first to the last is an object with the same four keys."""
    config = gateway_config(
        free_port(),
        [{"name": "demo", "url": "demo:"}],
        log={"format": "json", "level": "debug"},
        logging={"access": {"output": "file", "format": "json", "path": str(tmp_path / "a.log")}},
    )
    with Daemon(tmp_path, config) as daemon:
        daemon.wait_for_log("lists")
        assert post(daemon, "{").status == 400
    lines = [json.loads(line) for line in daemon.log().splitlines()]
    assert len(lines) > 5
    assert {frozenset(line) for line in lines} == {
        frozenset(("time", "level", "source", "message"))
    }
    assert any(line["message"].startswith("LLMProxy ") for line in lines)
    # The access log went to its file, and only there.
    (record,) = (tmp_path / "a.log").read_text().splitlines()
    assert json.loads(record)["error_code"] == "invalid_json"
    assert "invalid_json" not in daemon.log()


def test_logs_in_files(tmp_path: Path) -> None:
    """Both logs are appended to their files; nothing is printed."""
    daemon_log, access_log = tmp_path / "d.log", tmp_path / "a.log"
    access_log.write_text("an old line\n")
    sections: dict[str, Any] = {
        "log": {"output": "file", "file": {"path": str(daemon_log)}},
        "logging": {"access": {"output": "file", "path": str(access_log)}},
    }
    config = gateway_config(free_port(), [{"name": "demo", "url": "demo:"}], **sections)
    with Daemon(tmp_path, config) as daemon:
        assert post(daemon, "{").status == 400
    assert daemon.log() == ""
    assert "listening on 127.0.0.1:" in daemon_log.read_text()
    old, line = access_log.read_text().splitlines()
    assert old == "an old line"
    assert '"POST /v1/chat/completions HTTP/1.1" 400 ' in line


def test_the_environment_gives_the_port_and_the_key(tmp_path: Path) -> None:
    """As in the shipped file: ``${NAME:-default}``, filled in when it starts."""
    port = free_port()
    config: dict[str, Any] = gateway_config(port, [{"name": "demo", "url": "demo:"}])
    keys = config["auth"]["pipeline"][0]["static"]["keys"]
    keys[0]["key"] = "${LLMPROXY_TEST_KEY:-sk-default}"
    asked = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hi"}]})
    environ = {"LLMPROXY_TEST_KEY": "sk-of-the-environment"}
    with Daemon(tmp_path, config, environ) as daemon:
        daemon.wait_for_log("lists")
        given = {"Authorization": "Bearer sk-of-the-environment"}
        assert post(daemon, asked, given).status == 200
        assert post(daemon, asked, {"Authorization": "Bearer sk-default"}).status == 401
    assert os.environ.get("LLMPROXY_TEST_KEY") is None
