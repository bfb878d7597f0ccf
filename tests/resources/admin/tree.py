"""The admin API over fakes, and an edge that serves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, execute

from llmproxy.proxy.budget import ByteBudget
from llmproxy.resources.admin.root import make_admin_root
from llmproxy.values import Backend
from tests.edge import NOW_S, Answer, Edge, get, post
from tests.resources.admin.fakes import (
    FakeBackends,
    FakeLimiter,
    FakeRecords,
    FakeSpool,
    FakeThrottle,
    FakeTotals,
    MemoryKeys,
)

TOKEN = "a-long-administrators-token"
WITH_TOKEN = f"X-Admin-Token: {TOKEN}"
CODES = {
    400: "invalid_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    409: "already_exists",
    413: "request_too_large",
    429: "too_many_attempts",
    500: "internal_error",
    503: "unavailable",
}
"""The contract's codes."""


class AdminTree:
    """The admin API, with all it stands on.

    Args:
        failures: How many wrong tokens an address may show.
        reports: Whether there are reporters.

    Attributes:
        now_s: The time of day.
        keys: The stored keys.
        limiter: What they use.
        totals: What was used.
        records: What each request used.
        spool: Where records wait.
        backends: The backends.
        throttle: Who showed wrong tokens.
        budget: What bodies hold.
        config: What is shown of the configuration.
        in_thread: How often something was left to another thread.
    """

    def __init__(self, *, failures: int = 3, reports: bool = True, is_alone: bool = True) -> None:
        self.now_s = NOW_S
        self.keys = MemoryKeys(lambda: self.now_s)
        self.limiter = FakeLimiter()
        self.totals = FakeTotals()
        self.records = FakeRecords()
        self.spool = FakeSpool()
        self.backends = FakeBackends()
        self.throttle = FakeThrottle(failures)
        self.budget = ByteBudget(1 << 20)
        self.config: Any = {"admin": {"token": "(hidden)"}}
        self.in_thread = 0
        self._made = 0
        self.root = make_admin_root(
            token=TOKEN,
            keys=self.keys,
            new_key=self._new_key,
            limiter=self.limiter,
            usage=self.totals,
            records=self.records if reports else None,
            metering=self.spool if reports else None,
            resending=self.spool if reports else None,
            identities=(
                Backend("gpu-a", b"http://10.0.0.1:8001/v1", b"10.0.0.1:8001", 2, ("qwen-*",)),
                Backend("gpu-b", b"http://10.0.0.2:8001", b"10.0.0.2:8001"),
            ),
            statuses=self.backends,
            control=self.backends,
            shown_config=lambda: self.config,
            throttle=self.throttle,
            budget=self.budget,
            max_body_bytes=200_000,
            in_thread=self._in_thread,
            is_alone=is_alone,
            now=lambda: self.now_s,
        )

    def _in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        self.in_thread += 1
        return execute(work)

    def _new_key(self) -> str:
        self._made += 1
        return f"sk-llmp-made-for-test-{self._made}"

    def edge(self) -> Edge:
        """Make an edge that serves it."""
        return Edge(resource=self.root)

    def send(self, raw: bytes, method: str = "POST", ip: str = "192.0.2.7") -> Answer:
        """Send one request on a connection of its own."""
        with self.edge() as edge:
            answer = edge.connect(ip).send(raw).answer(method)
        assert self.budget.taken_bytes == 0, "bytes were not given back"
        if answer.status in CODES and method != "HEAD":
            assert answer.json["success"] is False
            assert answer.json["code"] == CODES[answer.status]
            assert answer.json["error"]
            assert sorted(answer.json) == ["code", "error", "param", "success"]
        return answer

    def post(self, path: str, content: object, *lines: str) -> Answer:
        """Post JSON with the token."""
        return self.send(post(msgspec.json.encode(content), WITH_TOKEN, *lines, path=path))

    def ask(self, method: str, path: str, *lines: str) -> Answer:
        """Ask without a body, with the token."""
        return self.send(get(path, WITH_TOKEN, *lines, method=method), method)

    def done(self, path: str, content: object) -> Any:
        """Post JSON; give the data of the answer."""
        answer = self.post(path, content)
        assert answer.status == 200, answer.body
        assert sorted(answer.json) == ["data", "message", "success"]
        assert answer.json["success"] is True
        assert answer.json["message"]
        return answer.json["data"]

    def refused(self, path: str, content: object) -> tuple[int, str, str]:
        """Post JSON; give the status, the field that is wrong and what is said of it."""
        answer = self.post(path, content)
        assert answer.status in CODES, answer
        return answer.status, answer.json["param"], answer.json["error"]
