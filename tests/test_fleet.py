"""Tests of `llmproxy.fleet`: backends through reloads, on a reactor in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from twisted.internet.testing import MemoryReactorClock

from llmproxy.config.load import parse_config
from llmproxy.config.model import Config
from llmproxy.errors import ConfigError
from llmproxy.fleet import Fleet
from llmproxy.values import ANONYMOUS, BackendStatus
from tests.upstream.certificates import Authority

NONE: frozenset[str] = frozenset()


def configured(backends: str, more: str = "") -> Config:
    """Make a configuration with these backends."""
    return parse_config(
        f"backends: [{backends}]\nauth: {{enabled: false}}\n{more}",
        {},
        read_file=lambda path: Path(path).read_text(),
    )


A = "{name: a, url: 'http://192.0.2.1:1', models: [m]}"
B = "{name: b, url: 'http://192.0.2.1:2', models: [m]}"


class Running:
    """A fleet that runs.

    Args:
        backends: Those of its first configuration.
    """

    def __init__(self, backends: str, more: str = "") -> None:
        self.reactor = MemoryReactorClock()
        self.fleet = Fleet(configured(backends, more), self.reactor, Random(1))
        self.fleet.startService()

    def reload(self, backends: str, more: str = "") -> None:
        """Go on with other backends."""
        self.fleet.adopt(self.fleet.prepare(configured(backends, more)))

    @property
    def parts(self) -> list[object]:
        """What asks the backends."""
        return list(self.fleet)

    def asked(self) -> set[int]:
        """Give the ports that were connected to until now, in as much time as all checks need."""
        del self.reactor.tcpClients[:]
        self.reactor.pump([0.5] * 60)
        return {client[1] for client in self.reactor.tcpClients}

    def statuses(self) -> list[BackendStatus]:
        """Give the backends' states."""
        return list(self.fleet.directory.statuses())


@pytest.fixture
def running() -> Iterator[Running]:
    """A fleet of two; nothing is left of it in the end."""
    made = Running(f"{A}, {B}")
    yield made
    made.fleet.stopService()
    made.fleet.close()
    made.reactor.advance(1)
    assert made.reactor.getDelayedCalls() == []


def test_nothing_is_touched_that_did_not_change(running: Running) -> None:
    """Neither checks nor connections, whatever else did."""
    parts, before = running.parts, running.fleet.backends
    running.reload(f"{A}, {B}", "routing: {retry: {max_retries: 7}}")
    assert running.parts == parts
    assert running.fleet.backends.clients == before.clients
    assert running.fleet.backends.strategy is before.strategy
    assert running.asked() == {1, 2}


def test_backends_come_and_go(running: Running) -> None:
    """Those that are new are checked, those that are gone are not; the state of others stays."""
    directory = running.fleet.directory
    directory.set_health("a", "down", "no answer")
    lease = directory.acquire(directory.route("m", ANONYMOUS), NONE, bytes)
    assert lease.backend.name == "b"
    running.reload(f"{A}, {{name: c, url: 'http://192.0.2.1:3', models: [m]}}")
    assert running.statuses() == [
        BackendStatus("a", "down", 0, "no answer"),
        BackendStatus("c", "up", 0, "", share_percent=10),
    ]
    lease.release()
    assert directory.acquire(directory.route("m", ANONYMOUS), NONE, bytes).backend.name == "c"
    assert running.asked() == {1, 3}


def test_connections_to_what_is_gone_close(running: Running) -> None:
    """So do those to a backend whose settings are others; the pools of the rest stay open."""
    clients = running.fleet.backends.clients
    running.reload(A.replace("models", "connect_timeout: 1s, models"))
    assert clients["b"].pool._closed
    assert clients["a"].pool._closed
    assert not running.fleet.backends.clients["a"].pool._closed
    again = running.fleet.backends.clients["a"]
    running.reload(A.replace("models", "connect_timeout: 1s, models"))
    assert running.fleet.backends.clients["a"] is again


def test_health_is_known_to_the_new_checks(running: Running) -> None:
    """What is down stays down until it has passed as often as is wanted."""
    running.fleet.directory.set_health("a", "down", "no answer")
    running.reload(f"{A}, {B}", "health_check: {interval: 1s}")
    assert running.statuses()[0].state == "down"
    assert "a: down, b: up" in repr(running.parts)


def test_without_checks_everything_counts_as_up(running: Running) -> None:
    """Also what was found down before they were switched off."""
    running.fleet.directory.set_health("a", "down", "no answer")
    running.reload(f"{A}, {B}", "health_check: {enabled: false}")
    assert [one.state for one in running.statuses()] == ["up", "up"]
    assert running.asked() == set()


def test_another_strategy(running: Running) -> None:
    """It takes the place of the one before; the same keeps its place in the round."""
    running.reload(f"{A}, {B}", "routing: {load_balance: round_robin}")
    first = running.fleet.backends.strategy
    running.reload(f"{A}, {B}", "routing: {load_balance: round_robin}")
    assert running.fleet.backends.strategy is first
    running.reload(f"{A}, {B}", "routing: {load_balance: weighted}")
    assert type(running.fleet.backends.strategy).__name__ == "Weighted"


def test_the_demo_comes_and_stays() -> None:
    """It is made when it is first wanted, and once; who still talks to it is not cut off."""
    running = Running(A)
    assert "DemoServer" not in repr(running.parts)
    # Starting it would adopt a real socket, which a reactor in memory cannot.
    running.fleet.running = False
    running.reload("{name: d, url: 'demo:'}")
    running.reload("{name: e, url: 'demo:'}")
    running.reload(A)
    demos = [one for one in running.parts if type(one).__name__ == "DemoServer"]
    assert len(demos) == 1
    demos[0].stopService()  # type: ignore[attr-defined]


def test_certificates_in_files(tmp_path: Path) -> None:
    """They are read anew each time; one that cannot be used changes nothing, and is blamed."""
    file, _ = Authority(tmp_path, "authority").issue("a.test")
    https = f"{{name: a, url: 'https://a.test', tls: {{ca_file: '{file}'}}}}"
    running = Running(https)
    before = running.fleet.backends
    running.reload(https)
    assert running.fleet.backends.clients["a"] is not before.clients["a"]
    in_force = running.fleet.backends
    (tmp_path / "bad.pem").write_text("no certificate")
    bad = https.replace(str(file), str(tmp_path / "bad.pem"))
    with pytest.raises(ConfigError) as caught:
        running.fleet.prepare(configured(f"{A.replace('name: a', 'name: b')}, {bad}"))
    assert [one.path for one in caught.value.problems] == ["backends[1].tls"]
    assert running.fleet.backends is in_force
