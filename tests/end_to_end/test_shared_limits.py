"""Two daemons on one Redis: limits and budgets hold over both, and over Redis's own restart."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.end_to_end.entitled import Entitled, Reply, entitled_config
from tests.scripted_backend import Connection, ScriptedBackend
from tests.services import RedisServer

ANSWER = (
    b'{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":6,"completion_tokens":4,"total_tokens":10}}'
)
CLIENTS = 12


@attrs.define
class Gauge:
    """A backend that knows how many requests it works on at once.

    Attributes:
        most: The most that there were.
        answered: How many it has answered.
    """

    most: int = 0
    answered: int = 0
    _now: int = 0
    _lock: Any = attrs.field(factory=threading.Lock)

    def __call__(self, connection: Connection) -> None:
        """Answer all requests of a connection, each after a moment."""
        while connection.read_request() is not None:
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
            time.sleep(0.05)
            with self._lock:
                self._now -= 1
                self.answered += 1
            connection.answer(ANSWER)


@contextmanager
def two_daemons(
    folder: Path, redis: RedisServer, gauge: Gauge, **limits: Any
) -> Iterator[tuple[Entitled, Entitled]]:
    """Run two gateways with one store of keys, one Redis, and one backend."""
    with ScriptedBackend(gauge, models=("m",)) as backend:
        configs = [
            entitled_config(
                folder,
                [{"name": "b", "url": backend.url}],
                rate_limit={"storage": "redis", "redis": "shared", **limits},
                storage={"caches": [{"name": "shared", "addr": f"127.0.0.1:{redis.port}"}]},
            )
            for _ in range(2)
        ]
        with Entitled(folder / "a", configs[0]) as one, Entitled(folder / "b", configs[1]) as two:
            yield one, two


def storm(daemons: tuple[Entitled, Entitled], key: str, requests: int) -> list[Reply]:
    """Have many clients ask both daemons at once."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(daemons[i % 2].chat, key, "m") for i in range(requests)]
        return [one.result(30) for one in asked]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis with nothing in it."""
    if reason := RedisServer.missing():
        pytest.skip(reason)
    with RedisServer() as server:
        yield server


def test_the_global_limit_is_one(tmp_path: Path, redis: RedisServer) -> None:
    """Never more at once than allowed, over both; who is refused is told when to come back."""
    gauge = Gauge()
    with two_daemons(tmp_path, redis, gauge, **{"global": {"max_concurrent": 3}}) as daemons:
        key, _ = daemons[0].new_key()
        replies = storm(daemons, key, 60)
        statuses = Counter(reply.status for reply in replies)
        assert set(statuses) == {200, 429}
        assert gauge.most == 3
        assert gauge.answered == statuses[200]
        refused = next(reply for reply in replies if reply.status == 429)
        assert refused.error_code == "rate_limit_exceeded"
        assert refused.fields["retry-after"] == "1"
        time.sleep(0.3)
        assert [daemon.chat(key, "m").status for daemon in (*daemons, daemons[0])] == [200] * 3


def test_a_bucket_and_a_budget_are_one(tmp_path: Path, redis: RedisServer) -> None:
    """So many requests a minute, and so many tokens, no matter which daemon is asked."""
    gauge = Gauge()
    with two_daemons(
        tmp_path, redis, gauge, per_key={"requests_per_minute": 20, "burst_size": 20}
    ) as daemons:
        key, _ = daemons[0].new_key()
        began_s = time.monotonic()
        statuses = Counter(reply.status for reply in storm(daemons, key, 40))
        refilled = int((time.monotonic() - began_s) / 3) + 1
        assert 20 <= statuses[200] <= 20 + refilled
        free = {"requests_per_minute": 0}
        key, key_id = daemons[0].new_key(total_quota=105, rate_limit=free)
        seen: list[int] = []
        while (reply := daemons[len(seen) % 2].chat(key, "m")).status != 402:
            seen.append(reply.status)
            assert len(seen) < 50
        # What the last but one used may not be settled when the other daemon is asked: 429.
        assert (seen.count(200), set(seen) <= {200, 429}) == (11, True)
        assert (reply.status, reply.error_code) == (402, "quota_exceeded")
        assert [daemon.key_now(key_id)["used_quota"] for daemon in daemons] == [110, 110]
        assert daemons[1].chat(key, "m").status == 402


@pytest.mark.parametrize("policy", ["allow", "deny"])
def test_redis_stopped_and_started_under_load(
    tmp_path: Path, redis: RedisServer, policy: str
) -> None:
    """What ``on_storage_failure`` says happens, and afterwards the limits hold again."""
    gauge = Gauge()
    with two_daemons(
        tmp_path, redis, gauge, on_storage_failure=policy, **{"global": {"max_concurrent": 3}}
    ) as daemons:
        key, _ = daemons[0].new_key()
        over = threading.Event()
        seen: list[tuple[float, Reply]] = []

        def load(number: int) -> None:
            while not over.is_set():
                reply = daemons[number % 2].chat(key, "m")
                seen.append((time.monotonic(), reply))

        with ThreadPoolExecutor(CLIENTS) as pool:
            running = [pool.submit(load, number) for number in range(CLIENTS)]
            try:
                time.sleep(1.0)
                redis.stop()
                stopped_s = time.monotonic()
                time.sleep(1.5)
                redis.start()
                started_s = time.monotonic()
                time.sleep(4.0)
                most_before, gauge.most = gauge.most, 0
                time.sleep(1.0)
            finally:
                over.set()
            for one in running:
                one.result(30)
        without = {reply.status for at_s, reply in seen if stopped_s + 0.3 < at_s < started_s}
        if policy == "allow":
            assert without == {200}
            assert most_before > 3
        else:
            assert without == {503}
            code = next(reply for _, reply in seen if reply.status == 503)
            assert code.error_code == "limits_unavailable"
            assert int(code.fields["retry-after"]) >= 1
        after = Counter(reply.status for at_s, reply in seen if at_s > started_s + 4.0)
        assert set(after) == {200, 429}, after
        assert gauge.most <= 3
        statuses = {reply.status for _, reply in seen}
        assert statuses <= {200, 429, 503}
        for daemon in daemons:
            assert "Traceback" not in daemon.daemon.log()
