"""Tests of `llmproxy.auth.judge`."""

from __future__ import annotations

from typing import Any

import pytest

from llmproxy.auth.judge import prepare
from llmproxy.entitlements import OwnLimits, Quota
from llmproxy.errors import (
    IpNotAllowed,
    KeyDisabled,
    KeyExpired,
    KeyNotStarted,
    MalformedRecord,
    QuotaExceeded,
)
from llmproxy.key_records import KeyRecord
from llmproxy.values import Principal


def refusal(now_s: float = 1000.0, client_ip: str = "192.0.2.7", **fields: Any) -> Any:
    """Give the class of the refusal of a key with these fields; None: it passes."""
    found = prepare(KeyRecord(id="k", **fields)).refusal(now_s, client_ip)
    return None if found is None else type(found)


def test_order() -> None:
    """The first that applies is told."""
    bad: dict[str, Any] = {"allowed_ips": ("10.0.0.0/8",)}
    assert refusal(**bad) is IpNotAllowed
    bad["status"] = "quota_exceeded"
    assert refusal(**bad) is QuotaExceeded
    bad["expires_at_s"] = 1.0
    assert refusal(**bad) is KeyExpired
    bad["starts_at_s"] = 2000.0
    assert refusal(**bad) is KeyNotStarted
    bad["status"] = "disabled"
    assert refusal(**bad) is KeyDisabled


@pytest.mark.parametrize(("now_s", "found"), [(999.9, None), (1000.0, KeyExpired)])
def test_end_is_an_instant(now_s: float, found: Any) -> None:
    """From the very instant on, the key is expired."""
    assert refusal(now_s, expires_at_s=1000.0) is found


@pytest.mark.parametrize(("now_s", "found"), [(999.9, KeyNotStarted), (1000.0, None)])
def test_start_is_an_instant(now_s: float, found: Any) -> None:
    """From the very instant on, the key is valid."""
    assert refusal(now_s, starts_at_s=1000.0) is found


@pytest.mark.parametrize(
    ("status", "found"),
    [
        ("active", None),
        ("disabled", KeyDisabled),
        ("expired", KeyExpired),
        ("quota_exceeded", QuotaExceeded),
    ],
)
def test_status(status: str, found: Any) -> None:
    """What the source says of the key counts."""
    assert refusal(status=status) is found


def test_address() -> None:
    """Both lists are looked at, and only they make it matter from where a request comes."""
    rules: dict[str, Any] = {"allowed_ips": ("10.0.0.0/8",), "denied_ips": ("10.9.0.0/16",)}
    assert refusal(client_ip="10.1.1.1", **rules) is None
    assert refusal(client_ip="10.9.1.1", **rules) is IpNotAllowed
    assert refusal(client_ip="", **rules) is IpNotAllowed
    assert refusal(client_ip="") is None
    known = prepare(KeyRecord(id="k", **rules))
    assert known.refusal_anywhere(1000.0) is None


def test_principal() -> None:
    """All that others need is in it; it is made once."""
    quota, own = Quota(10, "daily", 3), OwnLimits(max_concurrent=2)
    known = prepare(
        KeyRecord(
            id="k",
            name="n",
            user_id="u",
            allowed_models=("a*", "b"),
            expires_at_s=5000.0,
            quota=quota,
            own_limits=own,
        )
    )
    assert known.principal == Principal("k", "n", "u", (("a*", "b"),), own, quota, 5000.0)
    assert prepare(KeyRecord(id="k")).principal == Principal("k")
    assert known.principal is known.principal


def test_network_that_is_none() -> None:
    """A key whose rules cannot be read cannot be judged."""
    with pytest.raises(MalformedRecord, match="nonsense"):
        prepare(KeyRecord(id="k", denied_ips=("nonsense",)))
