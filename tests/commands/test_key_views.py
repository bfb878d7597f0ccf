"""Tests of `llmproxy.commands.key_views`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from llmproxy.commands.key_views import key_lines, keys_table
from llmproxy.commands.table import cells
from llmproxy.wire.admin_keys import Key, RatesShown

MADE = datetime(2026, 11, 24, 4, 30, tzinfo=UTC)

PLAIN = Key(
    id="key_0001abcdef0123",
    key="sk-llmp-AbCd...",
    name="",
    user_id="",
    status=0,
    status_text="active",
    allowed_models=(),
    allowed_ips=(),
    denied_ips=(),
    starts_at=None,
    expires_at=None,
    total_quota=None,
    used_quota=0,
    quota_reset_period="never",
    quota_resets_at=None,
    rate_limit=RatesShown(),
    metadata={},
    created_at=MADE,
    updated_at=MADE,
)


def key(**fields: Any) -> Key:
    """Give a key with some fields."""
    return msgspec.structs.replace(PLAIN, **fields)


FULL = key(
    name="alice",
    user_id="alice@example.org",
    allowed_models=("qwen-*", "coder"),
    allowed_ips=("10.0.0.0/8",),
    denied_ips=("10.9.0.0/16", "::1"),
    starts_at=MADE,
    expires_at=datetime(2027, 6, 30, tzinfo=UTC),
    total_quota=20_000_000,
    used_quota=12_345_678,
    quota_reset_period="monthly",
    quota_resets_at=datetime(2026, 12, 1, tzinfo=UTC),
    rate_limit=RatesShown(requests_per_minute=1200, max_concurrent=0),
    metadata={"team": "core", "room": 7},
)


def test_a_key_with_nothing_said_of_it() -> None:
    """What holds then is said in words."""
    assert key_lines(PLAIN) == [
        "id       key_0001abcdef0123",
        "key      sk-llmp-AbCd...",
        "name     -",
        "user     -",
        "status   active",
        "quota    none",
        "expires  never",
        "models   all",
        "from     everywhere",
        "limits   as for every key",
        "created  2026-11-24 04:30 UTC",
        "changed  2026-11-24 04:30 UTC",
    ]


def test_a_key_with_everything() -> None:
    """Exact numbers and times."""
    assert key_lines(FULL)[2:] == [
        "name      alice",
        "user      alice@example.org",
        "status    active",
        "quota     12,345,678 of 20,000,000 tokens used (61%), monthly, "
        "whole again 2026-12-01 00:00 UTC",
        "starts    2026-11-24 04:30 UTC",
        "expires   2027-06-30 00:00 UTC",
        "models    qwen-*, coder",
        "from      10.0.0.0/8",
        "not from  10.9.0.0/16, ::1",
        "limits    requests per minute: 1,200, at once: no limit",
        "metadata  team=core",
        "metadata  room=7",
        "created   2026-11-24 04:30 UTC",
        "changed   2026-11-24 04:30 UTC",
    ]


def test_the_table() -> None:
    """As wide as it likes where nobody looks at a screen."""
    off = key(id="key_0002", name="日本", status=1, status_text="disabled", total_quota=0)
    assert keys_table([FULL, off], 0) == [
        "ID                  KEY              NAME   USER               STATUS    USED/QUOTA"
        "     %  RESETS      EXPIRES",
        "key_0001abcdef0123  sk-llmp-AbCd...  alice  alice@example.org  active     12.3M/20M"
        "   61%  2026-12-01  2027-06-30",
        "key_0002            sk-llmp-AbCd...  日本   -                  disabled         0/0"
        "  100%  -           -",
    ]


def test_the_table_fits_a_terminal() -> None:
    """Whatever there is to see of a key; its beginning goes first, then when it resets."""
    long = msgspec.structs.replace(
        FULL, name="n" * 50, user_id="日" * 50, status=2, status_text="quota_exceeded"
    )
    for width in (80, 100, 120, 200):
        lines = keys_table([long, FULL], width)
        assert max(map(cells, lines)) <= width
        assert all(title in lines[0] for title in ("ID", "NAME", "USER", "STATUS", "USED/QUOTA"))
    assert "KEY" in keys_table([long], 120)[0].split()
    assert "KEY" not in keys_table([long], 80)[0].split()
