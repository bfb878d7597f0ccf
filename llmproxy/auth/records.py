"""Records of keys out of the fields that a source has, whatever it writes them as.

What restricts a key and cannot be read is never left out: then there is no record. It knows nothing
of how the fields were got.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast

from llmproxy.auth import field_values as values
from llmproxy.auth.judge import prepare
from llmproxy.config.key_fields import KEY_FIELDS
from llmproxy.config.keys import SHORTEST_KEY
from llmproxy.entitlements import OwnLimits, Quota, QuotaPeriod
from llmproxy.errors import MalformedRecord
from llmproxy.key_records import KeyRecord, KeyStatus

_FURTHER_NAMES: Final = frozenset(("expired_at", "rate_limit"))
_STATUSES: Final[tuple[KeyStatus, ...]] = ("active", "disabled", "quota_exceeded", "expired")
"""In the order of their numbers."""

_PERIODS: Final = ("daily", "weekly", "monthly", "never")
_LIMITS: Final = (
    "requests_per_second",
    "requests_per_minute",
    "tokens_per_minute",
    "max_concurrent",
    "burst_size",
)

_T = TypeVar("_T")


def record_from_fields(
    fields: Mapping[str, Any], default_id: Callable[[], str], credential: str = ""
) -> KeyRecord:
    """Make a record.

    Args:
        fields: By the names that the configuration gives them; those with other names are ignored.
        default_id: Makes the id when there is none; it may take its time.
        credential: The key itself: it is not taken for an id or a name, which others see.

    Raises:
        MalformedRecord: A field cannot be read, or there is not a single one that is a key's (then
            something else is kept in that place); the message names the field, never its value.
    """
    if not (_FURTHER_NAMES.union(KEY_FIELDS) & fields.keys()):
        raise MalformedRecord("what is kept there has no field of a key")

    def public(name: str) -> str:
        shown = _read(fields, name, values.text)
        shows = shown == credential or (len(credential) >= SHORTEST_KEY and credential in shown)
        return "" if shows else shown

    record = KeyRecord(
        id=public("id") or default_id(),
        name=public("name"),
        user_id=public("user_id"),
        status=_read(fields, "status", _status),
        allowed_models=_read(fields, "allowed_models", values.names),
        allowed_ips=_read(fields, "allowed_ips", values.names),
        denied_ips=_read(fields, "denied_ips", values.names),
        starts_at_s=_read(fields, "starts_at", values.moment),
        expires_at_s=_earliest(
            _read(fields, "expires_at", values.moment), _read(fields, "expired_at", values.moment)
        ),
        quota=_quota(fields),
        own_limits=_own_limits(fields),
        metadata=_metadata(fields),
    )
    if "" in record.allowed_models:
        raise MalformedRecord("allowed_models has an empty name; want globs of model ids")
    prepare(record)
    return record


def _read(fields: Mapping[str, Any], name: str, read: Callable[[Any], _T]) -> _T:
    try:
        return read(fields.get(name))
    except MalformedRecord as error:
        raise MalformedRecord(f"{name} {error}") from None


def _status(value: Any) -> KeyStatus:
    if isinstance(value, bool):
        # True is "active" to one and 1, "disabled", to another.
        raise MalformedRecord("is true or false; want a number or a word")
    shown = values.text(value).lower()
    if not shown:
        return "active"
    for number, status in enumerate(_STATUSES):
        if shown in (status, str(number)):
            return status
    raise MalformedRecord(f"is unknown; want one of: {', '.join(_STATUSES)}")


def _period(value: Any) -> QuotaPeriod:
    shown = values.text(value).lower() or "never"
    if shown not in _PERIODS:
        raise MalformedRecord(f"is unknown; want one of: {', '.join(_PERIODS)}")
    return cast(QuotaPeriod, shown)


def _quota(fields: Mapping[str, Any]) -> Quota | None:
    total = _read(fields, "total_quota", values.whole)
    if total is None:
        return None
    return Quota(
        total=total,
        period=_read(fields, "quota_reset_period", _period),
        used_before=_read(fields, "used_quota", values.whole) or 0,
    )


def _own_limits(fields: Mapping[str, Any]) -> OwnLimits | None:
    nested = _read(fields, "rate_limit", values.mapping) or {}
    given: dict[str, int | None] = {}
    for name in _LIMITS:
        given[name] = _read(fields, name, values.whole)
        if given[name] is None:
            given[name] = _read(nested, name, values.whole)
    own = OwnLimits(**given)
    return None if own == OwnLimits() else own


def _metadata(fields: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(values.mapping(fields.get("metadata")) or {})
    except MalformedRecord:
        return {}  # it restricts nothing


def _earliest(one: float | None, other: float | None) -> float | None:
    return min((at for at in (one, other) if at is not None), default=None)
