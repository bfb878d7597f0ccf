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
from twisted.internet.address import IPv4Address
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, LogLevel

from llmproxy.backends.demo.server import DemoServer
from llmproxy.config.load import load_config, parse_config
from llmproxy.config.model import Config
from llmproxy.errors import ConfigError
from llmproxy.proxy_protocol import ProxyProtocolFactory
from llmproxy.service import Gateway
from llmproxy.tls.transport import EdgeTlsFactory
from tests.upstream.certificates import Authority

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
        for service in gateway:
            if isinstance(service, DemoServer):
                service.stopService()


def part_names(gateway: Gateway) -> list[str]:
    """Name the services of a gateway in their order."""
    return [type(service).__name__ for service in gateway]


def test_the_shipped_file(reactor: MemoryReactorClock, made: list[Gateway]) -> None:
    """All parts, in the order in which they start; nothing listens yet but the demo's port."""
    gateway = Gateway(load_config(str(ETC / "llmproxy.yaml"), {}), reactor, cannot_start)
    made.append(gateway)
    assert part_names(gateway) == [
        "DemoServer",
        "ModelLists",
        "HealthChecker",
        "Observation",
        "Listeners",
    ]
    assert reactor.tcpServers == []
    assert reactor.getDelayedCalls() == []
    assert [one.name for one in gateway.directory.statuses()] == ["demo"]
    assert not gateway.lifecycle.is_draining()


def test_the_reference_file(
    reactor: MemoryReactorClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key at once."""
    monkeypatch.chdir(tmp_path)  # the spool is made there
    config = load_config(str(ETC / "llmproxy.reference.yaml"), {})
    reporters = tuple(one for one in config.usage.reporters if one.type in ("webhook", "log"))
    config = attrs.evolve(config, usage=attrs.evolve(config.usage, reporters=reporters))
    gateway = Gateway(config, reactor, cannot_start)
    assert part_names(gateway) == [
        "ModelLists",
        "HealthChecker",
        "Metering",
        "Observation",
        "Listeners",
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
    gateway = Gateway(configured(MINIMAL + f"usage: {usage}\n"), reactor, cannot_start)
    assert gateway.metering is None
    assert "Metering" not in part_names(gateway)
    assert os.listdir() == []


def test_usage_that_somebody_receives(
    reactor: MemoryReactorClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every exchange is reported to the spool."""
    monkeypatch.chdir(tmp_path)
    config = configured(MINIMAL + "usage: {reporters: [{name: l, type: log}]}\n")
    gateway = Gateway(config, reactor, cannot_start)
    assert gateway.metering is not None
    assert gateway.metering.spool in gateway.data_path.reporters


def test_checks_can_be_left_out(reactor: MemoryReactorClock) -> None:
    """Without ``health_check`` there is no part for it."""
    config = configured(MINIMAL + "health_check: {enabled: false}\n")
    assert part_names(Gateway(config, reactor, cannot_start)) == [
        "ModelLists",
        "Observation",
        "Listeners",
    ]


def test_two_demo_backends_are_one_server(reactor: MemoryReactorClock, made: list[Gateway]) -> None:
    """There is one model stand-in, however often it is named."""
    text = MINIMAL.replace('{name: a, url: "http://127.0.0.1:1"}', "{name: a, url: 'demo:'}, X")
    gateway = Gateway(
        configured(text.replace("X", "{name: b, url: 'demo:'}")), reactor, cannot_start
    )
    made.append(gateway)
    assert part_names(gateway).count("DemoServer") == 1
    assert [one.name for one in gateway.directory.statuses()] == ["a", "b"]


def test_it_listens_and_ends(reactor: MemoryReactorClock) -> None:
    """As twistd does it: privileged start, start, stop; afterwards no timer is left."""
    config = configured(MINIMAL + 'server: {listen: ["127.0.0.1:8124", ":8125"]}\n')
    gateway = Gateway(config, reactor, cannot_start)
    gateway.privilegedStartService()
    assert [server[0] for server in reactor.tcpServers] == [8124, 8125]
    gateway.startService()
    reactor.advance(0.1)
    assert reactor.getDelayedCalls()
    stopped: list[Any] = []
    gateway.stopService().addBoth(stopped.append)
    assert gateway.lifecycle.is_draining()
    reactor.pump([0.1] * 20)
    assert stopped == [None]
    assert reactor.getDelayedCalls() == []


def test_an_address_that_cannot_be_had(
    reactor: MemoryReactorClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told in one line, through the way that twistd's process ends by."""

    def listenTCP(*arguments: Any, **more: Any) -> Any:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(reactor, "listenTCP", listenTCP)
    gateway = Gateway(configured(MINIMAL + "server: {listen: ':80'}\n"), reactor, cannot_start)
    with pytest.raises(CannotStart, match=r"^cannot listen on ':80': Permission denied$"):
        gateway.privilegedStartService()


def test_the_application_logs_through_it(
    reactor: MemoryReactorClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its observer replaces twistd's own; a gateway inside another service leaves logging alone."""
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    config = configured(MINIMAL + "log: {level: warning, format: json}\n")
    gateway = Gateway(config, reactor, cannot_start)
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
    gateway = Gateway(config, reactor, cannot_start)
    application = Application("test")
    gateway.setServiceParent(application)
    observer = ILogObserver(application)
    event = {"log_level": LogLevel.info, "log_format": "said canary-key", "log_namespace": "n"}
    observer(event)
    moved = path.rename(tmp_path / "x.old")
    gateway.logs.reopen()
    observer(event)
    for file in (path, moved):
        assert file.read_text() == "1970-01-01T00:00:00.000Z info     n: said (hidden)\n"


def test_its_state_can_be_read_without_secrets(reactor: MemoryReactorClock) -> None:
    """``repr`` tells how it is, and no key."""
    config = configured(MINIMAL.replace("}]", ", api_key: canary-key}]"))
    gateway = Gateway(config, reactor, cannot_start)
    gateway.privilegedStartService()
    shown = repr(gateway)
    assert "8000" in shown
    assert "draining=False" in shown
    assert "canary" not in shown


def test_tls_on_the_listeners(reactor: MemoryReactorClock, tmp_path: Path) -> None:
    """It stands between the ports and the site, and has the time of a head for its handshake."""
    cert_file, key_file = Authority(tmp_path, "authority").issue("gateway.test")
    files = f"cert_file: {cert_file}, key_file: {key_file}"
    config = configured(
        MINIMAL + f"server: {{header_timeout: 7s, tls: {{enabled: true, {files}}}}}\n"
    )
    gateway = Gateway(config, reactor, cannot_start)
    gateway.privilegedStartService()
    (listening,) = reactor.tcpServers
    factory = listening[1]
    assert isinstance(factory, EdgeTlsFactory)
    assert factory.wrappedFactory is gateway.site
    assert factory.handshake_timeout_s == 7
    assert gateway.certificates is not None
    assert [one.cert_file for one in gateway.certificates.certificates] == [cert_file]
    assert "Certificates" in part_names(gateway)


def test_the_proxy_protocol(reactor: MemoryReactorClock) -> None:
    """It stands right above the ports, and has the time of a head for its header."""
    config = configured(MINIMAL + "server: {header_timeout: 7s, proxy_protocol: true}\n")
    gateway = Gateway(config, reactor, cannot_start)
    gateway.privilegedStartService()
    (listening,) = reactor.tcpServers
    factory = listening[1]
    assert isinstance(factory, ProxyProtocolFactory)
    assert factory.wrappedFactory is gateway.site
    assert factory.header_timeout_s == 7
    assert factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 1)) is not None
    trusting = configured(
        MINIMAL + "server: {proxy_protocol: true, trusted_proxies: ['10.0.0.0/8'], listen: ':1'}\n"
    )
    Gateway(trusting, reactor, cannot_start).privilegedStartService()
    factory = reactor.tcpServers[-1][1]
    assert factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 1)) is None
    assert factory.buildProtocol(IPv4Address("TCP", "10.0.0.7", 1)) is not None


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
        )
    (problem,) = caught.value.problems
    assert problem.path == blamed
