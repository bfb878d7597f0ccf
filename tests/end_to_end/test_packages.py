"""The packages: what is in them, and that an installation needs nothing else."""

from __future__ import annotations

import json
import sys
import tarfile
import venv
import zipfile
from http.client import HTTPConnection
from pathlib import Path

import pytest
import yaml

from tests.daemon import Daemon, free_port
from tests.end_to_end.packages import build_wheel, only_from, run
from tests.gateway.raw_client import chat_body

WITH_THE_SDIST = ("deploy", "docs", "etc", "systemd")
"""Folders for those who install it."""


@pytest.fixture(scope="module")
def sdist(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist, made by the build backend that pyproject.toml names."""
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "-o", out, sources, folder=out)
    (made,) = out.glob("*.tar.gz")
    return made


def contents(wheel: Path) -> dict[str, bytes]:
    """Give what is in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_sdist_holds_what_an_installation_needs(sdist: Path, sources: Path) -> None:
    """All examples, units and documents; no tests, for they need more than could be packed."""
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    wanted = {
        str(path.relative_to(sources))
        for folder in WITH_THE_SDIST
        for path in (sources / folder).rglob("*")
        if path.is_file()
    }
    assert len(wanted) > 20
    assert wanted <= files
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"} <= files
    assert not {name for name in files if name.startswith(("tests/", "benchmarks/"))}


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    """Byte for byte: nothing of the package was left out of the sdist."""
    assert contents(build_wheel(sdist, tmp_path)) == contents(wheel)


def test_the_metadata(wheel: Path) -> None:
    """What an index of packages shows."""
    (name,) = [name for name in contents(wheel) if name.endswith("/METADATA")]
    fields, _, description = contents(wheel)[name].decode().partition("\n\n")
    for field in (
        "Name: llmproxy",
        "License-Expression: MIT",
        "Requires-Python: >=3.11",
        "Description-Content-Type: text/markdown",
        "Classifier: Framework :: Twisted",
    ):
        assert field in fields.splitlines()
    assert description.startswith("# LLMProxy\n")


@pytest.mark.slow
def test_in_an_empty_environment(
    wheel: Path, wheelhouse: Path, sources: Path, tmp_path: Path
) -> None:
    """The wheel brings all that it needs, and runs the configuration that comes with it."""
    venv.create(tmp_path / "venv", symlinks=True, with_pip=True)
    bin_folder = tmp_path / "venv" / "bin"
    pip = (bin_folder / "pip", "install", "-q", wheel)
    run(*pip, folder=tmp_path, **only_from(wheelhouse))
    assert "No broken requirements" in run(bin_folder / "pip", "check", folder=tmp_path)
    config = yaml.safe_load((sources / "etc" / "llmproxy.yaml").read_text())
    config["server"]["listen"] = f"127.0.0.1:{free_port()}"
    said = run(bin_folder / "llmproxy", "--version", folder=tmp_path)
    assert wheel.name.split("-")[1] in said
    environ = {"LLMPROXY_API_KEY": "sk-of-the-environment"}
    with Daemon(tmp_path, config, environ, twistd=bin_folder / "twistd") as daemon:
        daemon.wait_for_log("backend demo lists", timeout_s=30)
        connection = HTTPConnection("127.0.0.1", daemon.port, timeout=30)
        fields = {"Authorization": "Bearer sk-of-the-environment"}
        connection.request("POST", "/v1/chat/completions", chat_body(model="demo"), fields)
        answer = connection.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())["choices"][0]["finish_reason"] == "stop"
        connection.close()
