"""What the admin API's JSON of keys means: from requests to records and drafts, and to answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import attrs
from msgspec import UNSET, UnsetType

from llmproxy.entitlements import OwnLimits, Quota
from llmproxy.errors import InvalidBody
from llmproxy.key_records import KeyDraft, KeyFilter, KeyRecord, KeyStatus, StoredKey
from llmproxy.wire.admin_keys import (
    LARGEST_PAGE,
    CreateKey,
    Key,
    KeyFields,
    ListKeys,
    RatesShown,
    Status,
    StatusNumber,
    SyncKey,
)

_BY_NUMBER: tuple[KeyStatus, ...] = ("active", "disabled", "quota_exceeded", "expired")
_NUMBERS: Mapping[str, StatusNumber] = {
    "active": 0,
    "disabled": 1,
    "quota_exceeded": 2,
    "expired": 3,
}
_NO_RATES = OwnLimits()

T = TypeVar("T")


def changed(record: KeyRecord, fields: KeyFields, at: str = "") -> KeyRecord:
    """Give a record with the fields of a request put in; null puts the default there.

    Of ``rate_limit`` only the limits that are named change. ``used_quota`` becomes the number that
    counting starts from, when the key is first met.

    Args:
        record: What is known of the key.
        fields: The request, already checked.
        at: Its path in the body, as in `Request.check`.

    Raises:
        InvalidBody: The fields do not go together.
    """
    starts_at_s = _put(record.starts_at_s, _seconds(fields.starts_at), None)
    expires_at_s = _put(record.expires_at_s, _seconds(fields.expires_at), None)
    if starts_at_s is not None and expires_at_s is not None and expires_at_s <= starts_at_s:
        raise InvalidBody(
            f"{at}expires_at must be later than {at}starts_at.", param=f"{at}expires_at"
        )
    return attrs.evolve(
        record,
        name=_put(record.name, fields.name, ""),
        user_id=_put(record.user_id, fields.user_id, ""),
        status=_put(record.status, _status(fields.status), "active"),
        allowed_models=_put(record.allowed_models, fields.allowed_models, ()),
        allowed_ips=_put(record.allowed_ips, fields.allowed_ips, ()),
        denied_ips=_put(record.denied_ips, fields.denied_ips, ()),
        starts_at_s=starts_at_s,
        expires_at_s=expires_at_s,
        quota=_quota(record.quota, fields, at),
        own_limits=_own_limits(record.own_limits, fields),
        metadata=_put(record.metadata, fields.metadata, {}),
    )


def draft_to_create(request: CreateKey, key: str) -> KeyDraft:
    """Give the draft of a new key.

    Args:
        request: Checked.
        key: The one to use when the request brings none.

    Raises:
        InvalidBody: The fields do not go together.
    """
    return KeyDraft(record=changed(KeyRecord(id=""), request), key=request.key or key)


def draft_to_sync(entry: SyncKey, number: int) -> KeyDraft:
    """Give the draft of one key of a synchronisation.

    Args:
        entry: Checked.
        number: Its place in the list.

    Raises:
        InvalidBody: The fields do not go together.
    """
    record = changed(KeyRecord(id=entry.id or ""), entry, f"keys[{number}].")
    says_status = entry.status is not UNSET
    if entry.key_hash is UNSET:
        return KeyDraft(record=record, key=entry.key or "", says_status=says_status)
    digest = bytes.fromhex(entry.key_hash or "")
    return KeyDraft(
        record=record, digest=digest, prefix=entry.prefix or "", says_status=says_status
    )


def filter_of(request: ListKeys) -> KeyFilter:
    """Give which keys a request wants to see."""
    status = _status(request.status)
    return KeyFilter(
        offset=request.offset,
        limit=min(request.limit, LARGEST_PAGE),
        user_id=request.user_id,
        status=None if isinstance(status, UnsetType) else status,
        search=request.search,
    )


def shown(
    stored: StoredKey,
    *,
    now_s: float,
    used: int = 0,
    resets_at_s: float | None = None,
    whole_key: str = "",
    for_export: bool = False,
) -> Key:
    """Give a key as answers show it.

    Args:
        stored: What is stored.
        now_s: Seconds since the epoch.
        used: Tokens of its quota in the running period.
        resets_at_s: When the quota is whole again; None: never.
        whole_key: Shown instead of its beginning, if not empty.
        for_export: Whether its digest is shown, and its status as it is stored rather than as it
            is in force: to be stored elsewhere.
    """
    record = stored.record
    quota = record.quota
    status = record.status if for_export else status_in_force(record, used, now_s)
    limits = record.own_limits or _NO_RATES
    return Key(
        id=record.id,
        key=whole_key or f"{stored.prefix}...",
        name=record.name,
        user_id=record.user_id,
        status=_NUMBERS[status],
        status_text=status,
        allowed_models=record.allowed_models,
        allowed_ips=record.allowed_ips,
        denied_ips=record.denied_ips,
        starts_at=_moment(record.starts_at_s),
        expires_at=_moment(record.expires_at_s),
        total_quota=None if quota is None else quota.total,
        used_quota=0 if quota is None else used,
        quota_reset_period="never" if quota is None else quota.period,
        quota_resets_at=None if quota is None else _moment(resets_at_s),
        rate_limit=RatesShown(**attrs.asdict(limits)),
        metadata=dict(record.metadata),
        created_at=datetime.fromtimestamp(stored.created_at_s, UTC),
        updated_at=datetime.fromtimestamp(stored.updated_at_s, UTC),
        key_hash=stored.digest.hex() if for_export else UNSET,
        prefix=stored.prefix if for_export else UNSET,
    )


def status_in_force(record: KeyRecord, used: int, now_s: float) -> Status:
    """Say what a key's status comes to: its end and its budget change an active one."""
    if record.status != "active":
        return record.status
    if record.expires_at_s is not None and record.expires_at_s <= now_s:
        return "expired"
    if record.quota is not None and used >= record.quota.total:
        return "quota_exceeded"
    return "active"


def _put(old: T, new: T | UnsetType | None, default: T) -> T:
    """Give what stands after a change: the old where nothing was said, the default for null."""
    if isinstance(new, UnsetType):
        return old
    return default if new is None else new


def _status(value: Any) -> KeyStatus | UnsetType | None:
    return _BY_NUMBER[value] if isinstance(value, int) else value


def _seconds(value: datetime | UnsetType | None) -> float | UnsetType | None:
    return value.timestamp() if isinstance(value, datetime) else value


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _quota(old: Quota | None, fields: KeyFields, at: str) -> Quota | None:
    total = _put(None if old is None else old.total, fields.total_quota, None)
    if total is None:
        # What would be lost without a word is refused; what a key without a quota shows is not.
        if fields.used_quota:
            raise InvalidBody(f"{at}used_quota needs {at}total_quota.", param=f"{at}used_quota")
        if fields.quota_reset_period and fields.quota_reset_period != "never":
            raise InvalidBody(
                f"{at}quota_reset_period needs {at}total_quota.",
                param=f"{at}quota_reset_period",
            )
        return None
    before = Quota(total) if old is None else old
    return Quota(
        total,
        _put(before.period, fields.quota_reset_period, "never"),
        _put(before.used_before, fields.used_quota, 0),
    )


def _own_limits(old: OwnLimits | None, fields: KeyFields) -> OwnLimits | None:
    if fields.rate_limit is UNSET:
        return old
    if fields.rate_limit is None:
        return None
    new = attrs.evolve(
        old or _NO_RATES,
        **{
            name: value
            for name in fields.rate_limit.__struct_fields__
            if (value := getattr(fields.rate_limit, name)) is not UNSET
        },
    )
    return None if new == _NO_RATES else new
