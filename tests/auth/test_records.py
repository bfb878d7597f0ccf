"""Tests of `llmproxy.auth.records`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmproxy.auth.records import record_from_fields
from llmproxy.entitlements import OwnLimits, Quota
from llmproxy.errors import MalformedRecord
from llmproxy.key_records import KeyRecord


def read(fields: dict[str, Any], credential: str = "") -> KeyRecord:
    """Make a record of fields."""
    return record_from_fields(fields, lambda: "made", credential)


FULL = KeyRecord(
    id="id-1",
    name="Ann's laptop",
    user_id="42",
    status="disabled",
    allowed_models=("qwen*", "llama"),
    allowed_ips=("10.0.0.0/8",),
    denied_ips=("10.9.0.1",),
    starts_at_s=1893456000.0,
    expires_at_s=1893542400.0,
    quota=Quota(1000, "monthly", 10),
    own_limits=OwnLimits(1, 2, 3, 4, 5),
    metadata={"team": "a", "n": 1},
)


def test_json_of_plain_values() -> None:
    """As a service or a string in Redis has it."""
    fields = {
        "id": "id-1",
        "name": "Ann's laptop",
        "user_id": 42,
        "status": "disabled",
        "allowed_models": ["qwen*", "llama"],
        "allowed_ips": ["10.0.0.0/8"],
        "denied_ips": "10.9.0.1",
        "starts_at": "2030-01-01T00:00:00Z",
        "expires_at": 1893542400,
        "total_quota": 1000,
        "used_quota": 10,
        "quota_reset_period": "monthly",
        "rate_limit": {
            "requests_per_second": 1,
            "requests_per_minute": 2,
            "tokens_per_minute": 3,
            "max_concurrent": 4,
            "burst_size": 5,
        },
        "metadata": {"team": "a", "n": 1},
        "whatever": object(),
    }
    assert read(fields) == FULL


def test_bytes_of_a_hash() -> None:
    """As a hash in Redis has it: everything is text."""
    fields = {
        "id": b"id-1",
        "name": b"Ann's laptop",
        "user_id": b"42",
        "status": b"1",
        "allowed_models": b"qwen*,llama",
        "allowed_ips": b'["10.0.0.0/8"]',
        "denied_ips": b"10.9.0.1",
        "starts_at": b"1893456000",
        "expired_at": b"2030-01-02",
        "total_quota": b"1000",
        "used_quota": b"10",
        "quota_reset_period": b"MONTHLY",
        "requests_per_second": b"1",
        "requests_per_minute": b"2",
        "tokens_per_minute": b"3",
        "max_concurrent": b"4",
        "burst_size": b"5",
        "metadata": json.dumps({"team": "a", "n": 1}).encode(),
    }
    assert read(fields) == FULL


def test_blank_fields() -> None:
    """What is there and blank is as if it were not."""
    assert read(dict.fromkeys(("id", "name", "status", "expires_at", "allowed_ips"), "")) == (
        KeyRecord(id="made")
    )
    assert read({"status": None, "total_quota": None}) == KeyRecord(id="made")


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (0, "active"),
        (1, "disabled"),
        (2, "quota_exceeded"),
        (3, "expired"),
        ("2", "quota_exceeded"),
        ("Active", "active"),
        (b"expired", "expired"),
    ],
)
def test_status(value: Any, status: str) -> None:
    """As a word or as the Go LLMProxy's number."""
    assert read({"status": value}).status == status


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "suspended"},
        {"status": 4},
        {"status": True},
        {"expires_at": "soon"},
        {"expires_at": "", "expired_at": "soon"},
        {"starts_at": "later"},
        {"allowed_ips": "10.0.0.0/99"},
        {"denied_ips": ["everywhere"]},
        {"denied_ips": "{}"},
        {"allowed_models": 5},
        {"allowed_models": ","},
        {"total_quota": "1,000"},
        {"total_quota": -1},
        {"total_quota": 5, "used_quota": "many"},
        {"total_quota": 5, "quota_reset_period": "yearly"},
        {"max_concurrent": "x"},
        {"rate_limit": "fast"},
        {"rate_limit": {"max_concurrent": -5}},
        {"id": "a\nb"},
        {},
        {"valid": False},
        {"key": "sk-one"},
    ],
)
def test_fails_closed(fields: dict[str, Any]) -> None:
    """What restricts and cannot be read gives no record, and neither does what is no record."""
    with pytest.raises(MalformedRecord):
        read(fields)


def test_message_names_the_field() -> None:
    """Whoever reads the log learns which field is wrong, and not what is in it."""
    with pytest.raises(MalformedRecord, match="expires_at is no time") as caught:
        read({"status": "active", "expires_at": "canary"})
    assert "canary" not in str(caught.value)


def test_metadata_that_cannot_be_read() -> None:
    """It restricts nothing, and so does not matter."""
    assert read({"metadata": "{"}) == KeyRecord(id="made")


def test_two_ends() -> None:
    """Under both names, the earlier end counts."""
    assert read({"expires_at": 2000000000, "expired_at": 1000000000}).expires_at_s == 1e9
    assert read({"expires_at": 1000000000, "expired_at": 2000000000}).expires_at_s == 1e9


def test_limits_in_both_places() -> None:
    """A field of its own comes before the one in the mapping."""
    fields = {"max_concurrent": 1, "rate_limit": '{"max_concurrent": 2, "burst_size": 3}'}
    assert read(fields).own_limits == OwnLimits(max_concurrent=1, burst_size=3)
    assert read({"rate_limit": "{}"}).own_limits is None


def test_quota_of_nothing_is_no_quota_of_none() -> None:
    """0 tokens are a budget; without a total there is none, whatever was used."""
    assert read({"total_quota": 0}).quota == Quota(0)
    assert read({"used_quota": 5}).quota is None


def test_key_is_taken_for_no_name() -> None:
    """A table whose id is the key does not make it public."""
    fields = {"id": "sk-one", "name": "key sk-one of Ann", "user_id": "sk-one"}
    assert read(fields, "sk-one") == KeyRecord(id="made")


def test_id_is_made_only_when_needed() -> None:
    """Making it takes time."""

    def make() -> str:
        raise AssertionError("not needed")

    assert record_from_fields({"id": "given"}, make).id == "given"
