"""Tests of `llmproxy.commands.usage_records`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmproxy.wire.admin_sessions import SessionShown
from tests.commands.conftest import Operator
from tests.usage.samples import as_json


def session(name: str = "ses_1", **more: Any) -> SessionShown:
    """Give a session."""
    fields: dict[str, Any] = {
        "session_id": name,
        "parent_session_id": "",
        "key_id": "key_1",
        "user_id": "ada",
        "models": ("coder", "qwen-72b"),
        "requests": 1200,
        "errors": 1,
        "prompt_tokens": 1_000_000,
        "completion_tokens": 10_000,
        "total_tokens": 1_010_000,
        "cached_tokens": 900_000,
        "reasoning_tokens": 0,
        "tool_calls": {"bash": 5, "read": 7},
        "tool_calls_total": 12,
        "first_seen": datetime(2026, 11, 27, 8, 0, 5, tzinfo=UTC),
        "last_seen": datetime(2026, 11, 27, 10, 0, 5, tzinfo=UTC),
        "duration_s": 7200.0,
    }
    return SessionShown(**fields | more)


def test_the_table_of_records(operator: Operator) -> None:
    """What one request was, in a line."""
    operator.fake.records = [as_json(1, key_name=""), as_json(0, user_id="")]
    assert operator.does("usage", "records").splitlines() == [
        "TIME                 USER  KEY        MODEL     BACKEND  STATUS  OUTCOME  PROMPT  "
        "COMPLETION  TOOK  SESSION  REQUEST",
        "2026-09-21 14:13:21  ada   key_1      qwen-72b  gpu-1       200  ok          100  "
        "        10  0.8s  ses_1    req-1",
        "2026-09-21 14:13:20  -     ada's key  qwen-72b  gpu-1       200  ok          100  "
        "        10  0.8s  ses_1    req-0",
    ]
    lines = operator.does("usage", "records", columns=90).splitlines()
    assert max(map(len, lines)) <= 90
    assert "OUTCOME" in lines[0]


def test_what_is_asked_of_records(operator: Operator) -> None:
    """Times are counted back; the key may be named."""
    key = operator.fake.add(name="alice").id
    words = "--since 2h --until 2026-12-31 --key alice --user u --model m --backend b"
    words += " --session s --request r --outcome timeout --limit 7"
    assert operator.does("usage", "records", *words.split()).endswith("\nno records\n")
    (asked,) = operator.asked("usage/query")
    since = datetime.fromisoformat(asked.pop("since"))
    assert abs(datetime.now(UTC) - timedelta(hours=2) - since) < timedelta(minutes=1)
    assert asked == {
        "until": "2026-12-31T00:00:00Z",
        "key_id": key,
        "user_id": "u",
        "model": "m",
        "backend": "b",
        "session_id": "s",
        "request_id": "r",
        "outcome": "timeout",
        "limit": 7,
    }


def test_pages(operator: Operator) -> None:
    """As many are read as are wanted, and it is said that there are more."""
    operator.fake.records = [as_json(number) for number in range(250)]
    answer = operator.gives("usage", "records", "--limit", "230")
    assert [one["id"] for one in answer["records"]] == [f"rec-{n:06d}" for n in range(230)]
    assert answer["next_cursor"]
    assert [one["limit"] for one in operator.asked("usage/query")] == [100, 100, 30]
    assert operator.does("usage", "records").endswith(
        "\nthere are more records: --limit shows more, --until older ones\n"
    )
    assert operator.gives("usage", "records", "--limit", "999")["next_cursor"] == ""


def test_the_table_of_sessions(operator: Operator) -> None:
    """What one conversation came to, in a line."""
    operator.fake.sessions = [session(), session("ses_2", tool_calls={}, tool_calls_total=0)]
    lines = operator.does("usage", "sessions", "--children-of", "ses_0").splitlines()
    assert lines[:2] == [
        "LAST SEEN            SESSION  USER  KEY    MODELS           REQUESTS  ERRORS     PROMPT  "
        " CACHED  COMPLETION  TOOL CALLS  LASTED",
        "2026-11-27 10:00:05  ses_1    ada   key_1  coder, qwen-72b     1,200       1  1,000,000  "
        "900,000      10,000          12   2h00m",
    ]
    assert operator.asked("usage/sessions") == [{"parent_session_id": "ses_0", "limit": 20}]


def test_one_session(operator: Operator) -> None:
    """With the calls of each function, the most called first."""
    operator.fake.sessions = [session(parent_session_id="ses_0\x1b[2J")]
    lines = operator.does("usage", "sessions", "ses_1").splitlines()
    assert lines[2:] == [
        "",
        "session     ses_1 of key key_1",
        "begun from  ses_0?[2J",
        "models      coder, qwen-72b",
        "first seen  2026-11-27 08:00:05",
        "tool calls  read 7, bash 5",
    ]
    assert operator.asked("usage/sessions") == [{"session_id": "ses_1", "limit": 20}]
    assert operator.gives("usage", "sessions")["sessions"][0]["tool_calls"] == {
        "bash": 5,
        "read": 7,
    }


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("records", "--since", "soon"), "want a date or time such as"),
        (("records", "--outcome", "fine"), "is not one of"),
        (("sessions", "--limit", "0"), "0 is not in the range"),
        (("hourly",), "No such command"),
    ],
)
def test_what_cannot_be_read(operator: Operator, words: tuple[str, ...], wanted: str) -> None:
    """It is told, and nothing is sent."""
    assert wanted in " ".join(operator.fails(2, "usage", *words).split())
    assert operator.fake.asked == []


def test_where_none_are_kept(operator: Operator) -> None:
    """The API's own words say what to configure."""
    body = b'{"success": false, "error": "want a builtin reporter", "code": "not_found"}'
    operator.fake.answers["/admin/usage/query"] = (404, body)
    assert operator.fails(1, "usage", "records") == "Error: want a builtin reporter\n"
