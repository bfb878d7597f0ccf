"""Tests of `llmproxy.observation`: which number of which part is which metric."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.testing import MemoryReactorClock

from benchmarks.certificate import make_certificate
from llmproxy.config.load import LoadedConfig, parse_config
from llmproxy.config.model import Config
from llmproxy.entitlements import Quota
from llmproxy.errors import RateLimited, UriTooLong
from llmproxy.metrics.catalogue import CATALOGUE
from llmproxy.metrics.registry import Metrics
from llmproxy.observation import SHARED_FOLDER, THREAD_TURN_S
from llmproxy.service import Gateway
from llmproxy.values import Demand, Principal, TriedBackend, Usage, UsageRecord
from tests.metrics.counting import Samples, read_samples

DIGEST = "0123456789ab"
BACKENDS = """backends:
  - {name: a, url: "http://127.0.0.1:1"}
  - {name: b, url: "http://127.0.0.1:2"}
"""
OPEN = BACKENDS + "auth: {enabled: false}\n"


def cannot_start(message: str) -> NoReturn:
    """Fail."""
    raise AssertionError(message)


def configured(text: str) -> Config:
    """Make a configuration of a text."""
    return parse_config(
        text,
        {},
        read_file=lambda path: Path(path).read_text(),
        is_directory=lambda path: Path(path).is_dir(),
    )


class Pool:
    """Threads that are none: what they are given is done at once."""

    def callInThreadWithCallback(
        self, told: Callable[[bool, Any], None], function: Callable[..., Any], *arguments: Any
    ) -> None:
        """Do it."""
        told(True, function(*arguments))


class Reactor(MemoryReactorClock):
    """A reactor in memory, its threads too."""

    def getThreadPool(self) -> Pool:
        """Give the threads."""
        return Pool()

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Do it."""
        function(*arguments)


def made(text: str) -> Gateway:
    """Make a whole daemon; nothing of it is started."""
    return Gateway(configured(text), Reactor(), cannot_start, DIGEST)


def samples(gateway: Gateway) -> Samples:
    """Scrape a daemon."""
    assert gateway.observation.metrics is not None
    found: list[Any] = []
    gateway.observation.metrics.scrape("").addBoth(found.append)
    ((_, text),) = found
    return read_samples(text.decode())


def with_every_source(folder: Path) -> str:
    """Write a configuration in which all that can be watched is there."""
    shown = make_certificate(folder)
    return f"""{BACKENDS}
auth:
  pipeline:
    - {{name: k, type: builtin}}
    - {{name: r, type: redis, redis: {{storage: one}}}}
    - {{name: d, type: database, database: {{storage: people, fields: [status]}}}}
rate_limit: {{storage: redis, redis: one}}
storage:
  caches: [{{name: one, addr: "127.0.0.1:1"}}]
  databases: [{{name: people, path: "{folder}/x.db"}}]
admin: {{db_path: "{folder}/own.db"}}
server: {{tls: {{enabled: true, cert_file: "{shown.cert_file}", key_file: "{shown.key_file}"}}}}
usage:
  spool_dir: "{folder}/spool"
  reporters: [{{name: w, type: webhook, webhook: {{url: "http://127.0.0.1:1/"}}}}]
"""


RECORD = UsageRecord(
    id="i",
    time=0.0,
    request_id="r",
    endpoint="/v1/completions",
    key_id="k",
    model="m",
    upstream_model="m",
    backend="a",
    usage=Usage(1, 2, 3),
    usage_source="exact",
    outcome="timeout",
    status=200,
    error_code="stall_timeout",
    first_byte_ms=1.0,
    attempts=2,
    tried=(TriedBackend("b", "connect_failed"),),
    tool_calls={"read": 1},
    session_id="s",
)
REFUSED = UsageRecord(
    id="i",
    time=0.0,
    request_id="r",
    endpoint="/v1/completions",
    outcome="rejected",
    status=401,
    error_code="invalid_api_key",
)


def test_everything_that_is_declared_is_fed(tmp_path: Path) -> None:
    """By some part of the daemon."""
    gateway = made(with_every_source(tmp_path))
    for reporter in gateway.observation.reporters:
        reporter.report(RECORD)
        reporter.report(REFUSED)
    gateway.observation.refused(UriTooLong())
    limiter: Any = gateway.rights.limiter
    limiter.refused["key", "requests"] += 1
    names = {name.partition("{")[0] for name in samples(gateway)}
    fed = {
        metric.name
        for metric in CATALOGUE
        if (f"{metric.name}_count" if metric.kind == "histogram" else metric.name) in names
    }
    assert {metric.name for metric in CATALOGUE} == fed


def test_the_numbers_are_those_of_the_parts() -> None:
    """Each changes with what it tells of."""
    gateway = made(OPEN + "monitoring: {stalled_stream_alert: 5s}\n")
    before = samples(gateway)
    directory = gateway.directory
    directory.set_health("a", "down", "no answer")
    directory.drain("b")
    gateway.lifecycle.leaving = True
    running: Any = gateway.front.data_path.running
    running.add(type("Exchange", (), {"state": "relaying"})())
    gateway.observation.streams.told["stalled_stream", "a"] += 2
    gateway.config_life.stayed(3)
    now = samples(gateway)
    changed = {name: value for name, value in now.items() if before.get(name) != value}
    for name in [name for name in changed if name.startswith("process_")]:
        del changed[name]
    assert changed == {
        'llmproxy_backend_up{backend="a"}': 0,
        'llmproxy_backend_up{backend="b"}': 0,
        'llmproxy_backend_drained{backend="b"}': 1,
        'llmproxy_requests_in_flight{phase="relaying"}': 1,
        'llmproxy_stream_alerts_total{backend="a",kind="stalled_stream"}': 2,
        "llmproxy_draining": 1,
        "llmproxy_config_last_reload_successful": 0,
        "llmproxy_config_last_reload_timestamp_seconds": gateway.config_life.status().reloaded_s,
    }


def test_what_becomes_of_a_reporter(tmp_path: Path) -> None:
    """What was deleted before it had it, whatever became of that part; that it is disabled."""
    gateway = made(with_every_source(tmp_path))
    assert gateway.metering is not None
    gateway.metering.receivers[0].skipped(7)
    assert samples(gateway)['llmproxy_spool_skipped_records_total{reporter="w"}'] == 7
    assert samples(gateway)['llmproxy_reporter_disabled{reporter="w"}'] == 0
    gateway.metering.receivers[0].gone("it answered 410")
    assert samples(gateway)['llmproxy_reporter_disabled{reporter="w"}'] == 1


def test_full_backends_and_broken_ones() -> None:
    """How many requests wait for room, and what the breakers say."""
    gateway = made(
        """backends:
  - {name: a, url: "http://127.0.0.1:1", max_concurrent: 1}
  - {name: b, url: "http://127.0.0.1:2", max_concurrent: 1}
auth: {enabled: false}
routing: {breaker: {failures: 1}}
"""
    )
    directory = gateway.directory
    route = directory.route("m", Principal("k"))
    leases = [directory.acquire(route, frozenset(tried), bytes) for tried in "ba"]
    leases[0].report("bad")
    waits = directory.wait("m", Principal("k"), frozenset(), 0.0, bytes, 1.0)
    found = samples(gateway)
    assert found["llmproxy_queue_waiting"] == 1
    assert found['llmproxy_breaker_state{backend="a"}'] == 2
    assert found['llmproxy_breaker_state{backend="b"}'] == 0
    waits.addErrback(lambda failure: failure.trap(CancelledError))
    waits.cancel()
    assert samples(gateway)["llmproxy_queue_waiting"] == 0


def test_leases_and_limits() -> None:
    """What a backend works on, and what is held up."""
    gateway = made(OPEN + "rate_limit: {per_key: {max_concurrent: 1}}\n")
    principal, other = Principal("k"), Principal("o", quota=Quota(10))
    route = gateway.directory.route("m", principal)
    lease = gateway.directory.acquire(route, frozenset("b"), bytes)
    for demand in (Demand(principal, "m", 1), Demand(principal, "m", 1), Demand(other, "m", 1)):
        gateway.rights.limiter.acquire(demand).addErrback(lambda failure: failure.trap(RateLimited))
    found = samples(gateway)
    assert found['llmproxy_backend_in_flight{backend="a"}'] == 1
    assert found['llmproxy_limit_refusals_total{limit="concurrent",scope="key"}'] == 1
    throttle = gateway.rights.rules.throttle
    while not throttle.blocked_s("192.0.2.1"):
        throttle.note_failure("192.0.2.1")
    throttled = 'llmproxy_limit_refusals_total{limit="unknown_keys",scope="address"}'
    assert (found[throttled], samples(gateway)[throttled]) == (0, 1)
    lease.release()
    assert samples(gateway)['llmproxy_backend_in_flight{backend="a"}'] == 0


def test_stores(tmp_path: Path) -> None:
    """Each by its name; a Redis that was never reached is down."""
    found = samples(made(with_every_source(tmp_path)))
    assert {
        name: value for name, value in found.items() if name.startswith("llmproxy_storage_up")
    } == {
        'llmproxy_storage_up{storage="redis one"}': 0,
        'llmproxy_storage_up{storage="database people"}': 1,
        'llmproxy_storage_up{storage="own file"}': 1,
    }
    assert not [name for name in samples(made(OPEN)) if name.startswith("llmproxy_storage")]


def test_custom_labels_and_buckets() -> None:
    """As they are configured."""
    gateway = made(OPEN + "metrics: {custom_labels: [site=a=b], latency_buckets: [7]}\n")
    (reporter,) = gateway.observation.reporters
    reporter.report(RECORD)
    found = samples(gateway)
    assert all('site="a=b"' in name for name in found)
    assert sorted(
        name.partition('le="')[2].partition('"')[0]
        for name in found
        if name.startswith("llmproxy_latency_ms_bucket")
    ) == ["+Inf", "7.0"]


def test_without_metrics_nothing_counts() -> None:
    """No library, no path; streams are watched all the same."""
    gateway = made(OPEN + "metrics: {enabled: false}\n")
    assert gateway.observation.metrics is None
    assert gateway.observation.reporters == ()
    gateway.observation.refused(UriTooLong())
    assert b"metrics" not in gateway.front.site.resource.children
    assert [type(part).__name__ for part in gateway.observation] == ["StreamWatch", "LoopLag"]


@pytest.mark.parametrize("listen", ["", "127.0.0.1:9101"])
def test_where_metrics_are_served(listen: str) -> None:
    """With the clients' paths, or on their own listener and not there."""
    gateway = made(OPEN + f"metrics: {{path: /numbers, listen: '{listen}'}}\n")
    gateway.privilegedStartService()
    reactor: Any = gateway.front.site.reactor
    ports = [server[0] for server in reactor.tcpServers]
    assert ports == ([9101, 8000] if listen else [8000]) or ports == [8000, 9101]
    assert (b"numbers" in gateway.front.site.resource.children) is not bool(listen)
    assert b"/numbers" in gateway.observation.probed_paths


@pytest.fixture
def switch_interval() -> Iterator[None]:
    """Leave the interpreter as it was."""
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switch_interval")
def test_writing_out_does_not_hold_up_the_event_loop() -> None:
    """Threads give the interpreter back soon; and nothing is left when it ends."""
    gateway = made(OPEN)
    observation = gateway.observation
    observation.startService()
    assert sys.getswitchinterval() == pytest.approx(THREAD_TURN_S)
    observation.stopService()
    reactor: Any = gateway.front.site.reactor
    assert reactor.getDelayedCalls() == []


def test_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment says so, the folder is used."""
    folders: list[str] = []
    real = Metrics.__init__

    def noting(metrics: Metrics, **settings: Any) -> None:
        folders.append(settings["shared_folder"])
        real(metrics, **settings)

    monkeypatch.setattr(Metrics, "__init__", noting)
    monkeypatch.delenv(SHARED_FOLDER, raising=False)
    made(OPEN)
    monkeypatch.setenv(SHARED_FOLDER, str(tmp_path))
    made(OPEN)
    assert folders == ["", str(tmp_path)]


def test_which_configuration_is_in_force() -> None:
    """The number is its digest, as exact as that; and when it was read, and whether it could be."""
    gateway = made(OPEN)
    life = gateway.config_life
    first = samples(gateway)
    assert first["llmproxy_config_hash"] == int(DIGEST, 16) < 2**53
    assert first["llmproxy_config_last_reload_successful"] == 1
    assert first["llmproxy_config_last_reload_timestamp_seconds"] == life.status().since_s
    life.stayed(1)
    failed = samples(gateway)
    assert failed["llmproxy_config_hash"] == first["llmproxy_config_hash"]
    assert failed["llmproxy_config_last_reload_successful"] == 0
    life.replaced("ffffffffffff")
    now = samples(gateway)
    assert now["llmproxy_config_hash"] == 2**48 - 1
    assert now["llmproxy_config_last_reload_successful"] == 1
    assert now["llmproxy_config_last_reload_timestamp_seconds"] == life.status().reloaded_s


def test_another_configuration(tmp_path: Path) -> None:
    """What is watched for, and who is there to be watched, are the new one's."""
    gateway = made(OPEN)
    text = with_every_source(tmp_path).partition("usage:")[0]
    text = text.replace("rate_limit: {storage: redis, redis: one}\n", "").replace(
        "{name: b, url", "{name: c, url"
    )
    text = text.replace(
        "{name: k, type: builtin}", "{name: s, type: static, static: {keys: [{key: sk-123456}]}}"
    )
    text += "monitoring: {long_stream_alert: 7s, stalled_stream_alert: 0s}\n"
    text = text.replace("server: {", "server: {max_loop_lag: 3s, ")
    config = configured(text)
    gateway.replace(LoadedConfig(config, "x.yaml", "0" * 12, {}))
    found = samples(gateway)
    assert found["llmproxy_config_hash"] == int(DIGEST, 16)  # its reloader tells of another
    assert {name for name in found if name.startswith("llmproxy_backend_up")} == {
        'llmproxy_backend_up{backend="a"}',
        'llmproxy_backend_up{backend="c"}',
    }
    assert {name for name in found if name.startswith("llmproxy_storage_up")} == {
        'llmproxy_storage_up{storage="redis one"}',
        'llmproxy_storage_up{storage="database people"}',
    }
    assert len([name for name in found if "certificate_expiry" in name]) == 1
    assert gateway.observation.lag.most_s == 3
    assert gateway.observation.streams._limits == {"long_stream": 7, "stalled_stream": 0}
    gateway.replace(LoadedConfig(configured(OPEN), "x.yaml", DIGEST, {}))
    found = samples(gateway)
    assert not [name for name in found if "certificate" in name or "storage_up" in name]
