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
TLS_FLAGS = ("-DWITH_TLS=1", "-lssl", "-lcrypto")


class CannotBuild(Exception):
    """The tools cannot be had; the message says why."""


@attrs.frozen
class Tools:
    """The compiled tools.

    Attributes:
        model: The backend.
        load: The client.
        with_tls: Whether the client speaks TLS: the headers of OpenSSL were there.
    """

    model: Path
    load: Path
    with_tls: bool


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
    with_tls = _has_openssl(cc)
    return Tools(
        model=_build(cc, folder, "model"),
        load=_build(cc, folder, "load", *(TLS_FLAGS if with_tls else ())),
        with_tls=with_tls,
    )


def _has_openssl(cc: str) -> bool:
    """Say whether OpenSSL's headers and libraries can be had (Debian: libssl-dev)."""
    program = "#include <openssl/ssl.h>\nint main(void) { return SSL_library_init() != 1; }\n"
    done = subprocess.run(
        [cc, "-x", "c", "-", "-o", os.devnull, "-lssl", "-lcrypto"],
        input=program,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode == 0


def _build(cc: str, folder: Path, name: str, *further: str) -> Path:
    source = SOURCES / f"{name}.c"
    headers = [header.read_bytes() for header in sorted(SOURCES.glob("*.h"))]
    words = " ".join((*FLAGS, *further)).encode()
    digest = hashlib.sha256(b"\0".join((words, *headers, source.read_bytes())))
    program = folder / f"{name}-{digest.hexdigest()[:16]}"
    if program.exists():
        return program
    # Built under a name of its own, then moved: two runs at once never see half a program.
    unfinished = folder / f"{program.name}.{os.getpid()}"
    done = subprocess.run(
        [cc, *FLAGS, "-o", str(unfinished), str(source), *further],
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
