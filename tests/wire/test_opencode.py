"""What OpenCode reads, and the command that it runs."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import signal
import termios
import time
from pathlib import Path

import attrs
import pytest

from llmproxy.values import ModelCard
from llmproxy.wire.opencode import LOGIN_COMMAND, OpenCodeProvider, answer_limit

PROVIDER = OpenCodeProvider(
    url="https://gw.example", key_header="Authorization", head_wait_s=330.0, silence_s=150.5
)
WHOLE = ModelCard("org/whole", 0, "Whole", "All of it.", 131072, 8192, images=True, reasoning=True)


def test_a_configuration() -> None:
    """A provider with its models; only what is known of a model is said."""
    assert PROVIDER.config([ModelCard("plain", 0), WHOLE]) == {
        "$schema": "https://opencode.ai/config.json",
        "provider": {
            "llmproxy": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "LLMProxy",
                "options": {
                    "baseURL": "https://gw.example/v1",
                    "apiKey": "{env:LLMPROXY_API_KEY}",
                    "headerTimeout": 330000,
                    "chunkTimeout": 150500,
                },
                "models": {
                    "plain": {"name": "plain"},
                    "org/whole": {
                        "name": "Whole",
                        "limit": {"context": 131072, "output": 8192},
                        "attachment": True,
                        "modalities": {"input": ["text", "image"], "output": ["text"]},
                        "reasoning": True,
                    },
                },
            }
        },
        "enabled_providers": ["llmproxy"],
        "model": "llmproxy/plain",
        "small_model": "llmproxy/plain",
    }


def test_the_well_known_answer() -> None:
    """It names no model; those come from where the key is asked for."""
    answer = PROVIDER.well_known()
    assert answer["auth"] == {"command": list(LOGIN_COMMAND), "env": "LLMPROXY_API_KEY"}
    whole = PROVIDER.config([WHOLE])
    del whole["provider"]["llmproxy"]["models"], whole["model"], whole["small_model"]
    assert answer["config"] == whole
    assert answer["remote_config"] == {
        "url": "https://gw.example/.well-known/opencode/config",
        "headers": {"Authorization": "Bearer {env:LLMPROXY_API_KEY}"},
    }


def test_a_key_in_a_field_of_its_own() -> None:
    """It is asked for and sent there, as it is."""
    provider = attrs.evolve(PROVIDER, key_header="X-Team-Key")
    field = {"X-Team-Key": "{env:LLMPROXY_API_KEY}"}
    options = provider.config([WHOLE])["provider"]["llmproxy"]["options"]
    assert options["headers"] == field
    assert "apiKey" not in options
    assert provider.well_known()["remote_config"]["headers"] == field


def test_clients_wait_for_ever_where_the_gateway_does() -> None:
    """OpenCode's own limits are switched off."""
    provider = attrs.evolve(PROVIDER, head_wait_s=None, silence_s=None)
    options = provider.config([])["provider"]["llmproxy"]["options"]
    assert (options["headerTimeout"], options["chunkTimeout"]) == (False, False)


@pytest.mark.parametrize(
    ("default", "small", "chosen"),
    [
        ("", "", ("a", "a")),
        ("b", "", ("b", "b")),
        ("b", "a", ("b", "a")),
        ("gone", "gone", ("a", "a")),
        ("", "b", ("a", "b")),
    ],
)
def test_the_models_that_are_asked(default: str, small: str, chosen: tuple[str, str]) -> None:
    """The configured ones, unless this key may not use them."""
    provider = attrs.evolve(PROVIDER, default_model=default, small_model=small)
    config = provider.config([ModelCard("a", 0), ModelCard("b", 0)])
    assert (config["model"], config["small_model"]) == tuple(f"llmproxy/{one}" for one in chosen)


def test_no_models_at_all() -> None:
    """Then none is the default."""
    config = PROVIDER.config([])
    assert config["provider"]["llmproxy"]["models"] == {}
    assert "model" not in config
    assert "small_model" not in config


@pytest.mark.parametrize(
    ("context", "output", "limit"),
    [
        (131072, 4096, 4096),
        (131072, None, 8192),
        (16384, None, 4096),
        (2, None, 1),
        (None, 4096, 4096),
        (None, None, None),
    ],
)
def test_limits(context: int | None, output: int | None, limit: int | None) -> None:
    """Both are told, or neither; a window that is not known is 0, as OpenCode has it."""
    card = ModelCard("a", 0, context=context, output=output)
    assert answer_limit(card) == limit
    model = PROVIDER.config([card])["provider"]["llmproxy"]["models"]["a"]
    expected = {} if limit is None else {"limit": {"context": context or 0, "output": limit}}
    assert model == {"name": "a", **expected}


def test_names_that_opencode_would_replace() -> None:
    """An inference server cannot have files of its users read by calling a model so."""
    bad = "{file:~/.ssh/id_ed25519}"
    models = PROVIDER.config([ModelCard(bad, 0), ModelCard("a", 0, bad)])
    assert models["provider"]["llmproxy"]["models"] == {"a": {"name": "a"}}
    assert models["model"] == "llmproxy/a"


INTERRUPT = b"\x03"
SHELLS = [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)]


class Terminal:
    """A login command at a terminal of its own, its output a pipe as OpenCode has it.

    Args:
        shell: What runs it.

    Attributes:
        shown: What the terminal shows.
        echoes: Whether it shows what is typed, after the command has ended.
    """

    def __init__(self, shell: str) -> None:
        self.echoes = False
        self._reader, writer = os.pipe()
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.dup2(writer, 1)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            # As OpenCode runs it: whatever shell it is, it is called sh, and keeps to POSIX.
            os.execv(shutil.which(shell) or "", list(LOGIN_COMMAND))
        os.close(writer)
        self.shown = b""
        self._read_until(b"API key of LLMProxy: ")

    def _read_until(self, text: bytes) -> None:
        end = time.monotonic() + 20
        while text not in self.shown:
            assert select.select([self._terminal], [], [], end - time.monotonic())[0], self.shown
            self.shown += os.read(self._terminal, 1024)

    def types(self, text: bytes) -> tuple[int, bytes]:
        """Type something; give the command's exit status and its output."""
        # Not before the echo is off: it is switched off before the question is shown.
        os.write(self._terminal, text)
        output, end = b"", time.monotonic() + 20
        while time.monotonic() < end:
            if select.select([self._reader], [], [], 1)[0]:
                more = os.read(self._reader, 1024)
                if not more:
                    break
                output += more
            elif text == INTERRUPT:
                # It came before the shell waited for the line; a person types it again.
                os.write(self._terminal, text)
        else:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            raise AssertionError(f"it did not end: {self.shown!r}")
        _, status = os.waitpid(self._pid, 0)
        self.echoes = bool(termios.tcgetattr(self._terminal)[3] & termios.ECHO)
        # When its other side is closed, a terminal that was read to the end fails.
        with contextlib.suppress(OSError):
            while more := os.read(self._terminal, 1024):
                self.shown += more
        os.close(self._reader)
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status), output


@pytest.mark.parametrize("shell", SHELLS)
def test_the_login_command(shell: str) -> None:
    """It gives what is typed, spaces around it left out, and does not show it."""
    terminal = Terminal(shell)
    assert terminal.types(b"  sk-llmp-1\\2 $(x)\t\n") == (0, b"sk-llmp-1\\2 $(x)")
    assert b"sk-llmp" not in terminal.shown
    assert terminal.echoes


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("typed", [b"\n", b"\x04", INTERRUPT])
def test_no_key_is_no_login(shell: str, typed: bytes) -> None:
    """Nothing, the end of input, or Ctrl-C: the command fails, and OpenCode stores nothing."""
    terminal = Terminal(shell)
    status, output = terminal.types(typed)
    assert status != 0
    assert output == b""
    assert terminal.echoes


def test_the_login_command_without_a_terminal(tmp_path: Path) -> None:
    """It fails, and says why."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        file = os.open(tmp_path / "told", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.execvp(LOGIN_COMMAND[0], LOGIN_COMMAND)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
    assert "/dev/tty" in (tmp_path / "told").read_text()
