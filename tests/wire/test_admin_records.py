"""What the admin API's JSON of keys means, and how records are shown."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.entitlements import OwnLimits, Quota
from llmproxy.errors import InvalidBody
from llmproxy.key_records import KeyDraft, KeyFilter, KeyRecord, StoredKey
from llmproxy.wire.admin import read_request
from llmproxy.wire.admin_keys import CreateKey, ListKeys, SyncKeys, UpdateKey
from llmproxy.wire.admin_records import (
    changed,
    draft_to_create,
    draft_to_sync,
    filter_of,
    shown,
    status_in_force,
)

FULL = KeyRecord(
    id="key_1",
    name="Ada",
    user_id="ada",
    status="disabled",
    allowed_models=("qwen-*",),
    allowed_ips=("10.0.0.0/8",),
    denied_ips=("10.0.0.1",),
    starts_at_s=1_000.0,
    expires_at_s=2_000_000_000.5,
    quota=Quota(100, "monthly", 7),
    own_limits=OwnLimits(requests_per_minute=5, burst_size=0),
    metadata={"team": "a"},
)
PLAIN = KeyRecord(id="key_2")
ALL_NULL = dict.fromkeys(
    (
        "name",
        "user_id",
        "status",
        "starts_at",
        "expires_at",
        "allowed_models",
        "allowed_ips",
        "denied_ips",
        "total_quota",
        "used_quota",
        "quota_reset_period",
        "rate_limit",
        "metadata",
    )
)


def change(record: KeyRecord, **fields: object) -> KeyRecord:
    """Change a record as a request would."""
    raw = json.dumps({"id": record.id, **fields}).encode()
    return changed(record, read_request(raw, UpdateKey))


def stored(record: KeyRecord) -> StoredKey:
    """Give it as the store has it."""
    return StoredKey(
        record=record, prefix="sk-llmp-AbCd", digest=b"\x01" * 32, created_at_s=10, updated_at_s=20
    )


def test_nothing_said_changes_nothing() -> None:
    """Fields that are not given stay."""
    assert change(FULL) == FULL
    assert change(PLAIN) == PLAIN


def test_null_puts_the_default() -> None:
    """For every field; what is left is a new key's record."""
    assert change(FULL, **ALL_NULL) == KeyRecord(id="key_1")


def test_every_field() -> None:
    """What is given is taken over."""
    made = change(
        PLAIN,
        name="Ada",
        user_id="ada",
        status=1,
        allowed_models=["qwen-*"],
        allowed_ips=["10.0.0.0/8"],
        denied_ips=["10.0.0.1"],
        starts_at="1970-01-01T00:16:40Z",
        expires_at="2033-05-18T05:33:20.5+02:00",
        total_quota=100,
        used_quota=7,
        quota_reset_period="monthly",
        rate_limit={"requests_per_minute": 5, "burst_size": 0},
        metadata={"team": "a"},
    )
    assert made == attrs.evolve(FULL, id="key_2")


@pytest.mark.parametrize(
    ("status", "stands"),
    [
        (0, "active"),
        (1, "disabled"),
        (2, "quota_exceeded"),
        (3, "expired"),
        ("active", "active"),
        ("expired", "expired"),
    ],
)
def test_status(status: object, stands: str) -> None:
    """By number or by name; a source's own verdict is kept, the closed ones too."""
    assert change(FULL, status=status).status == stands


def test_the_order_of_dates() -> None:
    """The end is after the start, be they given together or one after the other."""
    for record, fields in (
        (PLAIN, {"starts_at": "2027-01-01T00:00:00Z", "expires_at": "2027-01-01T00:00:00Z"}),
        (FULL, {"expires_at": "1970-01-01T00:00:01Z"}),
        (FULL, {"starts_at": "2100-01-01T00:00:00Z"}),
    ):
        with pytest.raises(InvalidBody) as caught:
            change(record, **fields)
        assert caught.value.param == "expires_at"
    assert change(FULL, starts_at="2100-01-01T00:00:00Z", expires_at=None).expires_at_s is None


def test_quotas() -> None:
    """Parts of a quota change by themselves; none of it stands without the total."""
    assert change(FULL, total_quota=5).quota == Quota(5, "monthly", 7)
    assert change(FULL, used_quota=9).quota == Quota(100, "monthly", 9)
    assert change(FULL, quota_reset_period="daily").quota == Quota(100, "daily", 7)
    assert change(FULL, quota_reset_period=None, used_quota=None).quota == Quota(100)
    assert change(PLAIN, total_quota=0).quota == Quota(0)
    assert change(FULL, total_quota=None).quota is None
    # What an answer shows of a key without a quota can be sent back.
    assert change(PLAIN, total_quota=None, used_quota=0, quota_reset_period="never") == PLAIN
    for fields in ({"used_quota": 1}, {"quota_reset_period": "daily"}):
        with pytest.raises(InvalidBody) as caught:
            change(PLAIN, **fields)
        assert caught.value.param == next(iter(fields))


def test_own_limits() -> None:
    """Only those named change; none left is the same as none."""
    assert change(FULL, rate_limit={"burst_size": 3}).own_limits == OwnLimits(
        requests_per_minute=5, burst_size=3
    )
    assert change(FULL, rate_limit={"burst_size": None}).own_limits == OwnLimits(
        requests_per_minute=5
    )
    cleared = {"burst_size": None, "requests_per_minute": None}
    assert change(FULL, rate_limit=cleared).own_limits is None
    assert change(PLAIN, rate_limit={}).own_limits is None


def test_drafts() -> None:
    """Of a new key, and of keys to be synchronised, by themselves and by their digests."""
    request = read_request(b'{"name": "a"}', CreateKey)
    assert draft_to_create(request, "made") == KeyDraft(
        record=KeyRecord(id="", name="a"), key="made"
    )
    request = read_request(b'{"key": "given-one"}', CreateKey)
    assert draft_to_create(request, "made").key == "given-one"
    digest = "ab" * 32
    entries = [{"key": "abcdef", "id": None}, {"key_hash": digest, "prefix": "sk-", "id": "key_9"}]
    sync = read_request(json.dumps({"keys": entries}).encode(), SyncKeys)
    assert [draft_to_sync(entry, n) for n, entry in enumerate(sync.keys)] == [
        KeyDraft(record=KeyRecord(id=""), key="abcdef", says_status=False),
        KeyDraft(
            record=KeyRecord(id="key_9"), digest=b"\xab" * 32, prefix="sk-", says_status=False
        ),
    ]
    entries = [{"key": "abcdef"}, {"key": "ghijkl", "used_quota": 5}]
    sync = read_request(json.dumps({"keys": entries}).encode(), SyncKeys)
    with pytest.raises(InvalidBody) as caught:
        draft_to_sync(sync.keys[1], 1)
    assert caught.value.param == "keys[1].used_quota"


def test_filters() -> None:
    """A page is never longer than it may be."""
    assert filter_of(ListKeys()) == KeyFilter()
    wanted = ListKeys(offset=7, limit=5000, user_id="ada", status=1, search="x")
    assert filter_of(wanted) == KeyFilter(
        offset=7, limit=100, user_id="ada", status="disabled", search="x"
    )


def as_json(key: Any) -> Any:
    """Give what goes over the wire."""
    return json.loads(msgspec.json.encode(key))


def test_a_shown_key() -> None:
    """Every field is there, whether it says something or not."""
    assert as_json(shown(stored(FULL), now_s=0, used=42, resets_at_s=86400)) == {
        "id": "key_1",
        "key": "sk-llmp-AbCd...",
        "name": "Ada",
        "user_id": "ada",
        "status": 1,
        "status_text": "disabled",
        "allowed_models": ["qwen-*"],
        "allowed_ips": ["10.0.0.0/8"],
        "denied_ips": ["10.0.0.1"],
        "starts_at": "1970-01-01T00:16:40Z",
        "expires_at": "2033-05-18T03:33:20.500000Z",
        "total_quota": 100,
        "used_quota": 42,
        "quota_reset_period": "monthly",
        "quota_resets_at": "1970-01-02T00:00:00Z",
        "rate_limit": {
            "requests_per_second": None,
            "requests_per_minute": 5,
            "tokens_per_minute": None,
            "max_concurrent": None,
            "burst_size": 0,
        },
        "metadata": {"team": "a"},
        "created_at": "1970-01-01T00:00:10Z",
        "updated_at": "1970-01-01T00:00:20Z",
    }
    plain = as_json(shown(stored(PLAIN), now_s=0, used=42, resets_at_s=86400))
    assert [plain[field] for field in ("total_quota", "used_quota", "quota_reset_period")] == [
        None,
        0,
        "never",
    ]
    assert plain["quota_resets_at"] is None
    assert set(plain["rate_limit"].values()) == {None}


def test_a_whole_key() -> None:
    """Only when it was just made."""
    assert shown(stored(PLAIN), now_s=0, whole_key="sk-llmp-AbCdEf").key == "sk-llmp-AbCdEf"


def test_for_export() -> None:
    """With the digest, the beginning, and the status as it is stored."""
    record = attrs.evolve(FULL, status="active", expires_at_s=2_000.0)
    exported = shown(stored(record), now_s=3_000, used=100, for_export=True)
    assert (exported.key_hash, exported.prefix) == ("01" * 32, "sk-llmp-AbCd")
    assert exported.status_text == "active"
    assert shown(stored(record), now_s=3_000, used=100).status_text == "expired"


@pytest.mark.parametrize(
    ("status", "used", "now_s", "stands"),
    [
        ("active", 0, 0.0, "active"),
        ("active", 99, 1999.9, "active"),
        ("active", 100, 0.0, "quota_exceeded"),
        ("active", 100, 2000.0, "expired"),
        ("active", 0, 2000.0, "expired"),
        ("disabled", 100, 2000.0, "disabled"),
        ("expired", 0, 0.0, "expired"),
        ("quota_exceeded", 0, 0.0, "quota_exceeded"),
    ],
)
def test_the_status_in_force(status: Any, used: int, now_s: float, stands: str) -> None:
    """The end and the budget close an active key; a closed one stays what it is."""
    record = attrs.evolve(FULL, status=status, expires_at_s=2000.0)
    assert status_in_force(record, used, now_s) == stands


TIMES_S = st.none() | st.integers(0, 4_000_000_000).map(float)
RECORDS = st.builds(
    KeyRecord,
    id=st.just("key_1"),
    name=st.text(st.characters(categories=("L", "N")), max_size=20),
    user_id=st.text(st.characters(categories=("L", "N")), max_size=20),
    status=st.sampled_from(["active", "disabled", "quota_exceeded", "expired"]),
    allowed_models=st.lists(st.sampled_from(["a", "b*"]), max_size=3).map(tuple),
    allowed_ips=st.lists(st.ip_addresses().map(str), max_size=3).map(tuple),
    starts_at_s=st.none() | st.integers(0, 1000).map(float),
    expires_at_s=TIMES_S.filter(lambda end: end is None or end > 1000),
    quota=st.none()
    | st.builds(
        Quota,
        st.integers(0, 2**53),
        st.sampled_from(["daily", "weekly", "monthly", "never"]),
        st.integers(0, 2**53),
    ),
    own_limits=st.none()
    | st.builds(OwnLimits, burst_size=st.integers(0, 9), max_concurrent=st.none() | st.just(1)),
    metadata=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
)


@given(RECORDS)
def test_what_is_exported_can_be_brought_in(record: KeyRecord) -> None:
    """An exported key, its shown-only fields left off, makes the same record again."""
    used = 0 if record.quota is None else record.quota.used_before
    exported = as_json(shown(stored(record), now_s=5_000_000_000, used=used, for_export=True))
    for field in ("key", "status_text", "quota_resets_at", "created_at", "updated_at"):
        del exported[field]
    sync = read_request(json.dumps({"keys": [exported]}).encode(), SyncKeys)
    draft = draft_to_sync(sync.keys[0], 0)
    assert draft == KeyDraft(record=record, digest=b"\x01" * 32, prefix="sk-llmp-AbCd")


def test_times_are_utc() -> None:
    """Whatever zone they came in."""
    record = change(PLAIN, expires_at="2027-06-30T12:00:00-07:00")
    assert shown(stored(record), now_s=0).expires_at == datetime(2027, 6, 30, 19, tzinfo=UTC)
