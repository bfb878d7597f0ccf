"""The operations on the spool."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from zope.interface.verify import verifyObject

from llmproxy.deliveries import DeadLetterSummary, ReceiverStatus, SpoolStatus
from llmproxy.interfaces import IMetering, IResending
from llmproxy.resources.admin.spool import MOST_LETTERS
from tests.resources.admin.tree import AdminTree

STATUS = "/admin/spool/status"
REPLAY = "/admin/spool/replay"
LETTERS = "/admin/spool/dead-letters"


def reporting() -> AdminTree:
    """Give an admin API with two reporters."""
    tree = AdminTree()
    tree.spool.now = SpoolStatus(
        size_bytes=1000,
        max_bytes=5000,
        written_records=100,
        waiting_records=3,
        lost_records=1,
        damaged_records=2,
    )
    tree.spool.reporters = [
        ReceiverStatus(
            name="billing",
            type="webhook",
            state="waiting",
            backlog_records=7,
            backlog_bytes=700,
            oldest_s=61.23456,
            delivered_batches=2,
            delivered_records=90,
            failed_tries=3,
            dead_letters=1,
            skipped_records=4,
            last_error="it answered 500",
            resending=5,
        ),
        ReceiverStatus(name="local", type="builtin", state="idle"),
    ]
    return tree


def letter(number: int = 1) -> DeadLetterSummary:
    """Give a dead letter."""
    return DeadLetterSummary(
        id=f"b{number}",
        kind="usage",
        events=2,
        size_bytes=5,
        first_try_at_s=5.0,
        given_up_at_s=9.0,
        tries=4,
        reason="it said 500",
    )


def test_status() -> None:
    """The spool with all its parts, and each reporter; of dead letters those that are there now."""
    tree = reporting()
    tree.spool.letters = {"billing": [letter(1), letter(2)]}
    assert verifyObject(IMetering, tree.spool)
    assert verifyObject(IResending, tree.spool)
    shown = tree.done(STATUS, {})
    billing, local = shown.pop("reporters")
    assert shown == attrs.asdict(tree.spool.now) | {"size_bytes": 1100}
    changed = {"oldest_s": 61.235, "dead_letters": 2, "backlog_bytes": 800}
    assert billing == attrs.asdict(tree.spool.reporters[0]) | changed
    assert (local["name"], local["resending"]) == ("local", None)


def test_replay() -> None:
    """One reporter, or each of them; for a time that may have no end."""
    tree = reporting()
    body: dict[str, Any] = {"since": "1970-01-01T00:00:05Z", "until": "1970-01-01T00:00:10Z"}
    assert tree.done(REPLAY, {**body, "reporter": "local"}) == {
        "reporters": ["local"],
        "refused": {},
    }
    assert tree.done(REPLAY, {"since": body["since"]})["reporters"] == ["billing", "local"]
    assert tree.spool.replayed == [
        ("local", 5.0, 10.0),
        ("billing", 5.0, None),
        ("local", 5.0, None),
    ]


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
    assert len(shown["dead_letters"]) == 2
    assert shown["dead_letters"][0] == {
        "reporter": "billing",
        "id": "b1",
        "kind": "usage",
        "events": 2,
        "size_bytes": 5,
        "first_try": "1970-01-01T00:00:05Z",
        "given_up": "1970-01-01T00:00:09Z",
        "tries": 4,
        "reason": "it said 500",
    }
    assert tree.done(LETTERS, {"reporter": "local"})["dead_letters"] == []
    again = tree.done(LETTERS, {"reporter": "billing", "redeliver": True})
    assert again == {"dead_letters": [], "redelivered": ["billing"], "refused": {}}
    assert tree.done(LETTERS, {})["dead_letters"] == []


def test_very_many_dead_letters() -> None:
    """The answer is bounded."""
    tree = reporting()
    tree.spool.letters = {"billing": [letter(number) for number in range(MOST_LETTERS + 5)]}
    assert len(tree.done(LETTERS, {})["dead_letters"]) == MOST_LETTERS


AGAIN = [(REPLAY, {"since": "2030-01-02T00:00:00Z"}), (LETTERS, {"redeliver": True})]


@pytest.mark.parametrize(("path", "body"), AGAIN)
def test_reporters_that_are_sent_nothing_again(path: str, body: dict[str, Any]) -> None:
    """Others are; one that was named is refused."""
    tree = reporting()
    tree.spool.reporters[0] = attrs.evolve(tree.spool.reporters[0], state="disabled")
    begun = tree.done(path, body)
    assert begun["refused"] == {"billing": "it is disabled until the next start"}
    assert begun.get("reporters", begun.get("redelivered")) == ["local"]
    assert tree.refused(path, {**body, "reporter": "billing"})[:2] == (409, "reporter")


@pytest.mark.parametrize(("path", "body"), [*AGAIN, (LETTERS, {})])
def test_unknown_reporters_and_files_that_cannot_be_read(path: str, body: dict[str, Any]) -> None:
    """The one is wrong for good, the other for now."""
    tree = reporting()
    assert tree.refused(path, {**body, "reporter": "nobody"})[:2] == (404, "reporter")
    tree.spool.unreadable = True
    assert tree.post(path, body).status == 503
    assert tree.post(STATUS, {}).status == 503


def test_without_reporters() -> None:
    """There is nothing to see, and nothing to send."""
    tree = AdminTree(reports=False)
    assert tree.done(STATUS, {}) == {**attrs.asdict(SpoolStatus()), "reporters": []}
    assert tree.done(REPLAY, {"since": "2030-01-02T00:00:00Z"})["reporters"] == []
    assert tree.done(LETTERS, {})["dead_letters"] == []
    assert tree.refused(LETTERS, {"reporter": "x"})[0] == 404
