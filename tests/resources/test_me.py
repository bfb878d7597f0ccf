"""``/me``: what a key's holder may know."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from llmproxy.entitlements import LimitStanding, QuotaStanding, Standing
from llmproxy.errors import StoreUnavailable
from llmproxy.values import UsageFilter, UsageTotal
from tests.resources.tree import Tree

NOTHING = {
    "requests": 0,
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "total_tokens": 0,
    "errors": 0,
}


def test_a_key_without_anything() -> None:
    """No limits, no budget, nothing used."""
    assert Tree().ask("GET", "/me", key="sk-some").json == {
        "id": "k2",
        "name": "",
        "user_id": "",
        "expires_at": None,
        "models": ["plain", "org/whole"],
        "limits": {},
        "quota": None,
        "usage": {"today": NOTHING, "this_month": NOTHING},
    }


def test_all_there_is_to_know() -> None:
    """Today and this month, in UTC; what is left of a budget is never below nothing."""
    tree = Tree()
    tree.ledger.given = Standing(
        {"requests_per_minute": LimitStanding(60, 12, 47.99951)},
        QuotaStanding(1000, 900, 200, "monthly", 1_701_388_800.0),
    )
    tree.ledger.rows = [
        ({"day": "2023-11-13"}, UsageTotal(3, 30, 3, 33, 1)),
        ({"day": "2023-11-14"}, UsageTotal(1, 10, 2, 12, 0)),
    ]
    answer = tree.ask("GET", "/me").json
    assert tree.ledger.wanted == [
        UsageFilter(since="2023-11-01", until="2023-11-14", key_id="k1", group_by=("day",))
    ]
    assert answer["limits"] == {
        "requests_per_minute": {"limit": 60, "remaining": 12, "reset_seconds": 48.0}
    }
    assert answer["quota"] == {
        "total": 1000,
        "used": 900,
        "reserved": 200,
        "remaining": 0,
        "period": "monthly",
        "resets_at": "2023-12-01T00:00:00Z",
    }
    assert answer["usage"]["today"]["total_tokens"] == 12
    assert answer["usage"]["this_month"] == {
        "requests": 4,
        "prompt_tokens": 40,
        "completion_tokens": 5,
        "total_tokens": 45,
        "errors": 1,
    }


def test_counters_that_cannot_be_asked() -> None:
    """A 503 that says so, nothing made up."""
    tree = Tree()
    tree.ledger.failure = StoreUnavailable("redis is away")
    answer = tree.ask("GET", "/me")
    assert (answer.status, answer.error_code) == (503, "limits_unavailable")
    assert b"redis" not in answer.body


@pytest.mark.parametrize("path", ["/me/", "/me/x", "/ME", "/v1/me"])
def test_the_path_is_exact(path: str) -> None:
    """Nothing else is served."""
    assert Tree().ask("GET", path).status == 404


def test_only_for_keys() -> None:
    """Nobody else is told anything."""
    assert Tree().ask("GET", "/me", key="").status == 401
    assert Tree().ask("POST", "/me").status == 405


def test_who_leaves_is_forgotten() -> None:
    """The question that runs for them is cancelled."""
    tree = Tree()
    cancelled: list[Deferred[Standing]] = []
    tree.ledger.standing = lambda _: Deferred(cancelled.append)  # type: ignore[assignment, method-assign]
    with tree.edge() as edge:
        client = edge.connect().send(
            b"GET /me HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk-all\r\n\r\n"
        )
        client.leave()
    assert len(cancelled) == 1
