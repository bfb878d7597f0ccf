"""Tests of `llmproxy.commands.key_files`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmproxy.commands.key_files import BadFile, export_line, read_entries
from llmproxy.wire.admin import read_request
from llmproxy.wire.admin_keys import SyncKeys

NOW_S = 1_800_000_000.0
HASH = "ab" * 32


def entries(text: str) -> list[dict[str, Any]]:
    """Read a file, and hold what comes of it to the API's shape."""
    read = read_entries(text, NOW_S)
    read_request(json.dumps({"keys": read, "mode": "full"}).encode(), SyncKeys)
    return read


def exported(**fields: Any) -> dict[str, Any]:
    """Give a key as a list with hashes shows it."""
    return {
        "id": "key_1",
        "key": "sk-llmp-AbCd...",
        "name": "",
        "user_id": "",
        "status": 0,
        "status_text": "active",
        "allowed_models": [],
        "allowed_ips": [],
        "denied_ips": [],
        "starts_at": None,
        "expires_at": None,
        "total_quota": None,
        "used_quota": 0,
        "quota_reset_period": "never",
        "quota_resets_at": None,
        "rate_limit": dict.fromkeys(
            (
                "requests_per_second",
                "requests_per_minute",
                "tokens_per_minute",
                "max_concurrent",
                "burst_size",
            )
        ),
        "metadata": {},
        "created_at": "2026-11-24T00:00:00Z",
        "updated_at": "2026-11-24T00:00:00Z",
        "key_hash": HASH,
        "prefix": "sk-llmp-AbCd",
        **fields,
    }


def test_what_is_exported_can_be_imported() -> None:
    """Nothing is lost, and nothing is said that was not."""
    plain = export_line(exported())
    assert json.loads(plain) == {
        "id": "key_1",
        "key_hash": HASH,
        "prefix": "sk-llmp-AbCd",
        "quota_reset_period": "never",
        "status": "active",
        "used_quota": 0,
    }
    full = exported(
        name="日本",
        user_id="u",
        status=1,
        status_text="disabled",
        allowed_models=["a*"],
        allowed_ips=["::1"],
        denied_ips=["10.0.0.0/8"],
        starts_at="2026-01-01T00:00:00Z",
        expires_at="2027-01-01T00:00:00Z",
        total_quota=0,
        used_quota=7,
        quota_reset_period="daily",
        rate_limit={**exported()["rate_limit"], "max_concurrent": 0, "burst_size": 3},
        metadata={"team": {"a": [1]}},
    )
    first, second = entries(f"{plain}\n\n{export_line(full)}\n")
    assert first == json.loads(plain)
    left_out = ("key", "status_text", "quota_resets_at", "created_at", "updated_at")
    kept = {name: value for name, value in full.items() if name not in left_out}
    assert second == {
        **kept,
        "status": "disabled",
        "rate_limit": {"max_concurrent": 0, "burst_size": 3},
    }


def test_the_forms_of_json() -> None:
    """Lines, a list, an object around a list, one object alone: the same."""
    one, two = {"key": "sk-number-1", "name": "a"}, {"key": "sk-number-2", "name": None}
    wanted = [one, {"key": "sk-number-2"}]
    assert entries(f"{json.dumps(one)}\r\n{json.dumps(two)}") == wanted
    assert entries(json.dumps([one, two], indent=1)) == wanted
    assert entries(json.dumps({"keys": [one, two], "total": 2})) == wanted
    assert entries(f"\n {json.dumps(one)}\n") == [one]
    assert entries("[]") == []


def test_the_answer_of_a_list_with_hashes_is_a_file_too() -> None:
    """The beginning of a key is not taken for a key, and what is only shown is left out."""
    (entry,) = entries(json.dumps({"keys": [exported()], "total": 1, "offset": 0, "limit": 20}))
    assert "key" not in entry
    assert entry["key_hash"] == HASH


CSV = """\
key,name,user_id,status,total_quota,quota_reset_period,expires_at,allowed_models,allowed_ips,\
requests_per_minute,max_concurrent,tokens_per_minute,metadata.team,metadata
sk-number-1,"Alice, A.",alice@example.org,active,20M,monthly,2027-06-30,qwen-* coder,\
"10.0.0.0/8, ::1",60,none,default,core,
sk-number-2,,,1,,,10d,,,,,,,"{""room"": 7}"

"""


def test_csv() -> None:
    """Cells as people write them; an empty one says nothing."""
    assert entries(CSV) == [
        {
            "key": "sk-number-1",
            "name": "Alice, A.",
            "user_id": "alice@example.org",
            "status": "active",
            "total_quota": 20_000_000,
            "quota_reset_period": "monthly",
            "expires_at": "2027-06-30T00:00:00Z",
            "allowed_models": ["qwen-*", "coder"],
            "allowed_ips": ["10.0.0.0/8", "::1"],
            "rate_limit": {
                "requests_per_minute": 60,
                "max_concurrent": 0,
                "tokens_per_minute": None,
            },
            "metadata": {"team": "core"},
        },
        {
            "key": "sk-number-2",
            "status": 1,
            "expires_at": "2027-01-25T08:00:00Z",
            "metadata": {"room": 7},
        },
    ]


@pytest.mark.parametrize("between", [";", "\t"])
def test_csv_as_spreadsheets_write_it(between: str) -> None:
    """With other characters between the cells."""
    assert entries(f"key{between}name\r\nsk-number-1{between}a,b\r\n") == [
        {"key": "sk-number-1", "name": "a,b"}
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"key": "sk-number-1"}\nnonsense\n', "line 2: is not JSON"),
        ('["sk-number-1"]', "key 1: is not an object"),
        ('{"key": "sk-number-1"}\n5\n', "line 2: is not an object"),
        ('[{"name": "a"}]', "key 1: has no key; want key, or key_hash and prefix"),
        ('[{"key": ""}]', "key 1: has no key"),
        ('[{"key": "sk-number-1", "sk-number-2": 1}]', "key 1: has 1 unknown field; want some of"),
        ("{" * 100_000, "line 1: is not JSON"),
        ("", "line 1: names no column key or key_hash"),
        ("sk-number-1,alice\n", "line 1: names no column key or key_hash"),
        ("key,sk-number-2\n", "line 1: has columns that are unknown or there twice"),
        ("key,key\n", "line 1: has columns that are unknown or there twice"),
        ("key,name\nsk-number-1\n", "line 2: has 1 cells; want 2"),
        ("key,name\n\n,alice\n", "line 3: has no key"),
        ("key,total_quota\nsk-number-1,sk-number-2\n", "line 2: total_quota: want a number such"),
        ("key,expires_at\nsk-number-1,soon\n", "line 2: expires_at: want a date or time"),
        ("key,metadata\nsk-number-1,sk-number-2\n", "line 2: metadata: want JSON"),
        ('key,name\nsk-number-1,"a\n', "line 2: is not CSV"),
    ],
)
def test_a_file_that_cannot_be_used(text: str, words: str) -> None:
    """Where and why is said; nothing of what may be a key."""
    with pytest.raises(BadFile) as caught:
        read_entries(text, NOW_S)
    assert words in str(caught.value)
    assert "sk-number" not in str(caught.value)
