"""Tests of `llmproxy.commands.usage`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from llmproxy.commands.usage import usage_table
from llmproxy.wire.admin_usage import UsageShown, UsageSummary
from tests.commands.conftest import Operator


def used(requests: int, errors: int = 0, **by: str) -> UsageShown:
    """Give totals: a hundred tokens in and ten out for each request."""
    return UsageShown(
        requests=requests,
        errors=errors,
        prompt_tokens=requests * 100,
        completion_tokens=requests * 10,
        total_tokens=requests * 110,
        **by,
    )


SUMMARY = UsageSummary(
    groups=(
        used(30, 1, day="2026-11-23", key_id="key_1", key_name="alice"),
        used(2000, day="2026-11-24", key_id="anonymous"),
    ),
    total=used(2030, 1),
)


def test_the_table() -> None:
    """A column or two for each of what it is told apart by, and the total below."""
    assert usage_table(("day", "key"), SUMMARY, 0) == [
        "DAY         KEY        NAME   REQUESTS  ERRORS   PROMPT  COMPLETION   TOKENS",
        "2026-11-23  key_1      alice        30       1    3,000         300    3,300",
        "2026-11-24  anonymous  -         2,000       0  200,000      20,000  220,000",
        "----------  ---------  -----  --------  ------  -------  ----------  -------",
        "total                            2,030       1  203,000      20,300  223,300",
    ]


def test_the_total_alone() -> None:
    """When nothing is told apart."""
    assert usage_table((), UsageSummary(groups=(), total=used(5)), 0) == [
        "REQUESTS  ERRORS  PROMPT  COMPLETION  TOKENS",
        "       5       0     500          50     550",
    ]


def test_what_is_asked(operator: Operator) -> None:
    """The key by its name; days as people say them."""
    operator.fake.usage = SUMMARY
    key = operator.fake.add(name="alice").id
    words = "usage --since 2d --until today --by day,key --key alice --user u --model m"
    output = operator.does(*words.split())
    assert output.splitlines()[-1].startswith("total")
    today = datetime.now(UTC).date()
    (asked,) = operator.asked("usage/summary")
    assert asked.pop("since") in {str(today - timedelta(days=days)) for days in (2, 3)}
    assert asked.pop("until") in {str(today - timedelta(days=days)) for days in (0, 1)}
    assert asked == {"group_by": ["day", "key"], "key_id": key, "user_id": "u", "model": "m"}


def test_what_is_asked_when_nothing_is_said(operator: Operator) -> None:
    """All days, by key; the object of the API for programs."""
    operator.fake.usage = SUMMARY
    assert operator.gives("usage")["total"]["requests"] == 2030
    assert operator.asked("usage/summary") == [{"group_by": ["key"]}]


def test_a_key_that_the_store_does_not_know(operator: Operator) -> None:
    """It may be deleted, or stand in the configuration: its id is asked for as it is."""
    operator.fake.usage = SUMMARY
    operator.does("usage", "--key", "static-1234")
    assert operator.asked("usage/summary")[0]["key_id"] == "static-1234"
    for _ in range(2):
        operator.fake.add(name="alice")
    assert "fits 2 keys" in operator.fails(1, "usage", "--key", "alice")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--by", "hour"), "want some of day,key,user,model, each once"),
        (("--by", "day,day"), "each once"),
        (("--since", "soon"), "want a day such as"),
    ],
)
def test_what_cannot_be_read(operator: Operator, words: tuple[str, ...], wanted: str) -> None:
    """It is told, and nothing is sent."""
    assert wanted in " ".join(operator.fails(2, "usage", *words).split())
    assert operator.fake.asked == []
