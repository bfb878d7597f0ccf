"""Packages built and installed for tests, and virtual environments to install them into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.daemon import ROOT

LIMIT_S = 300
_PRINT_PURELIB = "import sysconfig; print(sysconfig.get_path('purelib'))"


class NoIndex(Exception):
    """There is nowhere to download packages from."""


def attempt(*command: object, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**inherited, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def run(*command: object, folder: Path, **environ: str) -> str:
    """Run a command that must succeed; give what it printed."""
    ended = attempt(*command, folder=folder, **environ)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def copy_sources(folder: Path) -> Path:
    """Copy the checkout: builds leave files behind."""
    unwanted = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "dropin.cache", "node_modules"
    )
    return Path(shutil.copytree(ROOT, folder / "llmproxy", ignore=unwanted)).resolve()


def build_wheel(source: Path, folder: Path) -> Path:
    """Build a wheel of a source tree, or of an sdist."""
    command = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source)
    run(*command, folder=folder)
    (made,) = folder.glob("*.whl")
    return made


def make_environment(folder: Path) -> Path:
    """Make a virtual environment with this one's packages, but for ours; give its Python.

    Twisted is copied, because installations put a file into it; the others are linked.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    here = Path(sysconfig.get_path("purelib"))
    there = purelib(python)
    for entry in here.iterdir():
        name = entry.name.lower()
        if entry.suffix == ".pth" or name.startswith(("llmproxy", "__editable__")):
            continue
        if name == "twisted":
            unwanted = shutil.ignore_patterns("test", "dropin.cache", "llmproxy_plugin*")
            shutil.copytree(entry, there / entry.name, ignore=unwanted)
        else:
            (there / entry.name).symlink_to(entry)
    return python


def purelib(python: Path) -> Path:
    """Give where an environment has its packages."""
    return Path(run(python, "-c", _PRINT_PURELIB, folder=python.parent).strip()).resolve()


def install(python: Path, folder: Path, what: Sequence[object]) -> None:
    """Install into an environment with this one's pip, without dependencies."""
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "-q", "--no-deps", *what, folder=folder)


def download_dependencies(folder: Path) -> None:
    """Download all that an installation needs, and what builds it.

    Raises:
        NoIndex: No server of packages answers.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    command = (sys.executable, "-m", "pip", "download", "-q", "-d", folder, *wanted)
    ended = attempt(*command, folder=folder, PIP_RETRIES="1")
    if ended.returncode != 0 and "Retrying" in ended.stderr:
        raise NoIndex(ended.stderr)
    assert ended.returncode == 0, ended.stderr


def only_from(wheelhouse: Path) -> Mapping[str, str]:
    """Give the environment in which pip takes packages from a folder and nowhere else.

    What no test imports is not compiled: that would take longer than all the rest.
    """
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheelhouse), "PIP_NO_COMPILE": "1"}
