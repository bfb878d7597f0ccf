"""The container: its Dockerfile's steps done in a folder, and all that the compose file names."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmproxy.config.model import Server
from tests.daemon import BIN, ROOT, free_port
from tests.end_to_end.packages import attempt, only_from, run
from tests.end_to_end.rooted import Image, instructions, let_in
from tests.end_to_end.test_alert_rules import promtool
from tests.gateway.raw_client import chat_body
from tests.services import find_program

DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
KEY = "sk-of-the-container"


def test_the_dockerfile_is_linted() -> None:
    """Hadolint has nothing to say."""
    assert run(BIN / "hadolint", "--failure-threshold=style", DOCKERFILE, folder=ROOT) == ""


def test_it_does_not_run_as_root() -> None:
    """By numbers, which Kubernetes can tell from root's; and what it writes to is its own."""
    steps = list(instructions(DOCKERFILE))
    (user,) = [rest for name, rest in steps if name == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert ("COPY", f"--from=build --chown={user} /var/lib/llmproxy /var/lib/llmproxy") in steps
    assert ("VOLUME", '["/var/lib/llmproxy"]') in steps


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("llmproxy/tap.py", True),
        ("twisted/plugins/llmproxy_plugin.py", True),
        ("deploy/llmproxy.yaml", True),
        ("llmproxy/wire/__pycache__/sse.cpython-311.pyc", False),
        ("twisted/plugins/dropin.cache", False),
        ("tests/daemon.py", False),
        (".git/config", False),
        ("etc/llmproxy.yaml", False),
        ("data/llmproxy.db", False),
    ],
)
def test_what_is_sent_to_the_builder(path: str, inside: bool) -> None:
    """What the steps copy, and nothing else: above all no secrets, no data."""
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text()
    assert let_in(Path(path), ignore) is inside


@pytest.fixture(scope="module")
def image(sources: Path, wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image: the same steps, with the packages that were downloaded before."""
    place = tmp_path_factory.mktemp("image")
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text()
    context = place / "context"
    for file in sources.rglob("*"):
        path = file.relative_to(sources)
        if file.is_file() and let_in(path, ignore):
            (context / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, context / path)
    return Image.build(DOCKERFILE, context, place, dict(only_from(wheelhouse)))


@contextlib.contextmanager
def started(image: Image, output: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run it as Docker does, and end it as Docker does."""
    with output.open("wb") as log:
        process = subprocess.Popen(
            image.command,
            # Docker looks for the program in the image's PATH.
            executable=shutil.which(image.command[0], path=image.machine.environ["PATH"]),
            cwd=image.machine.place(image.folder),
            env={**image.machine.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.slow
def test_the_image_runs(image: Image, tmp_path: Path) -> None:
    """It becomes healthy, answers, keeps its data on the volume, and ends well when told to."""
    port, output = free_port(), tmp_path / "output"
    volume = image.machine.place("/var/lib/llmproxy")
    assert list(volume.iterdir()) == []
    environ = {"LLMPROXY_API_KEY": KEY, "LLMPROXY_PORT": str(port)}
    healthy = (shutil.which(image.check[0], path=image.machine.environ["PATH"]), *image.check[1:])
    steps = {**image.machine.environ, **environ}
    assert attempt(*healthy, folder=volume, **steps).returncode != 0
    with started(image, output, **environ) as process:
        end = time.monotonic() + 60
        while attempt(*healthy, folder=volume, **steps).returncode != 0:
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < end, output.read_text()
        for path, body in (("/health", None), ("/v1/chat/completions", chat_body(model="demo"))):
            connection = HTTPConnection("127.0.0.1", port, timeout=30)
            method = "POST" if body else "GET"
            connection.request(method, path, body, {"Authorization": f"Bearer {KEY}"})
            answer = connection.getresponse()
            assert answer.status == 200
            assert json.loads(answer.read())
            connection.close()
    assert process.returncode == 0, output.read_text()
    assert {path.name for path in volume.iterdir()} == {"data"}
    assert '"POST /v1/chat/completions HTTP/1.1" 200' in output.read_text()


@pytest.mark.slow
def test_the_image_wants_a_key(image: Image, tmp_path: Path) -> None:
    """Nobody runs it with a key that everybody knows, for there is none."""
    with started(image, tmp_path / "output", LLMPROXY_PORT=str(free_port())) as process:
        assert process.wait(60) == 1
    assert "${LLMPROXY_API_KEY} is not set" in (tmp_path / "output").read_text()
    assert image.port == int(Server().listen[0].removeprefix(":"))


def test_the_compose_file_is_one() -> None:
    """By the schema of such files."""
    run(
        BIN / "check-jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        DEPLOY / "compose.yaml",
        folder=ROOT,
    )


def mounts(service: str) -> dict[str, Path]:
    """Give the files of this repository that a service sees, by where it sees them."""
    found = {}
    for volume in SERVICES[service]["volumes"]:
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            found[target] = (DEPLOY / source).resolve()
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_what_compose_names_exists(service: str) -> None:
    """Files that are mounted, read-only; volumes; other services."""
    settings = SERVICES[service]
    assert mounts(service)
    for file in mounts(service).values():
        assert file.is_file()
        assert file.is_relative_to(ROOT)
    for volume in settings["volumes"]:
        source = volume.split(":")[0]
        assert volume.endswith(":ro") if source.startswith(".") else source in COMPOSE["volumes"]
    assert set(settings.get("depends_on", ())) <= set(SERVICES)


def test_compose_builds_and_runs_the_image() -> None:
    """From this Dockerfile; with the files, the port and the time that the image needs."""
    gateway = SERVICES["llmproxy"]
    assert (DEPLOY / gateway["build"]["context"]).resolve() == ROOT
    assert ROOT / gateway["build"]["dockerfile"] == DOCKERFILE
    (minutes,) = re.findall(r"^(\d+)m$", gateway["stop_grace_period"])
    assert int(minutes) * 60 > Server().drain_timeout
    named = {source.split(":")[0]: source.split(":")[1] for source in gateway["volumes"]}
    assert named["state"] == "/var/lib/llmproxy"
    assert gateway["ulimits"]["nofile"] > 2 * Server().max_connections
    variables = re.findall(r"\$\{(\w+)", (DEPLOY / "llmproxy.yaml").read_text())
    assert set(gateway["environment"]) <= set(variables)


@pytest.mark.skipif(
    not find_program("promtool"), reason="promtool is not installed (Debian: prometheus)"
)
def test_prometheus_is_content(tmp_path: Path) -> None:
    """With its files where compose mounts them; and it scrapes the gateway under its name."""
    for target, file in mounts("prometheus").items():
        place = tmp_path / target.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, place)
    config = tmp_path / "etc" / "prometheus" / "prometheus.yml"
    assert "1 rule files found" in promtool("check", "config", str(config))
    (job,) = yaml.safe_load(config.read_text())["scrape_configs"]
    assert job["job_name"] == "llmproxy"
    assert job["static_configs"] == [{"targets": ["llmproxy:8000"]}]


def test_grafana_finds_its_source_and_the_dashboard() -> None:
    """By the name and the port of Prometheus's service, and where the file is mounted."""
    provisioned = {
        target: yaml.safe_load(file.read_text())
        for target, file in mounts("grafana").items()
        if "/provisioning/" in target
    }
    folder = "/etc/grafana/provisioning"
    (source,) = provisioned[f"{folder}/datasources/llmproxy.yaml"]["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert source["url"] == "http://prometheus:9090"
    assert SERVICES["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    (provider,) = provisioned[f"{folder}/dashboards/llmproxy.yaml"]["providers"]
    assert provider["type"] == "file"
    dashboard = f"{provider['options']['path']}/llmproxy.json"
    assert mounts("grafana")[dashboard] == ROOT / "etc" / "grafana" / "llmproxy.json"


def test_nothing_but_the_gateway_is_open() -> None:
    """Prometheus asks nobody who they are, and Grafana has a password that everybody knows."""
    for name, settings in SERVICES.items():
        for port in settings["ports"]:
            assert port.startswith("127.0.0.1:") is (name != "llmproxy")
