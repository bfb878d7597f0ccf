"""OpenCode for a team, with the real program: nobody writes a configuration but the operator."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest

from tests.daemon import KEY, ROOT, Daemon, free_port, gateway_config
from tests.end_to_end.access_records import records
from tests.end_to_end.node_clients import OpenCodeHome
from tests.end_to_end.test_opencode import PROMPT, write_token

pytestmark = pytest.mark.node

RESTRICTED_KEY = "sk-restricted-key"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A gateway that tells OpenCode of two models, of which one key may use the second alone."""
    port = free_port()
    config = gateway_config(
        port,
        [{"name": "demo", "url": "demo:"}],
        models=[
            {"id": "large", "upstream_model": "demo", "context": 131072, "output": 8192},
            {"id": "small", "upstream_model": "demo", "context": 65536},
        ],
        opencode={"enabled": True, "url": f"http://127.0.0.1:{port}", "small_model": "small"},
    )
    restricted = {"key": RESTRICTED_KEY, "name": "restricted", "allowed_models": ["small"]}
    config["auth"]["pipeline"][0]["static"]["keys"].append(restricted)
    with Daemon(tmp_path_factory.mktemp("daemon"), config) as running:
        yield running


@attrs.define
class Screen:
    """A program at a terminal.

    Attributes:
        shown: All that it has shown.
    """

    pid: int
    terminal: int
    shown: str = ""

    def wait_for(self, text: str, timeout_s: float = 60.0) -> None:
        """Wait until something is shown, or, with an empty text, until the program has ended."""
        end = time.monotonic() + timeout_s
        while not text or text not in self.shown:
            left_s = end - time.monotonic()
            assert select.select([self.terminal], [], [], max(left_s, 0))[0], self.shown
            try:
                more = os.read(self.terminal, 4096)
            except OSError:  # the program has ended
                assert not text, self.shown
                return
            self.shown += more.decode(errors="replace")

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self.terminal, text.encode())

    def end(self) -> int:
        """Wait for the program's end; give its exit status."""
        try:
            self.wait_for("")
        except AssertionError:
            os.kill(self.pid, signal.SIGKILL)
            raise
        finally:
            _, status = os.waitpid(self.pid, 0)
            os.close(self.terminal)
        return os.waitstatus_to_exitcode(status)


def at_terminal(home: OpenCodeHome, *words: str) -> Screen:
    """Start OpenCode at a terminal of its own."""
    environ = {**home.environ(), "TERM": "xterm"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(home.project)
        os.execve(home.program, [home.program, *words], environ)
    return Screen(pid, terminal)


def test_one_command_and_nothing_else(
    opencode_program: str, daemon: Daemon, tmp_path: Path
) -> None:
    """A login at the terminal, then a tool round trip; there is no configuration in that home."""
    home = OpenCodeHome(opencode_program, tmp_path)
    screen = at_terminal(home, "auth", "login", daemon.url)
    # The command is shown before it runs, and the question stands in it.
    screen.wait_for("\nAPI key of LLMProxy: ")
    screen.type(f"{KEY}\n")
    assert screen.end() == 0, screen.shown
    assert f"Logged into {daemon.url}" in screen.shown
    assert KEY not in screen.shown
    (kept,) = tmp_path.rglob("auth.json")
    assert json.loads(kept.read_text()) == {
        daemon.url: {"type": "wellknown", "key": "LLMPROXY_API_KEY", "token": KEY}
    }
    assert kept.stat().st_mode & 0o077 == 0
    token = write_token(home)
    finished = home.ask("", PROMPT)
    assert finished.status == 0, finished.output
    assert [use["tool"] for use in finished.tool_uses()] == ["read"], finished.output
    assert token in finished.texts()
    made = [one for one in records(daemon) if one["endpoint"] == "/v1/chat/completions"]
    assert {one["model"] for one in made if one["bytes_in"] > 10_000} == {"large"}
    assert {one["model"] for one in made if one["bytes_in"] < 10_000} <= {"small"}
    assert {one["key_name"] for one in made} == {"tester"}
    # OpenCode makes an empty one itself.
    assert all("provider" not in file.read_text() for file in tmp_path.rglob("opencode.json*"))


def test_without_a_terminal(opencode_program: str, daemon: Daemon, tmp_path: Path) -> None:
    """The key comes in the environment, and decides what there is; a wrong one is told of."""
    keys = {"restricted": RESTRICTED_KEY, "wrong": "sk-nobody-knows-this"}
    elsewhere = f"http://127.0.0.1:{free_port()}"

    def models(name: str) -> tuple[int, str]:
        url = elsewhere if name == "elsewhere" else daemon.url
        login = {"type": "wellknown", "key": "LLMPROXY_API_KEY", "token": keys.get(name, KEY)}
        environ = {"OPENCODE_AUTH_CONTENT": json.dumps({url: login})}
        finished = OpenCodeHome(opencode_program, tmp_path / name, None, environ).run("models")
        return finished.status, finished.output

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        restricted, wrong, away = pool.map(models, ("restricted", "wrong", "elsewhere"))
    assert restricted == (0, "llmproxy/small\n")
    for (status, output), url, reason in (
        (wrong, f"{daemon.url}/.well-known/opencode/config", "401"),
        (away, f"{elsewhere}/.well-known/opencode", "Transport error"),
    ):
        assert status == 1
        assert f"failed to fetch remote config from {url}: " in output
        assert reason in output
        assert "sk-" not in output
        documented = re.escape(f".../{url.split('/', 3)[3]}: ...") + ".*" + re.escape(reason)
        assert re.search(documented, (ROOT / "docs" / "opencode.md").read_text())
