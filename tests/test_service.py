"""Tests of `llmproxy.service`: the parts list on a reactor in memory, nothing started but in it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import attrs
import pytest
from twisted.application.service import Application, IServiceCollection
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, LogLevel, capturedLogs, formatEvent

from llmproxy.backends.demo.server import DemoServer
from llmproxy.config.load import LoadedConfig, load_config, load_file, parse_config
from llmproxy.config.model import BackendTls, Config
from llmproxy.errors import ConfigError
from llmproxy.service import Gateway
from llmproxy.upstream.names import RememberingResolver

DIGEST = "0123456789ab"
ETC = Path(__file__).resolve().parent.parent / "etc"
MINIMAL = 'backends: [{name: a, url: "http://127.0.0.1:1"}]\nauth: {enabled: false}\n'


class CannotStart(Exception):
    """What the gateway said as it could not start."""


def cannot_start(message: str) -> NoReturn:
    """Raise what twistd would exit with."""
    raise CannotStart(message)


def configured(text: str) -> Config:
    """Make a configuration of a text."""
    return parse_config(
        text, {}, read_file=lambda path: Path(path).read_text(), is_directory=os.path.isdir
    )


@pytest.fixture
def reactor() -> MemoryReactorClock:
    """A reactor in memory."""
    return MemoryReactorClock()


@pytest.fixture
def made(reactor: MemoryReactorClock) -> Iterator[list[Gateway]]:
    """What a test has made; the demo's socket, taken before the start, is given back."""
    gateways: list[Gateway] = []
    yield gateways
    for gateway in gateways:
        for service in gateway.fleet:
            if isinstance(service, DemoServer):
                service.stopService()


def part_names(gateway: Gateway) -> list[str]:
    """Name the services of a gateway in their order."""
    return [type(service).__name__ for service in (*gateway.fleet, *gateway)]


PARTS = ["Fleet", "Observation", "Front"]


def test_names_are_looked_up_beside_everything_else(
    reactor: MemoryReactorClock, made: list[Gateway]
) -> None:
    """Whoever connects by one; what the threads of the reactor do does not wait for that."""
    made.append(Gateway(configured(MINIMAL), reactor, cannot_start, DIGEST))
    assert isinstance(reactor.nameResolver, RememberingResolver)


def test_the_shipped_file(reactor: MemoryReactorClock, made: list[Gateway]) -> None:
    """All parts, in the order in which they start; nothing listens yet but the demo's port."""
    gateway = Gateway(load_config(str(ETC / "llmproxy.yaml"), {}), reactor, cannot_start, DIGEST)
    made.append(gateway)
    assert part_names(gateway) == ["DemoServer", "ModelLists", "HealthChecker", *PARTS]
    assert reactor.tcpServers == []
    assert reactor.getDelayedCalls() == []
    assert [one.name for one in gateway.directory.statuses()] == ["demo"]
    assert not gateway.lifecycle.is_leaving()


def test_the_reference_file(
    reactor: MemoryReactorClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key at once."""
    monkeypatch.chdir(tmp_path)  # the spool is made there
    config = load_config(str(ETC / "llmproxy.reference.yaml"), {})
    reporters = tuple(one for one in config.usage.reporters if one.type in ("webhook", "log"))
    config = attrs.evolve(config, usage=attrs.evolve(config.usage, reporters=reporters))
    gateway = Gateway(config, reactor, cannot_start, DIGEST)
    assert part_names(gateway) == [
        "ModelLists",
        "HealthChecker",
        "Fleet",
        "Metering",
        "Observation",
        "Front",
    ]
    assert os.listdir("data/spool/0")
    assert [one.name for one in gateway.directory.statuses()] == ["vllm-1"]


@pytest.mark.parametrize(
    "usage", ["{}", "{enabled: false, reporters: [{name: l, type: log}]}", "{reporters: []}"]
)
def test_usage_that_nobody_receives(
    reactor: MemoryReactorClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usage: str
) -> None:
    """There is no spool, and no directory of it."""
    monkeypatch.chdir(tmp_path)
    gateway = Gateway(configured(MINIMAL + f"usage: {usage}\n"), reactor, cannot_start, DIGEST)
    assert gateway.metering is None
    assert "Metering" not in part_names(gateway)
    assert os.listdir() == []


def test_usage_that_somebody_receives(
    reactor: MemoryReactorClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every exchange is reported to the spool."""
    monkeypatch.chdir(tmp_path)
    config = configured(MINIMAL + "usage: {reporters: [{name: l, type: log}]}\n")
    gateway = Gateway(config, reactor, cannot_start, DIGEST)
    assert gateway.metering is not None
    assert gateway.metering.spool in gateway.front.data_path.reporters


def test_checks_can_be_left_out(reactor: MemoryReactorClock) -> None:
    """Without ``health_check`` there is no part for it."""
    config = configured(MINIMAL + "health_check: {enabled: false}\n")
    assert part_names(Gateway(config, reactor, cannot_start, DIGEST)) == ["ModelLists", *PARTS]


def test_two_demo_backends_are_one_server(reactor: MemoryReactorClock, made: list[Gateway]) -> None:
    """There is one model stand-in, however often it is named."""
    text = MINIMAL.replace('{name: a, url: "http://127.0.0.1:1"}', "{name: a, url: 'demo:'}, X")
    gateway = Gateway(
        configured(text.replace("X", "{name: b, url: 'demo:'}")), reactor, cannot_start, DIGEST
    )
    made.append(gateway)
    assert part_names(gateway).count("DemoServer") == 1
    assert [one.name for one in gateway.directory.statuses()] == ["a", "b"]


def test_it_listens_and_ends(reactor: MemoryReactorClock) -> None:
    """As twistd does it: privileged start, start, stop; afterwards no timer is left."""
    config = configured(MINIMAL + 'server: {listen: ["127.0.0.1:8124", ":8125"], drain_delay: 0}\n')
    gateway = Gateway(config, reactor, cannot_start, DIGEST)
    gateway.privilegedStartService()
    assert [server[0] for server in reactor.tcpServers] == [8124, 8125]
    gateway.startService()
    reactor.advance(0.1)
    assert reactor.getDelayedCalls()
    stopped: list[Any] = []
    gateway.stopService().addBoth(stopped.append)
    assert gateway.lifecycle.is_leaving()
    reactor.pump([0.1] * 20)
    assert gateway.lifecycle.is_draining()
    assert stopped == [None]
    assert reactor.getDelayedCalls() == []


def test_an_address_that_cannot_be_had(
    reactor: MemoryReactorClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told in one line, through the way that twistd's process ends by."""

    def listenTCP(*arguments: Any, **more: Any) -> Any:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(reactor, "listenTCP", listenTCP)
    gateway = Gateway(
        configured(MINIMAL + "server: {listen: ':80'}\n"), reactor, cannot_start, DIGEST
    )
    with pytest.raises(CannotStart, match=r"^cannot listen on ':80': Permission denied$"):
        gateway.privilegedStartService()


def test_the_application_logs_through_it(
    reactor: MemoryReactorClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its observer replaces twistd's own; a gateway inside another service leaves logging alone."""
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    config = configured(MINIMAL + "log: {level: warning, format: json}\n")
    gateway = Gateway(config, reactor, cannot_start, DIGEST)
    application = Application("test")
    gateway.setServiceParent(application)
    assert list(IServiceCollection(application)) == [gateway]
    observer = ILogObserver(application)
    for level, text in ((LogLevel.info, "not this"), (LogLevel.warn, "but this")):
        event = {"log_level": level, "log_format": text, "log_namespace": "n", "log_time": 0.0}
        observer(event)
    assert json.loads(out.getvalue()) == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "warn",
        "source": "n",
        "message": "but this",
    }


@pytest.mark.parametrize(("listen", "lines"), [(":8000", 1), ("127.0.0.1:8000", 0)])
def test_the_key_of_the_sample(
    reactor: MemoryReactorClock, made: list[Gateway], listen: str, lines: int
) -> None:
    """Where it opens the gateway to other machines, the log says so at the start."""
    keys = "[{name: s, type: static, static: {keys: [{key: sk-demo}]}}]"
    config = configured(
        f"backends: [{{name: a, url: 'http://127.0.0.1:1'}}]\n"
        f"auth: {{pipeline: {keys}}}\nserver: {{listen: '{listen}'}}\n"
    )
    made.append(Gateway(config, reactor, cannot_start, DIGEST))
    with capturedLogs() as events:
        made[0].privilegedStartService()
    told = [formatEvent(event) for event in events]
    assert sum("the key sk-demo, which everybody knows" in line for line in told) == lines


def test_logs_go_where_the_file_says_and_hold_no_secret(
    reactor: MemoryReactorClock, tmp_path: Path
) -> None:
    """Both logs share a file, which can be moved away; the backend's key is not in it."""
    path = tmp_path / "x.log"
    config = configured(
        MINIMAL.replace("}]", ", api_key: canary-key}]")
        + f"log: {{output: file, file: {{path: {path}}}}}\n"
        + f"logging: {{access: {{output: file, path: {path}}}}}\n"
    )
    gateway = Gateway(config, reactor, cannot_start, DIGEST)
    application = Application("test")
    gateway.setServiceParent(application)
    observer = ILogObserver(application)
    event = {"log_level": LogLevel.info, "log_format": "said canary-key", "log_namespace": "n"}
    observer(event)
    moved = path.rename(tmp_path / "x.old")
    gateway.logbooks.adopt(gateway.logbooks.prepare(config))
    observer(event)
    for file in (path, moved):
        assert file.read_text() == "1970-01-01T00:00:00.000Z info     n: said (hidden)\n"


def test_its_state_can_be_read_without_secrets(reactor: MemoryReactorClock) -> None:
    """``repr`` tells how it is, and no key."""
    config = configured(MINIMAL.replace("}]", ", api_key: canary-key}]"))
    gateway = Gateway(config, reactor, cannot_start, DIGEST)
    gateway.privilegedStartService()
    shown = repr(gateway)
    assert "8000" in shown
    assert "draining=False" in shown
    assert "canary" not in shown


@pytest.mark.parametrize(
    ("text", "blamed"),
    [
        (
            'backends: [{name: a, url: "https://a.test", tls: {ca_file: FILE}}]',
            "backends[0].tls",
        ),
        (
            'backends: [{name: a, url: "https://a.test", tls: {cert_file: FILE}}]',
            "backends[0].tls",
        ),
        (
            MINIMAL + "server: {tls: {enabled: true, cert_file: FILE, key_file: FILE}}",
            "server.tls",
        ),
        (MINIMAL + "logging: {access: {output: file, path: /dev/full/x}}", "logging.access.path"),
        (MINIMAL + "log: {output: file, file: {path: /dev/full/x}}", "log.file.path"),
        (MINIMAL + "usage: {spool_dir: /dev/full/x, reporters: [{name: l, type: log}]}", "usage"),
    ],
)
def test_files_that_cannot_be_used(
    reactor: MemoryReactorClock, tmp_path: Path, text: str, blamed: str
) -> None:
    """What only opening a file shows is a problem of the configuration, too."""
    no_certificate = tmp_path / "text.pem"
    no_certificate.write_text("no certificate")
    text = text.replace("FILE", str(no_certificate))
    if "auth" not in text:
        text += "\nauth: {enabled: false}"
    with pytest.raises(ConfigError) as caught:
        Gateway(
            parse_config(
                text, {}, read_file=lambda path: Path(path).read_text(), is_directory=lambda _: True
            ),
            reactor,
            cannot_start,
            DIGEST,
        )
    (problem,) = caught.value.problems
    assert problem.path == blamed


# another configuration


def written(folder: Path, text: str) -> LoadedConfig:
    """Load a configuration file of this text."""
    file = folder / "x.yaml"
    file.write_text(text)
    return load_file(str(file), {})


@pytest.fixture
def running(reactor: MemoryReactorClock) -> Iterator[Gateway]:
    """A gateway that serves; nothing is left of it in the end."""
    gateway = Gateway(configured(MINIMAL), reactor, cannot_start, DIGEST)
    gateway.privilegedStartService()
    gateway.startService()
    yield gateway
    gateway.stopService()
    reactor.pump([0.1] * 60)
    assert reactor.getDelayedCalls() == []


def test_everything_may_change(
    running: Gateway, reactor: MemoryReactorClock, tmp_path: Path
) -> None:
    """In one turn; what lives on is the same as before."""
    site, directory, data_path = running.front.site, running.directory, running.front.data_path
    root = site.resource
    loaded = written(
        tmp_path,
        """
backends: [{name: b, url: "http://127.0.0.1:2"}]
server: {listen: ["127.0.0.1:8124"], max_inflight_bytes: 100MiB, drain_delay: 3s, drain_timeout: 4s}
auth: {storage: file}
api_keys: [{key: sk-123456}]
rate_limit: {per_key: {max_concurrent: 1}}
logging: {access: {enabled: false}}
""",
    )
    assert running.replace(loaded) == loaded.digest
    assert running.config is loaded.config
    assert (running.front.site, running.directory) == (site, directory)
    assert site.resource is not root
    assert running.front.data_path is not data_path
    assert running.front.data_path.running is data_path.running
    assert running.front.data_path.admission.budget is data_path.admission.budget
    assert running.front.data_path.admission.limiter is data_path.admission.limiter
    assert running.front.data_path.admission.authenticator is not data_path.admission.authenticator
    assert running.front.data_path.rules.pseudonym == data_path.rules.pseudonym
    assert running.front.data_path.admission.budget.limit_bytes == 100 * 2**20  # type: ignore[attr-defined]
    assert (running.lifecycle.drain_delay_s, running.lifecycle.drain_timeout_s) == (3, 4)
    assert [one.name for one in directory.statuses()] == ["b"]
    assert [server[0] for server in reactor.tcpServers] == [8000, 8124]
    running.lifecycle.hurry()


def test_nothing_changes_when_anything_cannot_be_had(
    running: Gateway,
    reactor: MemoryReactorClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every problem is told, with its line, whatever part of the daemon has it."""
    (tmp_path / "bad.pem").write_text("no certificate")

    def listenTCP(port: int, *arguments: Any, **more: Any) -> Any:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(reactor, "listenTCP", listenTCP)
    before = (
        running.config,
        running.front.site.resource,
        running.front.data_path,
        running.fleet.backends,
    )
    loaded = written(
        tmp_path,
        f"""
backends:
  - name: b
    url: "http://127.0.0.1:2"
server:
  listen: ":8124"
auth: {{enabled: false}}
logging:
  access: {{output: file, path: {tmp_path}/{"x" * 300}}}
""",
    )
    with pytest.raises(ConfigError) as caught:
        running.replace(loaded)
    assert [(one.line, one.path) for one in caught.value.problems] == [
        (9, "logging.access.path"),
        (6, "server.listen"),
    ]
    bad = attrs.evolve(loaded.config.backends[0], url="https://b", tls=BackendTls(ca_file="none"))
    with pytest.raises(ConfigError) as caught:
        running.replace(attrs.evolve(loaded, config=attrs.evolve(loaded.config, backends=(bad,))))
    assert [(one.line, one.path) for one in caught.value.problems] == [
        (9, "logging.access.path"),
        (3, "backends[0].tls"),
    ]
    after = (
        running.config,
        running.front.site.resource,
        running.front.data_path,
        running.fleet.backends,
    )
    assert after == before
    running.lifecycle.hurry()
