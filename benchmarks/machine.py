"""What a measurement was taken on: figures say little without it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import msgspec

import llmproxy
from benchmarks.gateways import ROOT, nginx_path


class Machine(msgspec.Struct):
    """The machine and the versions.

    Attributes:
        cpu: The processor's own name for itself.
        cores: How many of them this process may use.
        kernel: Its release.
        python: Version of the interpreter.
        llmproxy: Version, and the commit where there is one.
        packages: Name -> version of what the hot path is made of.
        nginx: Version; empty when it is not installed.
        load_average: Of the minute before the measurement: what else the machine did.
    """

    cpu: str
    cores: int
    kernel: str
    python: str
    llmproxy: str
    packages: dict[str, str]
    nginx: str
    load_average: float

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        return (
            f"LLMProxy {self.llmproxy}, {packages}, Python {self.python}; "
            f"{f'nginx {self.nginx}' if self.nginx else 'no nginx'}; "
            f"{self.cpu}, {self.cores} cores, Linux {self.kernel}, "
            f"load average before: {self.load_average:.2f}"
        )


def this_machine() -> Machine:
    """Describe the machine that this runs on."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return Machine(
        cpu=cpu[1] if cpu else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        python=platform.python_version(),
        llmproxy=" ".join(filter(None, (llmproxy.__version__, _commit()))),
        packages={
            name: importlib.metadata.version(name)
            for name in ("twisted", "treq", "msgspec", "httptools")
        },
        nginx=_nginx_version(),
        load_average=os.getloadavg()[0],
    )


def _commit() -> str:
    """Give the commit, "-dirty" when files differ from it; empty outside of a checkout."""
    return _first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty")


def _nginx_version() -> str:
    program = nginx_path()
    return _first_line(program, "-v").rpartition("/")[2] if program else ""


def _first_line(*command: str) -> str:
    """Give the first line that a command prints; empty when it fails."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition("\n")[0].strip()
