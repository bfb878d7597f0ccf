"""The operations on usage records and sessions."""

from __future__ import annotations

import msgspec
import pytest
from zope.interface.verify import verifyObject

from llmproxy.interfaces import IRecordStore
from llmproxy.values import RecordFilter, SessionFilter, SessionTotal
from tests.resources.admin.tree import AdminTree
from tests.usage.samples import as_json

QUERY = "/admin/usage/query"
SESSIONS = "/admin/usage/sessions"


def test_a_page_of_records() -> None:
    """Each is what other reporters are told, too."""
    tree = AdminTree()
    assert verifyObject(IRecordStore, tree.records)
    tree.records.page = ([as_json(2), as_json(1)], "5.rec-1")
    wanted = {"key_id": "key_1", "since": "1970-01-01T00:00:05Z", "limit": 2}
    assert tree.done(QUERY, wanted) == {
        "records": [msgspec.to_builtins(as_json(2)), msgspec.to_builtins(as_json(1))],
        "next_cursor": "5.rec-1",
    }
    assert tree.records.wanted == [RecordFilter(key_id="key_1", since_s=5.0, limit=2)]


def test_a_page_of_sessions() -> None:
    """With how long each lasted, and how many calls there were in all."""
    tree = AdminTree()
    total = SessionTotal(
        session_id="s",
        parent_session_id="p",
        key_id="k",
        user_id="u",
        models=("a", "b"),
        requests=3,
        errors=1,
        prompt_tokens=5,
        completion_tokens=6,
        total_tokens=11,
        cached_tokens=2,
        reasoning_tokens=1,
        tool_calls={"read": 2, "bash": 1},
        first_seen_s=10.0,
        last_seen_s=12.5,
    )
    tree.records.sessions_page = ([total], "")
    assert tree.done(SESSIONS, {"parent_session_id": "p"}) == {
        "sessions": [
            {
                "session_id": "s",
                "parent_session_id": "p",
                "key_id": "k",
                "user_id": "u",
                "models": ["a", "b"],
                "requests": 3,
                "errors": 1,
                "prompt_tokens": 5,
                "completion_tokens": 6,
                "total_tokens": 11,
                "cached_tokens": 2,
                "reasoning_tokens": 1,
                "tool_calls": {"read": 2, "bash": 1},
                "tool_calls_total": 3,
                "first_seen": "1970-01-01T00:00:10Z",
                "last_seen": "1970-01-01T00:00:12.500000Z",
                "duration_s": 2.5,
            }
        ],
        "next_cursor": "",
    }
    assert tree.records.wanted == [SessionFilter(parent_session_id="p")]


@pytest.mark.parametrize("path", [QUERY, SESSIONS])
def test_nobody_keeps_records(path: str) -> None:
    """It says what is to be configured; a wrong field is told all the same."""
    tree = AdminTree(reports=False)
    status, param, words = tree.refused(path, {})
    assert (status, param) == (404, "")
    assert "{name: local, type: builtin}" in words
    assert tree.refused(path, {"limit": 0})[:2] == (400, "limit")


@pytest.mark.parametrize("path", [QUERY, SESSIONS])
def test_outages(path: str) -> None:
    """It may be tried again."""
    tree = AdminTree()
    tree.records.outage.down = True
    assert tree.post(path, {}).status == 503
