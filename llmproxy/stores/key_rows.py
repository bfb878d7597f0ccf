"""Stored keys as rows of the table ``keys``, and back.

What keys are listed by has a column; the rest is one column of JSON, ``terms``. It knows nothing of
transactions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import attrs

from llmproxy.entitlements import OwnLimits, Quota
from llmproxy.key_records import KeyRecord, StoredKey
from llmproxy.stores.sqlite_text import storable

COLUMNS: Final = "id, digest, prefix, name, user_id, status, terms, created_at_s, updated_at_s"
"""In the order of `to_row` and `from_row`."""

_LISTS: Final = ("allowed_models", "allowed_ips", "denied_ips")


def to_row(key: StoredKey) -> tuple[Any, ...]:
    """Give a key's columns."""
    record = key.record
    return (
        storable(record.id),
        key.digest,
        storable(key.prefix),
        storable(record.name),
        storable(record.user_id),
        record.status,
        _terms_text(record),
        key.created_at_s,
        key.updated_at_s,
    )


def from_row(row: Sequence[Any]) -> StoredKey:
    """Make a key of its columns."""
    key_id, digest, prefix, name, user_id, status, terms_text, created_at_s, updated_at_s = row
    terms: dict[str, Any] = json.loads(terms_text)
    quota, own_limits = terms.get("quota"), terms.get("own_limits")
    lists: dict[str, Any] = {name: tuple(terms.get(name, ())) for name in _LISTS}
    record = KeyRecord(
        id=key_id,
        name=name,
        user_id=user_id,
        status=status,
        starts_at_s=terms.get("starts_at_s"),
        expires_at_s=terms.get("expires_at_s"),
        quota=None if quota is None else Quota(**quota),
        own_limits=None if own_limits is None else OwnLimits(**own_limits),
        metadata=terms.get("metadata", {}),
        **lists,
    )
    return StoredKey(
        record=record,
        prefix=prefix,
        digest=digest,
        created_at_s=created_at_s,
        updated_at_s=updated_at_s,
    )


def _terms_text(record: KeyRecord) -> str:
    """Encode what has no column, and of that only what is given."""
    terms = {name: getattr(record, name) for name in _LISTS}
    terms |= {
        "starts_at_s": record.starts_at_s,
        "expires_at_s": record.expires_at_s,
        "quota": record.quota and attrs.asdict(record.quota),
        "own_limits": record.own_limits and attrs.asdict(record.own_limits),
        "metadata": dict(record.metadata),
    }
    given = {name: value for name, value in terms.items() if value not in (None, (), {})}
    # ASCII: its escapes hold text that UTF-8 does not.
    return json.dumps(given, ensure_ascii=True, separators=(",", ":"))
