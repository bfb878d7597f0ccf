"""A real Prometheus scrapes the daemon under load, and knows what the access log knows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.daemon import KEY, Daemon, free_port, gateway_config
from tests.services import PrometheusServer, find_program

LOAD_S = 12.0
"""How long there is load; the longer, the more scrapes fall into it."""

CLIENTS = 200
"""How many requests run at once."""

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Count to ten, please."}]
TOOL = {"type": "function", "function": {"name": "read_file", "parameters": {"type": "object"}}}
REQUEST_LABELS = ("path", "stream", "backend", "status", "model", "outcome")
Totals = dict[tuple[tuple[str, str], ...], float]

pytestmark = pytest.mark.skipif(bool(PrometheusServer.missing()), reason=PrometheusServer.missing())


def request_bytes(body: Mapping[str, Any], key: str, session: str) -> bytes:
    """Write a request."""
    text = json.dumps(body).encode()
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\n"
        f"X-Session-ID: {session}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(text)}\r\n\r\n"
    ).encode() + text


def any_request(chance: random.Random) -> tuple[bytes, bool]:
    """Make a request of some kind; say whether its client leaves at the first piece."""
    body: dict[str, Any] = {"model": "demo", "messages": MESSAGES, "stream": True}
    key, leaves = KEY, False
    kind = chance.choice(("stream", "stream", "stream", "plain", "tool", "leaves", "wrong", "key"))
    if kind == "plain":
        body["stream"] = False
    elif kind == "tool":
        body |= {"tools": [TOOL], "tool_choice": "required"}
    elif kind == "leaves":
        leaves = True
    elif kind == "wrong":
        body["model"] = f"none-{chance.randrange(1000)}"
    elif kind == "key":
        key = "sk-unknown"
    return request_bytes(body, key, f"session-{chance.randrange(40)}"), leaves


async def client(port: int, end_s: float, chance: random.Random) -> int:
    """Ask one thing after another; give how many were asked."""
    asked = 0
    while time.monotonic() < end_s:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            leaves = False
            while time.monotonic() < end_s and not leaves:
                request, leaves = any_request(chance)
                asked += 1
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                if leaves and b"chunked" in head:
                    await reader.readuntil(b"\n\n")
                elif b"chunked" in head:
                    await reader.readuntil(b"\r\n0\r\n\r\n")
                else:
                    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                    assert length is not None, head
                    await reader.readexactly(int(length[1]))
                    await asyncio.sleep(0.2)  # or refused ones would be nearly all that there is
        finally:
            writer.close()
    return asked


async def load(port: int) -> int:
    """Have all clients ask; give how many requests there were."""
    end_s = time.monotonic() + LOAD_S
    asking = [client(port, end_s, random.Random(number)) for number in range(CLIENTS)]
    return sum(await asyncio.gather(*asking))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Start a daemon over the demo and a backend that is not there: it costs retries."""
    config = gateway_config(
        free_port(),
        [
            {"name": "demo", "url": "demo:"},
            {"name": "gone", "url": f"http://127.0.0.1:{free_port()}", "models": ["demo"]},
        ],
        health_check={"enabled": False},
        metrics={"custom_labels": ["site=test"]},
        rate_limit={
            "per_key": {
                "requests_per_minute": 0,
                "tokens_per_minute": 0,
                "burst_size": 0,
                "max_concurrent": CLIENTS * 3 // 4,
            }
        },
    )
    config["logging"]["access"] |= {"output": "file", "path": str(tmp_path / "access.log")}
    with Daemon(tmp_path, config) as running:
        yield running


def records(folder: Path) -> list[dict[str, Any]]:
    """Read the access log."""
    return [json.loads(line) for line in (folder / "access.log").read_text().splitlines()]


def counted(pairs: Iterable[tuple[Mapping[str, object], float]]) -> Totals:
    """Add up by labels, as Prometheus does, to which an empty one is none; zeros are left out."""
    totals: dict[tuple[tuple[str, str], ...], float] = defaultdict(float)
    for labels, value in pairs:
        written = ((name, str(label)) for name, label in labels.items())
        totals[tuple(sorted(pair for pair in written if pair[1]))] += value
    return {labels: value for labels, value in totals.items() if value}


def known_model(record: Mapping[str, Any]) -> str:
    """Give a record's model as metrics tell it."""
    return str(record["model"]) if record["upstream_model"] else ""


def wait_for(prometheus: PrometheusServer, query: str, value: float) -> None:
    """Wait until Prometheus has scraped that."""
    end = time.monotonic() + 30
    while (found := prometheus.query(query)) != {(): value}:
        assert time.monotonic() < end, f"{query} is {found}, want {value}"
        time.sleep(0.25)


def expected(log: list[dict[str, Any]]) -> dict[str, Totals]:
    """Say what each query must give, by the access log alone."""
    requests = counted(
        (
            {
                "path": one["endpoint"],
                "stream": str(one["stream"]).lower(),
                "backend": one["backend"],
                "status": one["status"],
                "model": known_model(one),
                "outcome": one["outcome"],
            },
            1,
        )
        for one in log
    )
    tokens = counted(
        ({"type": kind, "model": known_model(one)}, one[f"{kind}_tokens"])
        for one in log
        for kind in ("prompt", "completion", "cached", "reasoning")
    )
    return {
        f"sum by ({', '.join(REQUEST_LABELS)}) (llmproxy_requests_total)": requests,
        "sum by (type, model) (llmproxy_usage_tokens_total)": tokens,
        "sum by (function) (llmproxy_tool_calls_total)": counted(
            ({"function": name}, calls) for one in log for name, calls in one["tool_calls"].items()
        ),
        "sum by (source) (llmproxy_usage_source_total)": counted(
            ({"source": one["usage_source"]}, 1) for one in log if one["attempts"]
        ),
        "sum by (code) (llmproxy_rejections_total)": counted(
            ({"code": one["error_code"]}, 1) for one in log if one["outcome"] == "rejected"
        ),
        "sum by (backend, code) (llmproxy_attempt_failures_total)": counted(
            ({"backend": tried["backend"], "code": tried["error"]}, 1)
            for one in log
            for tried in one["tried"]
        ),
        "sum(llmproxy_retries_total)": counted(({}, max(one["attempts"] - 1, 0)) for one in log),
        "sum by (stream) (llmproxy_first_byte_ms_count)": counted(
            ({"stream": str(one["stream"]).lower()}, 1)
            for one in log
            if one["first_byte_ms"] is not None
        ),
        "sum(llmproxy_queue_wait_ms_count)": counted(({}, 1) for one in log if one["attempts"]),
        'sum(llmproxy_latency_ms_bucket{le="500.0"})': counted(
            ({}, 1) for one in log if one["duration_ms"] <= 500
        ),
    }


@pytest.mark.slow
def test_prometheus_knows_what_the_access_log_knows(daemon: Daemon, tmp_path: Path) -> None:
    """Every total of every kind, exactly; and every scrape under load came through."""
    with PrometheusServer(f"127.0.0.1:{daemon.port}") as prometheus:
        asked = asyncio.run(load(daemon.port))
        wait_for(prometheus, "sum(llmproxy_requests_total)", asked)
        log = records(tmp_path)
        assert len(log) == asked > CLIENTS
        for query, totals in expected(log).items():
            assert totals, f"nothing of {query} is in the load"
            found = {labels: value for labels, value in prometheus.query(query).items() if value}
            assert found == totals, query

        durations_s = sum(one["duration_ms"] for one in log) / 1000
        (found_ms,) = prometheus.query("sum(llmproxy_latency_ms_sum)").values()
        assert found_ms / 1000 == pytest.approx(durations_s, rel=1e-6)

        # All of it is over, and the gauges say so.
        wait_for(prometheus, "sum(llmproxy_requests_in_flight)", 0)
        wait_for(prometheus, "sum(llmproxy_backend_in_flight)", 0)
        sessions = {one["session_id"] for one in log if one["key_id"]}
        wait_for(prometheus, "sum(llmproxy_active_sessions)", len(sessions))
        (peak,) = prometheus.query(
            "max_over_time(sum(llmproxy_requests_in_flight)[2m:1s])"
        ).values()
        assert 0 < peak <= CLIENTS

        # A scrape may time out on a machine in a hurry; the next one knows all of it.
        (scrapes,) = prometheus.query('sum_over_time(up{job="llmproxy"}[5m])').values()
        assert scrapes >= 3
        assert prometheus.query('count by (site) ({site!="test", __name__=~"llmproxy_.*"})') == {}


def test_promtool_is_content(daemon: Daemon) -> None:
    """Its only complaint is about milliseconds, which are the Go LLMProxy's."""
    for key in (KEY, "sk-unknown"):
        body = json.dumps({"model": "demo", "messages": MESSAGES, "tools": [TOOL]}).encode()
        fields = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        with contextlib.suppress(HTTPError):  # the second key is one
            urlopen(Request(daemon.url + PATH, body, fields), timeout=30).read()
    with urlopen(f"{daemon.url}/metrics", timeout=30) as answer:
        text = answer.read()
    done = subprocess.run(
        [find_program("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        timeout=60,
        check=False,
    )
    complaints = (done.stdout + done.stderr).decode().splitlines()
    assert b'llmproxy_requests_total{backend="demo",' in text
    assert [
        line for line in complaints if not re.match(r"llmproxy_\w+_ms metric names", line)
    ] == []
    assert '"GET /metrics' not in daemon.log()


@pytest.mark.parametrize("with_key", [False, True])
def test_a_listener_of_its_own(tmp_path: Path, with_key: bool) -> None:
    """Prometheus scrapes it there; the clients' listener serves nothing."""
    port = free_port()
    config = gateway_config(
        free_port(),
        [{"name": "demo", "url": "demo:"}],
        metrics={"listen": f"127.0.0.1:{port}", "path": "/numbers"},
    )
    if not with_key:
        config["auth"]["skip_paths"] = ["/health", "/numbers"]
    with Daemon(tmp_path, config) as daemon:
        statuses = []
        for url in (f"{daemon.url}/numbers", f"http://127.0.0.1:{port}/numbers"):
            try:
                with urlopen(url, timeout=30) as answer:
                    statuses.append(answer.status)
            except OSError as error:
                statuses.append(getattr(error, "code", error))
        assert statuses == [404, 401 if with_key else 200]
        if not with_key:
            with PrometheusServer(f"127.0.0.1:{port}", "/numbers") as prometheus:
                wait_for(prometheus, "sum(up)", 1)
                wait_for(prometheus, "sum(llmproxy_backend_up)", 1)


def test_daemons_that_count_together(tmp_path: Path) -> None:
    """Each is asked for its own clients, and either answers for both."""
    shared = tmp_path / "shared"
    shared.mkdir()
    with contextlib.ExitStack() as stack:
        daemons = []
        for name in ("one", "two"):
            (folder := tmp_path / name).mkdir()
            config = gateway_config(free_port(), [{"name": "demo", "url": "demo:"}])
            environ = {"PROMETHEUS_MULTIPROC_DIR": str(shared)}
            daemons.append(stack.enter_context(Daemon(folder, config, environ)))
        body = json.dumps({"model": "demo", "messages": MESSAGES}).encode()
        fields = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        for daemon, times in zip(daemons, (1, 2), strict=True):
            for _ in range(times):
                urlopen(Request(daemon.url + PATH, body, fields), timeout=30).read()
        wanted = ("llmproxy_requests_total{", "llmproxy_latency_ms_count{", "llmproxy_backend_up{")
        expected = {"llmproxy_requests_total": 3, "llmproxy_latency_ms_count": 3}
        for daemon in daemons:
            end = time.monotonic() + 60
            found: dict[str, float] = {}
            # What the other one only watches comes with its next look.
            while found != {**expected, "llmproxy_backend_up": 1}:
                assert time.monotonic() < end, found
                with urlopen(f"{daemon.url}/metrics", timeout=30) as answer:
                    lines = answer.read().decode().splitlines()
                found = {
                    line.partition("{")[0]: float(line.rpartition(" ")[2])
                    for line in lines
                    if line.startswith(wanted)
                }
