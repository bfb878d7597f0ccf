"""The operations on usage."""

from __future__ import annotations

import pytest

from llmproxy.resources.admin.usage import MOST_GROUPS
from llmproxy.values import UsageFilter, UsageTotal
from tests.resources.admin.tree import AdminTree

PATH = "/admin/usage/summary"


def numbers(requests: int, errors: int, prompt: int, completion: int) -> dict[str, int]:
    """Give totals as they are shown."""
    return {
        "requests": requests,
        "errors": errors,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def test_one_total() -> None:
    """Without groups there is one, and it is the sum."""
    tree = AdminTree()
    tree.totals.totals = [({}, UsageTotal(5, 10, 20, 30, 1))]
    shown = numbers(5, 1, 10, 20)
    assert tree.done(PATH, {}) == {"groups": [shown], "total": shown}
    assert tree.totals.wanted == [UsageFilter()]


def test_too_many_groups() -> None:
    """The answer would take long to write; it says how to ask for less."""
    tree = AdminTree()
    total = UsageTotal(1, 2, 3, 5)
    tree.totals.totals = [({"user_id": f"u{i}"}, total) for i in range(MOST_GROUPS)]
    assert len(tree.done(PATH, {"group_by": ["user"]})["groups"]) == MOST_GROUPS
    tree.totals.totals = [*tree.totals.totals, ({"user_id": "one more"}, total)]
    answer = tree.post(PATH, {"group_by": ["user"]})
    assert (answer.status, answer.json["param"]) == (400, "group_by")


def test_nothing_used() -> None:
    """The sum of nothing."""
    total = numbers(0, 0, 0, 0)
    assert AdminTree().done(PATH, {"group_by": ["day"]}) == {"groups": [], "total": total}


def test_groups() -> None:
    """They come in the order of the totals, with the names of keys that are stored."""
    tree = AdminTree()
    tree.done("/admin/keys/create", {"name": "Ada"})
    tree.totals.totals = [
        ({"key_id": "key_1", "day": "2027-01-01"}, UsageTotal(1, 2, 3, 5)),
        ({"key_id": "key_1", "day": "2027-01-02"}, UsageTotal(1, 2, 3, 5)),
        ({"key_id": "static-1", "day": "2027-01-02"}, UsageTotal(2, 0, 0, 0, 2)),
    ]
    asked = tree.keys.outage.asked
    wanted = {"since": "2027-01-01", "user_id": "ada", "group_by": ["key", "day"]}
    assert tree.done(PATH, wanted) == {
        "groups": [
            {"day": "2027-01-01", "key_id": "key_1", "key_name": "Ada", **numbers(1, 0, 2, 3)},
            {"day": "2027-01-02", "key_id": "key_1", "key_name": "Ada", **numbers(1, 0, 2, 3)},
            {"day": "2027-01-02", "key_id": "static-1", **numbers(2, 2, 0, 0)},
        ],
        "total": numbers(4, 2, 4, 6),
    }
    assert tree.keys.outage.asked - asked == 2, "each key once"
    assert tree.totals.wanted == [
        UsageFilter(since="2027-01-01", user_id="ada", group_by=("key", "day"))
    ]


@pytest.mark.parametrize("which", ["totals", "keys"])
def test_outages(which: str) -> None:
    """It may be tried again."""
    tree = AdminTree()
    tree.totals.totals = [({"key_id": "key_1"}, UsageTotal())]
    getattr(tree, which).outage.down = True
    assert tree.post(PATH, {"group_by": ["key"]}).status == 503
