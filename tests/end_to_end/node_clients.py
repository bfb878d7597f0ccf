"""Where the clients of ``tests/clients`` are, and how they are run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

CLIENTS = Path(__file__).resolve().parent.parent / "clients"
NODE_MODULES = CLIENTS / "node_modules"
RUN_LIMIT_S = 90.0

_KINDS = ("CONFIG", "DATA", "CACHE", "STATE")
_DISABLED = (
    "MODELS_FETCH",
    "AUTOUPDATE",
    "LSP_DOWNLOAD",
    "DEFAULT_PLUGINS",
    "SHARE",
    "CLAUDE_CODE",
    "EXTERNAL_SKILLS",
    "PROJECT_CONFIG",
)


class NotInstalled(Exception):
    """A client is not on this machine; the message says what to do about it."""


def find_opencode() -> str:
    """Find a program of OpenCode that runs here.

    The npm package's own command is a copy of the right one, made by its install script; where
    such scripts may not run, the packages per platform hold it. Of these only some run on this
    processor and C library.

    Raises:
        NotInstalled: There is none.
    """
    if not NODE_MODULES.is_dir():
        raise NotInstalled("tests/clients/node_modules is missing; run tests/setup")
    of_platforms = sorted(NODE_MODULES.glob("opencode-*/bin/opencode"))
    for program in (NODE_MODULES / ".bin" / "opencode", *of_platforms):
        try:
            tried = subprocess.run(
                [program, "--version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if tried.returncode == 0:
            return str(program)
    raise NotInstalled("no program of the opencode-ai package runs here; run tests/setup")


def find_node() -> str:
    """Find Node.js.

    Raises:
        NotInstalled: It, or the packages for it, are missing.
    """
    node = shutil.which("node")
    if node is None:
        raise NotInstalled("node is missing; run tests/setup")
    if not (NODE_MODULES / "ai").is_dir():
        raise NotInstalled("tests/clients/node_modules/ai is missing; run tests/setup")
    return node


@attrs.frozen
class Finished:
    """A client that has ended.

    Attributes:
        status: Its exit status.
        events: What it printed, one JSON object per line.
        output: All that it printed, errors too.
        duration_s: How long it ran.
    """

    status: int
    events: Sequence[Mapping[str, Any]]
    output: str
    duration_s: float

    def texts(self) -> str:
        """Give what OpenCode's model said."""
        return "\n".join(
            event["part"]["text"] for event in self.events if event.get("type") == "text"
        )

    def tool_uses(self) -> list[Mapping[str, Any]]:
        """Give the tools that OpenCode ran."""
        return [event["part"] for event in self.events if event.get("type") == "tool_use"]


def run(command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> Finished:
    """Run a client to its end, in a process group of its own that is killed after 90 s."""
    began_s = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        printed, complaints = process.communicate(timeout=RUN_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, complaints = process.communicate()
        raise AssertionError(
            f"{command[0]} ran over {RUN_LIMIT_S} s: ...{printed[-2000:]!r} {complaints[-2000:]!r}"
        ) from None
    duration_s = time.monotonic() - began_s
    lines = printed.decode(errors="replace").splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    output = (printed + complaints).decode(errors="replace")
    return Finished(process.returncode, events, output, duration_s)


class OpenCodeHome:
    """OpenCode in a home of its own.

    Args:
        program: See `find_opencode`.
        folder: Its home and its project go there.
        config: Its configuration; None: none at all.
        environ: Further environment variables.

    Attributes:
        program: The program.
        project: The folder in which it runs.
    """

    def __init__(
        self,
        program: str,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.program = program
        self.project = folder / "project"
        self.project.mkdir(parents=True)
        home = folder / "home"
        home.mkdir()
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            # Whatever it would install beside its own is not needed here.
            "npm_config_offline": "true",
            **{f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in _KINDS},
            **{f"OPENCODE_DISABLE_{feature}": "1" for feature in _DISABLED},
            **(environ or {}),
        }
        if config is not None:
            file = folder / "opencode.json"
            file.write_text(json.dumps(config))
            self._environ["OPENCODE_CONFIG"] = str(file)

    def environ(self, key: str = "") -> dict[str, str]:
        """Give the environment that it runs in."""
        return {**self._environ, **({"LLMPROXY_API_KEY": key} if key else {})}

    def run(self, *words: str, key: str = "") -> Finished:
        """Run it with some arguments."""
        return run((self.program, *words), self.project, self.environ(key))

    def ask(self, model: str, prompt: str, key: str = "", *options: str) -> Finished:
        """Have it answer one prompt, with its default model if none is named."""
        named = ("-m", f"llmproxy/{model}") if model else ()
        # Files are a list of any length: the prompt comes before them.
        return self.run("run", "--format", "json", *named, prompt, *options, key=key)


class OpenCode(OpenCodeHome):
    """OpenCode with a provider block as in docs/opencode.md.

    Args:
        program: See `find_opencode`.
        folder: Its home, configuration and project go there.
        base_url: The gateway's, with ``/v1``.
        models: The ids that it may ask for.
        options: Further options of the provider; they may name ``{env:LLMPROXY_API_KEY}``.
    """

    def __init__(
        self,
        program: str,
        folder: Path,
        base_url: str,
        models: Sequence[str],
        options: Mapping[str, Any],
    ) -> None:
        limits = {"context": 131072, "output": 8192}
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "name": "LLMProxy",
            "options": {"baseURL": base_url, **options},
            "models": {model: {"name": model, "limit": limits} for model in models},
        }
        super().__init__(
            program,
            folder,
            {
                "provider": {"llmproxy": provider},
                "enabled_providers": ["llmproxy"],
                "permission": {"*": "allow"},
            },
        )
