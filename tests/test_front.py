"""Tests of `llmproxy.front`: what is met, made over a whole daemon on a reactor in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.testing import MemoryReactorClock

from llmproxy.errors import ConfigError
from llmproxy.front import Front, blaming
from llmproxy.proxy_protocol import ProxyProtocolFactory
from llmproxy.service import Gateway
from llmproxy.tls.transport import EdgeTlsFactory
from tests.test_service import DIGEST, MINIMAL, cannot_start, configured, written
from tests.upstream.certificates import Authority

PEER = IPv4Address("TCP", "192.0.2.7", 1)


@pytest.fixture
def reactor() -> MemoryReactorClock:
    """A reactor in memory."""
    return MemoryReactorClock()


def served(text: str, reactor: MemoryReactorClock) -> tuple[Gateway, Front]:
    """Make a daemon that listens, and give what is met of it."""
    gateway = Gateway(configured(text), reactor, cannot_start, DIGEST)
    gateway.privilegedStartService()
    return gateway, gateway.front


def test_tls_on_the_listeners(reactor: MemoryReactorClock, tmp_path: Path) -> None:
    """It stands between the ports and the site, and has the time of a head for its handshake."""
    cert_file, key_file = Authority(tmp_path, "authority").issue("gateway.test")
    files = f"cert_file: {cert_file}, key_file: {key_file}"
    text = MINIMAL + f"server: {{header_timeout: 7s, tls: {{enabled: true, {files}}}}}\n"
    _, front = served(text, reactor)
    (listening,) = reactor.tcpServers
    factory = front.listeners.factory
    made: Any = listening[1].buildProtocol(PEER)
    assert made.factory is factory
    assert isinstance(factory, EdgeTlsFactory)
    assert factory.wrappedFactory is front.site
    assert factory.handshake_timeout_s == 7
    assert front.certificates is not None
    assert [one.cert_file for one in front.certificates.certificates] == [cert_file]
    assert front.certificates in list(front)


def test_the_proxy_protocol(reactor: MemoryReactorClock) -> None:
    """It stands right above the ports, and has the time of a head for its header."""
    text = MINIMAL + "server: {header_timeout: 7s, proxy_protocol: true}\n"
    _, front = served(text, reactor)
    (listening,) = reactor.tcpServers
    factory = front.listeners.factory
    assert isinstance(factory, ProxyProtocolFactory)
    assert factory.wrappedFactory is front.site
    assert factory.header_timeout_s == 7
    assert listening[1].buildProtocol(PEER) is not None
    server = "server: {proxy_protocol: true, trusted_proxies: ['10.0.0.0/8'], listen: ':1'}\n"
    served(MINIMAL + server, reactor)
    trusting = reactor.tcpServers[-1][1]
    assert trusting.buildProtocol(PEER) is None
    assert trusting.buildProtocol(IPv4Address("TCP", "10.0.0.7", 1)) is not None


def test_tls_and_the_proxy_protocol_come_and_go(
    reactor: MemoryReactorClock, tmp_path: Path
) -> None:
    """On ports that stay open; certificates that are shown no more are looked at no more."""
    cert_file, key_file = Authority(tmp_path, "authority").issue("gateway.test")
    tls = f"tls: {{enabled: true, cert_file: {cert_file}, key_file: {key_file}}}"
    gateway, front = served(MINIMAL, reactor)
    front.startService()
    gateway.replace(written(tmp_path, MINIMAL + f"server: {{{tls}}}\n"))
    first = front.certificates
    assert first is not None
    assert first.running
    gateway.replace(written(tmp_path, MINIMAL + f"server: {{{tls}, proxy_protocol: true}}\n"))
    second = front.certificates
    assert second is not None
    assert second is not first
    assert (first.running, second.running) == (False, True)
    proxy = front.listeners.factory
    assert isinstance(proxy, ProxyProtocolFactory)
    assert isinstance(proxy.wrappedFactory, EdgeTlsFactory)
    Path(cert_file).write_text("no certificate")
    loaded = attrs.evolve(written(tmp_path, MINIMAL), config=gateway.config)
    with pytest.raises(ConfigError) as caught:
        gateway.replace(loaded)
    assert [one.path for one in caught.value.problems] == ["server.tls"]
    assert front.certificates is second
    gateway.replace(written(tmp_path, MINIMAL))
    assert front.certificates is None
    assert front.listeners.factory is front.site
    assert [server[0] for server in reactor.tcpServers] == [8000]
    front.stopService()
    assert reactor.getDelayedCalls() == []


def test_the_retry_budget_goes_on(reactor: MemoryReactorClock, tmp_path: Path) -> None:
    """What is saved up stays, of which the new share is paid in."""
    gateway, front = served(MINIMAL, reactor)
    before = front.data_path.retries
    assert before.budget.take()
    other = "routing: {retry: {max_retries: 1, budget: 50%}}\n"
    gateway.replace(written(tmp_path, MINIMAL + other))
    after = front.data_path.retries
    assert after.budget is before.budget
    assert after.budget.share == 0.5
    assert (before.backoff.max_retries, after.backoff.max_retries) == (2, 1)


def test_metrics_on_their_own_listener(reactor: MemoryReactorClock, tmp_path: Path) -> None:
    """It stays; who may read them is what the configuration in force says."""
    text = MINIMAL.replace(
        "enabled: false", "pipeline: [{name: s, type: static, static: {keys: [{key: sk-123456}]}}]"
    )
    text += "metrics: {listen: '127.0.0.1:9101'}\n"
    closed = text.replace("auth: {", "auth: {skip_paths: [/health], ")
    gateway, front = served(text, reactor)
    site = front._metrics_site
    assert site is not None
    before: Any = site.resource
    gateway.replace(written(tmp_path, closed))
    after: Any = site.resource
    assert before.children[b"metrics"]._identify != front.data_path.admission.identify
    assert after.children[b"metrics"]._identify == front.data_path.admission.identify
    assert [server[0] for server in reactor.tcpServers] == [8000, 9101]


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("bad")])
def test_who_is_blamed(error: Exception) -> None:
    """The key that names a file, for whatever is wrong with it; for nothing else."""
    with pytest.raises(ConfigError, match=str(error)) as caught, blaming("server.tls"):
        raise error
    assert caught.value.problems[0].path == "server.tls"
    with pytest.raises(ZeroDivisionError), blaming("server.tls"):
        raise ZeroDivisionError


def test_administrators_come_and_go(
    reactor: MemoryReactorClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their listener opens and closes with the configuration."""
    monkeypatch.setattr(reactor, "getThreadPool", lambda: None, raising=False)
    store = "auth: {pipeline: [{name: b, type: builtin}]}\n"
    admin = f"db_path: {tmp_path}/own.db, token: x7Qh2mPz9vK4wLr8tB"
    text = MINIMAL.replace("auth: {enabled: false}\n", store)
    off, on = (f"{text}admin: {{enabled: {word}, {admin}}}\n" for word in ("false", "true"))
    gateway, front = served(off, reactor)
    assert front.admin_site is None
    gateway.replace(written(tmp_path, on))
    assert [server[0] for server in reactor.tcpServers] == [8000, 8010]
    site = front.admin_site
    assert site is not None
    assert front.admin_listeners.factory is site
    gateway.replace(written(tmp_path, off))
    assert front.admin_listeners.ports == []
    gateway.replace(written(tmp_path, on.replace("8010", "8011")))
    assert front.admin_site is site
