"""Compiles the C tools, out of the tree, and only when their sources have changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import attrs

SOURCES = Path(__file__).resolve().parent / "tools"
FLAGS = ("-O2", "-Wall", "-Wextra")


class CannotBuild(Exception):
    """The tools cannot be had; the message says why."""


@attrs.frozen
class Tools:
    """The compiled tools.

    Attributes:
        model: The backend.
        load: The client.
    """

    model: Path
    load: Path


def compiler() -> str | None:
    """Give the C compiler's path; None when there is none."""
    return shutil.which("cc")


def build() -> Tools:
    """Compile what is not compiled yet.

    Raises:
        CannotBuild: No compiler, no safe place for the results, or a source that does not compile.
    """
    cc = compiler()
    if cc is None:
        raise CannotBuild("there is no C compiler: `cc` is not on the PATH")
    folder = _cache()
    header = (SOURCES / "loop.h").read_bytes()
    return Tools(model=_build(cc, folder, "model", header), load=_build(cc, folder, "load", header))


def _build(cc: str, folder: Path, name: str, header: bytes) -> Path:
    source = SOURCES / f"{name}.c"
    digest = hashlib.sha256(b"\0".join((" ".join(FLAGS).encode(), header, source.read_bytes())))
    program = folder / f"{name}-{digest.hexdigest()[:16]}"
    if program.exists():
        return program
    # Built under a name of its own, then moved: two runs at once never see half a program.
    unfinished = folder / f"{program.name}.{os.getpid()}"
    done = subprocess.run(
        [cc, *FLAGS, "-o", str(unfinished), str(source)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise CannotBuild(f"{source.name} does not compile:\n{done.stderr}")
    unfinished.rename(program)
    return program


def _cache() -> Path:
    """Give the folder for programs, ours alone: what lies in it is run."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (
        Path(base, "llmproxy-benchmarks")
        if base
        else Path(tempfile.gettempdir(), f"llmproxy-benchmarks-{os.getuid()}")
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022 or folder.is_symlink():
        raise CannotBuild(f"{folder} is not ours alone; wanted: a folder of ours, mode 0700")
    return folder
