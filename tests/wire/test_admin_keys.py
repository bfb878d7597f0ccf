"""Keys in the admin API's JSON: what is taken of them, and that no ``repr`` shows one."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.errors import InvalidBody
from llmproxy.wire.admin import Request, read_request
from llmproxy.wire.admin_keys import (
    CreateKey,
    KeyNamed,
    ListKeys,
    Rates,
    SyncKey,
    SyncKeys,
    UpdateKey,
)

DIGEST = "0123456789abcdef" * 4


def taken(kind: type[Request], body: object) -> Any:
    """Read a request."""
    return read_request(json.dumps(body).encode(), kind)


def refused(kind: type[Request], body: object) -> str:
    """Read a wrong request; give the field that is."""
    with pytest.raises(InvalidBody) as caught:
        taken(kind, body)
    return caught.value.param or ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", "abcdef"),
        ("key", "~" * 4096),
        ("key", None),
        ("name", ""),
        ("name", "Ada Lovelace 陈 é"),
        ("name", "x" * 256),
        ("status", "disabled"),
        ("status", 0),
        ("status", 3),
        ("status", None),
        ("expires_at", "2027-01-01T00:00:00Z"),
        ("expires_at", "2027-01-01T00:00:00.25+02:00"),
        ("starts_at", "1970-01-01T00:00:00Z"),
        ("allowed_models", ["qwen-*", "org/model"]),
        ("allowed_models", ["m"] * 1000),
        ("allowed_ips", ["10.0.0.0/8", "192.0.2.7", "::1", "fd00::/8", "0.0.0.0/0"]),
        ("denied_ips", []),
        ("total_quota", 0),
        ("total_quota", 2**53),
        ("quota_reset_period", "weekly"),
        ("rate_limit", {}),
        ("rate_limit", {"burst_size": None, "max_concurrent": 0}),
        ("metadata", {"team": ["a", 1, None, {"b": True}]}),
        ("metadata", {"a": "x" * (16 * 1024 - 8)}),
    ],
)
def test_good_fields(field: str, value: object) -> None:
    """All that is wanted is taken."""
    assert getattr(taken(CreateKey, {field: value}), field) is not msgspec.UNSET


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", "abcde"),
        ("key", ""),
        ("key", "~" * 4097),
        ("key", "with space"),
        ("key", "ключик"),
        ("key", "line\nend"),
        ("key", "lineend\n"),
        ("name", "x" * 257),
        ("name", "a\nb"),
        ("name", "\x00"),
        ("name", "\u202eevil"),
        ("user_id", "\x1b[31m"),
        ("user_id", 5),
        ("status", "Active"),
        ("status", 4),
        ("status", True),
        ("expires_at", "2027-01-01"),
        ("expires_at", "2027-01-01T00:00:00"),
        ("expires_at", 1_800_000_000),
        ("expires_at", "2027-02-30T00:00:00Z"),
        ("expires_at", "1969-12-31T23:59:59Z"),
        ("expires_at", "9999-12-31T23:59:59-12:00"),
        ("starts_at", "0001-01-01T00:00:00+14:00"),
        ("allowed_models", "qwen"),
        ("allowed_models", ["m"] * 1001),
        ("total_quota", -1),
        ("total_quota", 2**53 + 1),
        ("total_quota", 10**30),
        ("total_quota", "10M"),
        ("used_quota", 1.5),
        ("quota_reset_period", "yearly"),
        ("metadata", []),
        ("metadata", {"a": "x" * (16 * 1024)}),
    ],
)
def test_wrong_fields(field: str, value: object) -> None:
    """All else is refused, and the field named."""
    assert refused(CreateKey, {field: value}) == field


@pytest.mark.parametrize(
    "network",
    ["", "x", "10.0.0.1/8", "10.0.0.0/33", "fe80::1%eth0", "1.2.3", "10/8", "::/129", "1"],
)
def test_wrong_networks(network: str) -> None:
    """The one of the list is named."""
    assert refused(CreateKey, {"allowed_ips": ["::1", network]}) == "allowed_ips[1]"
    assert refused(CreateKey, {"denied_ips": [network]}) == "denied_ips[0]"


@pytest.mark.parametrize("glob", ["", "x" * 257, "a\nb", 5])
def test_wrong_globs(glob: object) -> None:
    """The one of the list is named."""
    assert refused(CreateKey, {"allowed_models": ["a", glob]}) == "allowed_models[1]"


@pytest.mark.parametrize("kind", [KeyNamed, UpdateKey])
def test_which_key(kind: type[Request]) -> None:
    """Exactly one of the names is given."""
    assert taken(kind, {"id": "key_1"}).id == "key_1"
    assert taken(kind, {"key": "abcdef"}).key == "abcdef"
    assert refused(kind, {}) == "id"
    assert refused(kind, {"id": "key_1", "key": "abcdef"}) == "id"
    assert refused(kind, {"id": ""}) == "id"
    assert refused(kind, {"id": "a\nb"}) == "id"
    assert refused(kind, {"id": None}) == "id"
    assert refused(kind, {"key": "short"}) == "key"


def test_subjects_as_keys() -> None:
    """What names a client by its certificate may have spaces; no other key may."""
    assert taken(CreateKey, {"key": "tls:CN=Alice Smith"}).key == "tls:CN=Alice Smith"
    for key in ("CN=Alice Smith", "tls:x\n", "tls:m\u00fcller", "tls:x" + " " * 4096, "tls:a"):
        assert refused(CreateKey, {"key": key}) == "key"


def test_keys_to_sync() -> None:
    """Each comes with itself or with its digest, and every one is checked."""
    assert taken(SyncKeys, {"keys": [], "mode": "full"}).is_full
    assert refused(SyncKeys, {"keys": []}) == "mode"  # it would delete all keys
    good = {"keys": [{"key": "abcdef"}, {"key_hash": DIGEST, "prefix": "sk-", "id": "key_1"}]}
    assert taken(SyncKeys, good).is_full
    partly = taken(SyncKeys, {**good, "mode": "incremental"})
    assert (len(partly.keys), partly.is_full) == (2, False)
    for entry, field in (
        ({}, "key"),
        ({"key": "abcdef", "key_hash": DIGEST}, "key"),
        ({"key": "abcdef", "prefix": "sk-"}, "prefix"),
        ({"key_hash": DIGEST.upper()}, "key_hash"),
        ({"key_hash": DIGEST[1:]}, "key_hash"),
        ({"key_hash": DIGEST, "prefix": "\n"}, "prefix"),
        ({"key": "short"}, "key"),
        ({"key": "abcdef", "id": ""}, "id"),
        ({"key": "abcdef", "id": "\n"}, "id"),
        ({"key": "abcdef", "name": "\n"}, "name"),
        ({"key": "abcdef", "allowed_ips": ["x0"]}, "allowed_ips[0]"),
    ):
        assert refused(SyncKeys, {"keys": [{"key": "ghijkl"}, entry]}) == f"keys[1].{field}"


def test_pages() -> None:
    """A page has its defaults; its texts are checked."""
    assert taken(ListKeys, {}) == ListKeys(offset=0, limit=20)
    assert taken(ListKeys, {"limit": 5000}).limit == 5000
    assert refused(ListKeys, {"search": "\n"}) == "search"
    assert refused(ListKeys, {"user_id": "x" * 257}) == "user_id"


def test_unset_fields_are_not_sent() -> None:
    """Whoever makes a request of these sends what was set: null is not the same as nothing."""
    update = UpdateKey(id="key_1", expires_at=None, rate_limit=Rates(burst_size=3))
    assert json.loads(msgspec.json.encode(update)) == {
        "id": "key_1",
        "expires_at": None,
        "rate_limit": {"burst_size": 3},
    }
    create = CreateKey(expires_at=datetime(2027, 1, 1, tzinfo=UTC))
    assert msgspec.json.encode(create) == b'{"expires_at":"2027-01-01T00:00:00Z"}'


def test_no_repr_shows_a_key() -> None:
    """Neither a key nor its digest."""
    for request in (
        CreateKey(key="sk-canary", name="visible"),
        UpdateKey(key="sk-canary", name="visible"),
        SyncKey(key_hash="sk-canary", name="visible"),
        SyncKeys(keys=(SyncKey(key="sk-canary", name="visible"),)),
    ):
        assert "canary" not in repr(request)
        assert "visible" in repr(request)
    assert repr(KeyNamed(key="sk-canary")) == "KeyNamed(key=(hidden))"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(SyncKey.__struct_fields__)


@given(st.dictionaries(FIELDS, JSON, max_size=6))
def test_any_values(fields: dict[str, object]) -> None:
    """Whatever stands in the fields is taken or refused with a reason, and nothing else."""
    for kind, body in ((CreateKey, fields), (UpdateKey, fields), (SyncKeys, {"keys": [fields]})):
        raw = json.dumps(body).encode("utf-8", "surrogatepass")
        with contextlib.suppress(InvalidBody):
            read_request(raw, kind)
