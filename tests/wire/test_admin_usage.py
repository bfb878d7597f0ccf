"""Usage in the admin API's JSON."""

from __future__ import annotations

import json

import msgspec
import pytest

from llmproxy.errors import InvalidBody
from llmproxy.values import UsageFilter, UsageTotal
from llmproxy.wire.admin import read_request
from llmproxy.wire.admin_usage import SummarizeUsage, usage_shown


def taken(body: object) -> UsageFilter:
    """Read a request."""
    return read_request(json.dumps(body).encode(), SummarizeUsage).as_filter()


def test_filters() -> None:
    """Nothing and null both mean everything."""
    assert taken({}) == UsageFilter()
    everything = dict.fromkeys(("since", "until", "key_id", "user_id", "model", "group_by"))
    assert taken(everything) == UsageFilter()
    assert taken(
        {
            "since": "2027-01-31",
            "until": "2027-01-31",
            "key_id": "key_1",
            "user_id": "ada",
            "model": "org/qwen",
            "group_by": ["model", "day"],
        }
    ) == UsageFilter(
        since="2027-01-31",
        until="2027-01-31",
        key_id="key_1",
        user_id="ada",
        model="org/qwen",
        group_by=("model", "day"),
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"since": "2027-02-30"}, "since"),
        ({"since": "2027-2-3"}, "since"),
        ({"since": "20270203"}, "since"),
        ({"since": "2027-W01-1"}, "since"),
        ({"since": "2027-02-03\n"}, "since"),
        ({"since": ""}, "since"),
        ({"until": "\u0662027-02-03"}, "until"),
        ({"until": 20270203}, "until"),
        ({"since": "2027-01-02", "until": "2027-01-01"}, "until"),
        ({"key_id": "\n"}, "key_id"),
        ({"user_id": 5}, "user_id"),
        ({"model": "x" * 1025}, "model"),
        ({"group_by": "day"}, "group_by"),
        ({"group_by": ["hour"]}, "group_by[0]"),
        ({"group_by": ["day", "day"]}, "group_by"),
        ({"group_by": ["day", "key", "user", "model", "day"]}, "group_by"),
        ({"hours": 3}, "hours"),
    ],
)
def test_wrong_filters(body: object, param: str) -> None:
    """The field that is wrong is named."""
    with pytest.raises(InvalidBody) as caught:
        taken(body)
    assert caught.value.param == param


def test_shown_totals() -> None:
    """What does not tell a group from others is left out; empty values are not."""
    total = UsageTotal(5, 10, 20, 30, 1)
    numbers = {
        "requests": 5,
        "errors": 1,
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "total_tokens": 30,
    }
    assert json.loads(msgspec.json.encode(usage_shown(total))) == numbers
    by = {"day": "2027-01-01", "key_id": "key_1", "user_id": "", "model": "m"}
    assert json.loads(msgspec.json.encode(usage_shown(total, by, ""))) == {
        **by,
        "key_name": "",
        **numbers,
    }
