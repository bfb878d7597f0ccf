"""``/health`` and ``/ready``."""

from __future__ import annotations

from typing import Literal

import pytest

from llmproxy.values import BackendStatus, ConfigStatus
from tests.resources.tree import Tree

UP, DOWN, LOADING = (
    BackendStatus("a", "up", 3),
    BackendStatus("b", "down", 0, "no answer"),
    BackendStatus("c", "loading", 0, "loading the model"),
)
WELL = {
    "breaker": "closed",
    "ejected": False,
    "times_opened": 0,
    "share_percent": 100,
    "latency_ms": None,
}


def test_health() -> None:
    """The process lives, whatever the backends do."""
    tree = Tree()
    tree.draining = True
    answer = tree.ask("GET", "/health", key="")
    assert (answer.status, answer.json) == (200, {"status": "ok"})
    assert answer.field(b"cache-control") == b"no-store"


@pytest.mark.parametrize(
    ("states", "draining", "code", "status"),
    [
        ([UP], False, 200, "ready"),
        ([DOWN, UP, LOADING], False, 200, "ready"),
        ([DOWN], False, 503, "no_backend"),
        ([LOADING], False, 503, "no_backend"),
        ([DOWN, LOADING], False, 503, "no_backend"),
        ([], False, 503, "no_backend"),
        ([UP], True, 503, "draining"),
        ([DOWN], True, 503, "draining"),
    ],
)
def test_ready(
    states: list[BackendStatus],
    draining: bool,
    code: int,
    status: Literal["ready", "draining", "no_backend"],
) -> None:
    """One backend that is up is enough, unless the daemon is going."""
    tree = Tree()
    tree.directory.states = states
    tree.draining = draining
    answer = tree.ask("GET", "/ready", key="")
    assert answer.status == code
    assert answer.json["status"] == status
    assert [backend["name"] for backend in answer.json["backends"]] == [one.name for one in states]


def test_ready_tells_each_state() -> None:
    """With its reason and what it is working on."""
    tree = Tree()
    tree.directory.states = [UP, DOWN]
    assert tree.ask("GET", "/ready").json["backends"] == [
        {"name": "a", "state": "up", "in_flight": 3, "reason": "", **WELL},
        {"name": "b", "state": "down", "in_flight": 0, "reason": "no answer", **WELL},
    ]


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (
            ConfigStatus("0123456789ab", 1.7e9),
            {"digest": "0123456789ab", "since": "2023-11-14T22:13:20Z", "last_reload": None},
        ),
        (
            ConfigStatus("c", 1.7e9, 1.7e9 + 0.9),
            {
                "digest": "c",
                "since": "2023-11-14T22:13:20Z",
                "last_reload": {"time": "2023-11-14T22:13:20Z", "result": "ok", "problems": 0},
            },
        ),
        (
            ConfigStatus("c", 1.7e9, 1.7e9 + 60, 2),
            {
                "digest": "c",
                "since": "2023-11-14T22:13:20Z",
                "last_reload": {"time": "2023-11-14T22:14:20Z", "result": "failed", "problems": 2},
            },
        ),
    ],
)
def test_ready_tells_of_the_configuration(status: ConfigStatus, shown: object) -> None:
    """Which is in force, and what became of the last reload; that changes no status."""
    tree = Tree()
    tree.directory.states = [UP]
    tree.config_status = status
    answer = tree.ask("GET", "/ready", key="")
    assert (answer.status, answer.json["config"]) == (200, shown)


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_head(path: str) -> None:
    """The same head, no body."""
    tree = Tree()
    seen, asked = tree.ask("HEAD", path), tree.ask("GET", path)
    assert seen.body == b""
    assert seen.fields == asked.fields


def test_ready_tells_of_breakers() -> None:
    """A backend whose breaker is open is up, as far as its checks know: that alone is ready."""
    tree = Tree()
    tree.directory.states = [
        BackendStatus("a", "up", breaker="open", ejected=True, times_opened=2, latency_ms=40)
    ]
    answer = tree.ask("GET", "/ready")
    assert answer.status == 200
    (shown,) = answer.json["backends"]
    told = {name: shown[name] for name in ("breaker", "ejected", "times_opened", "latency_ms")}
    assert told == {"breaker": "open", "ejected": True, "times_opened": 2, "latency_ms": 40}
