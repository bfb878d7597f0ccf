"""Peers from PyPI: other gateways for inference servers, where somebody has installed them.

Each is looked for in the virtual environments that ``--peers-venv`` names, and runs with what comes
closest to what LLMProxy does for a request: one worker, a key where it knows keys, its own metrics,
a line in a log for each request. None is asked to do what it cannot.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from benchmarks.certificate import Certificate
from benchmarks.gateways import KEY, CannotStart, Running, free_port, started

_START_S = 90.0  # litellm imports for long


@attrs.frozen
class Peer:
    """A gateway from PyPI.

    Attributes:
        package: Its name there, and in the table.
        command: Gives its command line, from a virtual environment's programs, a folder for files,
            its port and the model server's.
    """

    package: str
    command: Callable[[Path, Path, int, int], list[str]]

    def environment(self, venvs: Sequence[Path]) -> Path | None:
        """Give the first virtual environment that it is installed in; None: it is in none."""
        for venv in venvs:
            if self.version(venv):
                return venv
        return None

    def version(self, venv: Path) -> str:
        """Give its version in a virtual environment; empty when it is not there."""
        program = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        try:
            done = subprocess.run(
                [str(venv / "bin" / "python"), "-c", program],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip()

    @contextmanager
    def run(
        self, venv: Path, folder: Path, model_port: int, certificate: Certificate | None
    ) -> Iterator[Running]:
        """Run it in front of the model server.

        Args:
            venv: Where it is installed.
            folder: Where its configuration and logs go.
            model_port: The model server's port.
            certificate: Must be None: peers are measured without TLS.

        Raises:
            CannotStart: It did not answer.
        """
        if certificate is not None:
            raise CannotStart(f"{self.package} is measured without TLS only")
        port = free_port()
        command = self.command(venv / "bin", folder, port, model_port)
        environ = {
            **os.environ,
            "HOME": str(folder),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it asks the internet for prices
        }
        subject = Running(self.package, port, 0, folder)
        with started(subject, command, environ=environ, start_s=_START_S) as running:
            yield running


def _router(*program: str) -> Callable[[Path, Path, int, int], list[str]]:
    """Give the command line that the routers of SGLang and vLLM share."""

    def command(programs: Path, folder: Path, port: int, model_port: int) -> list[str]:
        del folder
        words = [str(programs / program[0]), *program[1:]]
        words += ["--worker-urls", f"http://127.0.0.1:{model_port}"]
        words += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "info"]
        # Of the policies the one with the least to do: there is one worker.
        return [*words, "--policy", "round_robin", "--prometheus-port", str(free_port())]

    return command


def _litellm(programs: Path, folder: Path, port: int, model_port: int) -> list[str]:
    file = folder / "litellm.yaml"
    model = {
        "model": "openai/bench-model",
        "api_base": f"http://127.0.0.1:{model_port}/v1",
        "api_key": "none",
    }
    config = {
        "model_list": [{"model_name": "bench-model", "litellm_params": model}],
        "general_settings": {"master_key": KEY},
    }
    file.write_text(json.dumps(config, indent=2))  # JSON is YAML
    words = [str(programs / "litellm"), "--config", str(file), "--host", "127.0.0.1"]
    return [*words, "--port", str(port), "--num_workers", "1", "--telemetry", "False"]


PEERS: tuple[Peer, ...] = (
    Peer("sglang-router", _router("python", "-m", "sglang_router.launch_router")),
    Peer("vllm-router", _router("vllm-router")),
    Peer("litellm", _litellm),
)
