"""The operations on the spool."""

from __future__ import annotations

from typing import Any

import pytest
from zope.interface.verify import verifyObject

from llmproxy.interfaces import ISpoolControl
from llmproxy.resources.admin.spool import MOST_LETTERS
from llmproxy.values import DeadLetter, ReporterStatus, SpoolStatus
from tests.resources.admin.tree import AdminTree

STATUS = "/admin/spool/status"
REPLAY = "/admin/spool/replay"
LETTERS = "/admin/spool/dead-letters"


def reporting() -> AdminTree:
    """Give an admin API with two reporters."""
    tree = AdminTree()
    tree.spool.now = SpoolStatus(
        size_bytes=1000,
        lost=1,
        damaged=2,
        reporters=(
            ReporterStatus(
                name="billing",
                type="webhook",
                state="waiting",
                backlog_records=7,
                backlog_bytes=700,
                oldest_s=61.23456,
                delivered=90,
                failed=3,
                dead_letters=1,
                last_error="it answered 500",
            ),
            ReporterStatus(name="local", type="builtin", state="idle"),
        ),
    )
    return tree


def letter(number: int = 1) -> DeadLetter:
    """Give a dead letter."""
    return DeadLetter(
        id=f"b{number}", kind="usage", events=5, size_bytes=50, given_up_s=9.0, error="it said 500"
    )


def test_status() -> None:
    """The spool, and each reporter."""
    tree = reporting()
    assert verifyObject(ISpoolControl, tree.spool)
    shown = tree.done(STATUS, {})
    assert {name: shown[name] for name in ("size_bytes", "lost", "damaged")} == {
        "size_bytes": 1000,
        "lost": 1,
        "damaged": 2,
    }
    assert shown["reporters"][0] == {
        "name": "billing",
        "type": "webhook",
        "state": "waiting",
        "backlog_records": 7,
        "backlog_bytes": 700,
        "oldest_s": 61.235,
        "delivered": 90,
        "failed": 3,
        "dead_letters": 1,
        "last_error": "it answered 500",
    }
    assert [one["name"] for one in shown["reporters"]] == ["billing", "local"]


def test_replay() -> None:
    """One reporter, or each of them; for a time that may have no end."""
    tree = reporting()
    body: dict[str, Any] = {"since": "1970-01-01T00:00:05Z", "until": "1970-01-01T00:00:10Z"}
    assert tree.done(REPLAY, {**body, "reporter": "local"}) == {"records": {"local": 1}}
    assert tree.done(REPLAY, {"since": body["since"]}) == {"records": {"billing": 2, "local": 3}}
    assert tree.spool.replayed[0] == ("local", 5.0, 10.0)
    assert [one[:2] for one in tree.spool.replayed[1:]] == [("billing", 5.0), ("local", 5.0)]
    assert tree.spool.replayed[1][2] > 4e9


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "since"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2030-01-01T00:00:00"}, "since"),
        ({"since": "2030-01-02T00:00:00Z", "until": "2030-01-01T00:00:00Z"}, "until"),
        ({"since": "2030-01-02T00:00:00Z", "reporter": ""}, "reporter"),
    ],
)
def test_wrong_replays(body: object, param: str) -> None:
    """Nothing is sent."""
    tree = reporting()
    assert tree.refused(REPLAY, body)[:2] == (400, param)
    assert tree.spool.replayed == []


def test_dead_letters() -> None:
    """All of them or a reporter's, and then they are tried again."""
    tree = reporting()
    tree.spool.letters = {"billing": [letter(1), letter(2)]}
    shown = tree.done(LETTERS, {})
    assert (shown["total"], shown["redelivered"]) == (2, 0)
    assert shown["dead_letters"][0] == {
        "reporter": "billing",
        "id": "b1",
        "kind": "usage",
        "events": 5,
        "size_bytes": 50,
        "given_up": "1970-01-01T00:00:09Z",
        "error": "it said 500",
    }
    assert tree.done(LETTERS, {"reporter": "local"})["total"] == 0
    again = tree.done(LETTERS, {"reporter": "billing", "redeliver": True})
    assert again == {"dead_letters": [], "total": 0, "redelivered": 2}
    assert tree.done(LETTERS, {})["total"] == 0


def test_very_many_dead_letters() -> None:
    """The answer is bounded, and says how many there are."""
    tree = reporting()
    tree.spool.letters = {"billing": [letter(number) for number in range(MOST_LETTERS + 5)]}
    shown = tree.done(LETTERS, {})
    assert shown["total"] == MOST_LETTERS + 5
    assert len(shown["dead_letters"]) == MOST_LETTERS


@pytest.mark.parametrize(
    ("path", "body"), [(REPLAY, {"since": "2030-01-02T00:00:00Z"}), (LETTERS, {})]
)
def test_unknown_reporters_and_outages(path: str, body: dict[str, Any]) -> None:
    """The one is wrong for good, the other for now."""
    tree = reporting()
    assert tree.refused(path, {**body, "reporter": "nobody"})[:2] == (404, "reporter")
    tree.spool.outage.down = True
    assert tree.post(path, body).status == 503


def test_without_reporters() -> None:
    """There is nothing to see, and nothing to send."""
    tree = AdminTree(reports=False)
    assert tree.done(STATUS, {}) == {"size_bytes": 0, "lost": 0, "damaged": 0, "reporters": []}
    assert tree.done(REPLAY, {"since": "2030-01-02T00:00:00Z"}) == {"records": {}}
    assert tree.done(LETTERS, {})["total"] == 0
    assert tree.refused(LETTERS, {"reporter": "x"})[0] == 404
