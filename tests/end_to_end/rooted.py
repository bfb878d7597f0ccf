"""Steps that are written for a whole machine, done in a folder that stands for its root.

Paths below the folders that an installation writes to lead into that folder; programs and the rest
of the machine are this one's. `Image` does the steps of a Dockerfile in it, one after another.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.end_to_end.packages import run

_OURS = re.compile(r"(?<![\w./])/(?=(?:etc|opt|src|var)/|src\b)")
"""Where a path begins that is to lead into the folder."""


@attrs.define
class Rooted:
    """A folder that stands for the root of a machine with Python on it.

    Attributes:
        root: The folder.
        environ: The environment of all steps.
    """

    root: Path
    environ: dict[str, str] = attrs.Factory(dict)

    def __attrs_post_init__(self) -> None:
        """Have ``python`` and ``python3`` be the one that runs this."""
        programs = self.root / "usr" / "bin"
        programs.mkdir(parents=True)
        for name in ("python", "python3"):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
            program.chmod(0o755)
        self.environ.setdefault("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")

    def place(self, path: str, folder: str = "/") -> Path:
        """Give where a path leads, seen from a folder."""
        return self.root / str(Path(folder) / path).removeprefix("/")

    def rewritten(self, text: str) -> str:
        """Have the paths in a text lead into the folder."""
        return _OURS.sub(f"{self.root}/", text)

    def run(self, script: str, folder: Path) -> str:
        """Run a script of the shell; it must succeed. Give what it printed."""
        return run("sh", "-eu", "-c", self.rewritten(script), folder=folder, **self.environ)


def instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    """Give the instructions of a Dockerfile, each with what stands behind it."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    for line in re.sub(r"\\\n", "", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name, rest.strip()


def let_in(path: Path, ignore: str) -> bool:
    """Say whether a file below the context is sent to the builder.

    Args:
        path: Where it is, from the context.
        ignore: The text of a ``.dockerignore``; of its last line that matches, what it says holds.
    """
    inside = True
    for line in ignore.split():
        pattern = line.removeprefix("!")
        if pattern == "**":
            matches = True
        elif pattern.startswith("**/"):
            matches = pattern.removeprefix("**/") in path.parts
        else:
            matches = path.is_relative_to(pattern)
        if matches:
            inside = line.startswith("!")
    return inside


@attrs.define
class Image:
    """What a Dockerfile makes, in a folder.

    Every stage is built at the same place, for what is installed there knows it.

    Attributes:
        machine: The last stage.
        command: What it runs: the entry point and its arguments.
        check: What tells whether it is healthy.
        folder: Where it runs.
        port: What it says that it listens on.
    """

    machine: Rooted
    command: list[str]
    check: list[str]
    folder: str
    port: int

    @classmethod
    def build(cls, dockerfile: Path, context: Path, place: Path, environ: dict[str, str]) -> Image:
        """Do all steps.

        Args:
            dockerfile: The Dockerfile.
            context: The folder that its ``COPY`` starts from, as Docker would get it.
            place: An empty folder to work in.
            environ: Further environment of the steps.
        """
        root, stages = place / "root", {"": context}
        stage, folder, port = "", "/", 0
        said: dict[str, list[str]] = {}
        machine = None
        for name, rest in instructions(dockerfile):
            if name == "FROM":
                if machine is not None:
                    stages[stage] = root.rename(place / f"stage-{len(stages)}")
                stage = rest.partition(" AS ")[2] or "last"
                machine, folder = Rooted(root, dict(environ)), "/"
                continue
            assert machine is not None
            if name == "WORKDIR":
                folder = rest
                machine.place(folder).mkdir(parents=True, exist_ok=True)
            elif name == "COPY":
                _copy(rest, stages, machine, folder)
            elif name == "RUN":
                machine.run(rest, machine.place(folder))
            elif name == "ENV":
                for setting in shlex.split(rest):
                    key, _, value = setting.partition("=")
                    old = machine.environ.get(key, "")
                    machine.environ[key] = machine.rewritten(value).replace(f"${key}", old)
            elif name in ("ENTRYPOINT", "CMD"):
                said[name] = [machine.rewritten(word) for word in json.loads(rest)]
            elif name == "HEALTHCHECK":
                said[name] = json.loads(rest.partition("CMD ")[2])
            elif name == "EXPOSE":
                port = int(rest)
            else:
                assert name in ("USER", "VOLUME"), f"{name} is not known here"
        assert machine is not None
        command = said["ENTRYPOINT"] + said["CMD"]
        return cls(machine, command, said["HEALTHCHECK"], folder, port)


def _copy(rest: str, stages: dict[str, Path], machine: Rooted, folder: str) -> None:
    """Do a ``COPY``; whose files they become makes no difference here."""
    words = rest.split()
    options = dict(word[2:].split("=") for word in words if word.startswith("--"))
    *sources, target = [word for word in words if not word.startswith("--")]
    into = machine.place(target, folder)
    for source in sources:
        path = stages[options.get("from", "")] / source.removeprefix("/")
        if path.is_dir():
            shutil.copytree(path, into, symlinks=True, dirs_exist_ok=True)
        else:
            to = into / path.name if target.endswith("/") else into
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to)
