"""docs/install.md: its commands, run as they stand, in a folder in place of the machine's root."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path

import pytest
import yaml

from llmproxy.config.model import Server
from tests.daemon import ROOT, Daemon, free_port
from tests.end_to_end.packages import copy_sources, only_from
from tests.end_to_end.rooted import Rooted
from tests.end_to_end.test_readme import shell_commands
from tests.end_to_end.test_units import SERVICE, SOCKET, WORKERS, value
from tests.gateway.raw_client import chat_body

DOCUMENT = (ROOT / "docs" / "install.md").read_text()


def commands(heading: str) -> Sequence[str]:
    """Give the commands below a heading."""
    (section,) = re.findall(rf"^## {heading}[^\n]*\n(.*?)(?=^## |\Z)", DOCUMENT, re.M | re.S)
    found = [command for command in shell_commands(section) if command.strip()]
    assert found
    return found


def do(heading: str, machine: Rooted, sources: Path) -> None:
    """Run the commands below a heading, but for those to systemd, which does not run here."""
    for command in commands(heading):
        if not command.startswith("systemctl "):
            machine.run(command, sources)


def answer(daemon: Daemon, key: str) -> int:
    """Ask the demo for a completion; give the status."""
    connection = HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    fields = {"Authorization": f"Bearer {key}"}
    connection.request("POST", "/v1/chat/completions", chat_body(model="demo"), fields)
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.slow
def test_on_a_machine(wheelhouse: Path, tmp_path: Path) -> None:
    """Installed, run as the unit runs it, upgraded and run again."""
    sources = copy_sources(tmp_path)
    machine = Rooted(tmp_path / "root", dict(only_from(wheelhouse)))
    units = machine.place("/etc/systemd/system")
    units.mkdir(parents=True)
    do("On a machine", machine, sources)
    for unit in (SERVICE, SOCKET, WORKERS):
        assert (units / unit.relative_to(SERVICE.parent)).read_text() == unit.read_text()
    secrets = machine.place("/etc/llmproxy/credentials")
    assert secrets.stat().st_mode & 0o777 == 0o700
    (token,) = secrets.iterdir()
    assert token.stat().st_mode & 0o777 == 0o600
    program = machine.place(shlex.split(value(SERVICE, "ExecStart"))[0])
    shipped = machine.place(shlex.split(value(SERVICE, "ExecStart"))[-1]).read_text()
    (tmp_path / "var").mkdir()
    for _ in range(2):
        config = yaml.safe_load(shipped)
        config["server"]["listen"] = f"127.0.0.1:{free_port()}"
        config["admin"] = {"enabled": True, "listen": f"127.0.0.1:{free_port()}"}
        config["auth"]["pipeline"].append({"name": "team", "type": "builtin"})
        config["admin"]["token_file"] = machine.rewritten(documented("token_file"))
        with Daemon(tmp_path / "var", config, twistd=program) as daemon:
            daemon.wait_for_log("backend demo lists", timeout_s=30)
            assert answer(daemon, "sk-demo") == 200
        do("Upgrading", machine, sources)


def documented(key: str) -> str:
    """Give the value of a key in the document's configurations."""
    (line,) = re.findall(rf"^ *{key}: (\"[^\"]+\")$", DOCUMENT, re.MULTILINE)
    return str(yaml.safe_load(line))


def test_the_units_say_the_same() -> None:
    """What the document tells of the configuration stands in the units' comments, too."""
    assert documented("token_file") in SERVICE.read_text()
    assert documented("listen") in SOCKET.read_text()
    (workers,) = re.findall(r"`(workers: [^`]+)`", DOCUMENT)
    assert workers in WORKERS.read_text()


def test_files_that_are_named_exist() -> None:
    """Those of docker's and kubectl's commands."""
    named = [
        word
        for heading in ("In a container", "On Kubernetes")
        for command in commands(heading)
        for word in shlex.split(command)
        if "/" in word
    ]
    assert named
    for file in named:
        assert (ROOT / file).is_file(), file


def test_docker_waits_for_the_drain() -> None:
    """By the time that stands in the command, and in the Dockerfile's."""
    for text in (DOCUMENT, (ROOT / "deploy" / "Dockerfile").read_text()):
        (seconds,) = re.findall(r"--stop-timeout (\d+)", text)
        assert int(seconds) > Server().drain_timeout


def test_the_commands_are_commands() -> None:
    """The shell reads all of them."""
    for command in shell_commands(DOCUMENT):
        subprocess.run(["sh", "-n", "-c", command], check=True, timeout=30)
