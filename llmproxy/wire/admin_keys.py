"""The JSON of keys in the admin API, as msgspec structs; what they mean is in ``admin_records``.

No ``repr`` of these shows a key or its digest: requests and the answer of create carry them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from llmproxy.config.keys import SUBJECT_PREFIX
from llmproxy.errors import InvalidBody
from llmproxy.wire.admin import Count, Request, wrong

LONGEST_LIST = 1000
LONGEST_TEXT = 256
LONGEST_METADATA_BYTES = 16 * 1024
LARGEST_PAGE = 100

_FIRST_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_TIME = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

_TIME = "a time such as 2030-12-31T18:00:00Z, not before 1970"
_TEXT = f"printable text of at most {LONGEST_TEXT} characters"
_LIST = f"a list of at most {LONGEST_LIST}"
_GLOBS = f"{_LIST} model ids, which may hold * and ?"
_NETWORKS = f"{_LIST} networks or addresses such as 10.0.0.0/8, fd00::/8 or 192.0.2.7"
_METADATA = f"an object of at most {LONGEST_METADATA_BYTES} bytes of JSON"
_KEY = (
    "a key of 6 to 4096 visible ASCII characters; one that begins with tls: is the subject of a "
    "client's certificate, and may have spaces"
)
_DIGEST = "the 64 lower-case hexadecimal digits of a key's HMAC-SHA256"
_ID = "the id of a key"

Status = Literal["active", "disabled", "quota_exceeded", "expired"]
StatusNumber = Literal[0, 1, 2, 3]
Period = Literal["daily", "weekly", "monthly", "never"]

# The descriptions follow "must be" in messages; the formats are ours, for those who make requests
# up from the OpenAPI document.
AnyStatus = Annotated[
    Literal["active", "disabled", "quota_exceeded", "expired", 0, 1, 2, 3],
    Meta(description="active, disabled, quota_exceeded or expired, or their numbers from 0 to 3"),
]
AnyPeriod = Annotated[Period, Meta(description="daily, weekly, monthly or never")]
Time = Annotated[datetime, Meta(tz=True, description=_TIME)]
Text = Annotated[
    str,
    Meta(max_length=LONGEST_TEXT, description=_TEXT, extra_json_schema={"format": "printable"}),
]
KeyText = Annotated[
    str,
    Meta(
        min_length=6,
        max_length=4096,
        description=_KEY,
        extra_json_schema={"pattern": f"^([!-~]+|{SUBJECT_PREFIX}[ -~]+)$"},
    ),
]
KeyId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST_TEXT,
        description=f"{_ID}, {_TEXT}",
        extra_json_schema={"format": "key-id"},
    ),
]
Digest = Annotated[
    str,
    Meta(
        min_length=64,
        max_length=64,
        description=_DIGEST,
        extra_json_schema={"pattern": "^[0-9a-f]{64}$"},
    ),
]
Glob = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST_TEXT,
        description="a model id",
        extra_json_schema={"format": "printable"},
    ),
]
Globs = Annotated[tuple[Glob, ...], Meta(max_length=LONGEST_LIST, description=_GLOBS)]
Network = Annotated[
    str,
    Meta(
        min_length=2,
        max_length=64,
        description="a network or address such as 10.0.0.0/8, fd00::/8 or 192.0.2.7",
        extra_json_schema={"format": "network"},
    ),
]
Networks = Annotated[tuple[Network, ...], Meta(max_length=LONGEST_LIST, description=_NETWORKS)]
Metadata = Annotated[Mapping[str, Any], Meta(description=_METADATA)]
PageSize = Annotated[
    int,
    Meta(ge=1, le=2**53, description=f"a whole number, at least 1; over {LARGEST_PAGE} means that"),
]
Flag = Annotated[bool, Meta(description="true or false")]
Mode = Annotated[Literal["full", "incremental"], Meta(description="full or incremental")]

_PRINTED = frozenset(("key", "key_hash"))
_KEY_TEXT = re.compile(rf"(?=.{{6,4096}}\Z)(?:[!-~]+|{SUBJECT_PREFIX}[ -~]+)")
_DIGEST_TEXT = re.compile(r"[0-9a-f]{64}")


class _Discreet(Struct):
    """A struct whose ``repr`` leaves keys and digests out."""

    def __repr__(self) -> str:
        shown = (
            f"{name}={'(hidden)' if name in _PRINTED else repr(value)}"
            for name, value in zip(
                self.__struct_fields__, msgspec.structs.astuple(self), strict=True
            )
            if value is not UNSET
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class Rates(Struct, kw_only=True, forbid_unknown_fields=True):
    """``rate_limit`` of a request; null: as every key."""

    requests_per_second: Count | UnsetType | None = UNSET
    requests_per_minute: Count | UnsetType | None = UNSET
    tokens_per_minute: Count | UnsetType | None = UNSET
    max_concurrent: Count | UnsetType | None = UNSET
    burst_size: Count | UnsetType | None = UNSET


AnyRates = Annotated[
    Rates, Meta(description="an object of limits, each a whole number not below 0, or null")
]


class KeyFields(Request, _Discreet, kw_only=True, forbid_unknown_fields=True):
    """What may be said of a key; null is what a new key has without it."""

    name: Text | UnsetType | None = UNSET
    user_id: Text | UnsetType | None = UNSET
    status: AnyStatus | UnsetType | None = UNSET
    starts_at: Time | UnsetType | None = UNSET
    expires_at: Time | UnsetType | None = UNSET
    allowed_models: Globs | UnsetType | None = UNSET
    allowed_ips: Networks | UnsetType | None = UNSET
    denied_ips: Networks | UnsetType | None = UNSET
    total_quota: Count | UnsetType | None = UNSET
    used_quota: Count | UnsetType | None = UNSET
    quota_reset_period: AnyPeriod | UnsetType | None = UNSET
    rate_limit: AnyRates | UnsetType | None = UNSET
    metadata: Metadata | UnsetType | None = UNSET

    def check(self, at: str) -> None:
        """Check what types cannot say; see `Request.check`."""
        for field in ("name", "user_id"):
            value = getattr(self, field)
            if value and not value.isprintable():
                raise wrong(at, field, _TEXT)
        for field in ("starts_at", "expires_at"):
            moment = getattr(self, field)
            if moment and not _FIRST_TIME <= moment <= _LAST_TIME:
                raise wrong(at, field, _TIME)
        for number, glob in enumerate(self.allowed_models or ()):
            if not glob.isprintable():
                raise wrong(at, f"allowed_models[{number}]", "a model id in printable characters")
        _check_networks(at, "allowed_ips", self.allowed_ips or ())
        _check_networks(at, "denied_ips", self.denied_ips or ())
        if self.metadata and len(msgspec.json.encode(self.metadata)) > LONGEST_METADATA_BYTES:
            raise wrong(at, "metadata", _METADATA)


class KeyNamed(Request, _Discreet, kw_only=True, forbid_unknown_fields=True):
    """``/admin/keys/get`` and ``/admin/keys/delete``: which, by its id or by the key itself."""

    id: KeyId | UnsetType = UNSET
    key: KeyText | UnsetType = UNSET

    def check(self, at: str) -> None:
        """Check what types cannot say; see `Request.check`."""
        _check_one_name(at, self.id, self.key)


class CreateKey(KeyFields, kw_only=True, forbid_unknown_fields=True):
    """``/admin/keys/create``; without a key one is made."""

    key: KeyText | UnsetType | None = UNSET

    def check(self, at: str) -> None:
        """Check what types cannot say; see `Request.check`."""
        _check_key_text(at, self.key)
        super().check(at)


class UpdateKey(KeyFields, kw_only=True, forbid_unknown_fields=True):
    """``/admin/keys/update``: which key, and the fields that change."""

    id: KeyId | UnsetType = UNSET
    key: KeyText | UnsetType = UNSET

    def check(self, at: str) -> None:
        """Check what types cannot say; see `Request.check`."""
        _check_one_name(at, self.id, self.key)
        super().check(at)


class ListKeys(Request, kw_only=True, forbid_unknown_fields=True):
    """``/admin/keys/list``: which page of which keys; the newest first."""

    offset: Count = 0
    limit: PageSize = 20
    user_id: Text = ""
    status: AnyStatus | None = None
    search: Text = ""
    include_hash: Flag = False

    def check(self, at: str) -> None:
        """Check what types cannot say; see `Request.check`."""
        for field in ("user_id", "search"):
            if not getattr(self, field).isprintable():
                raise wrong(at, field, _TEXT)


class SyncKey(KeyFields, kw_only=True, forbid_unknown_fields=True):
    """One key of ``/admin/keys/sync``: the key itself, or what ``include_hash`` showed of it.

    A key that is stored already keeps its status where none is given.
    """

    id: KeyId | UnsetType | None = UNSET
    key: KeyText | UnsetType = UNSET
    key_hash: Digest | UnsetType = UNSET
    prefix: Text | UnsetType = UNSET

    def check(self, at: str) -> None:
        """Check what types cannot say; see `Request.check`."""
        if (self.key is UNSET) == (self.key_hash is UNSET):
            raise InvalidBody(f"{at}key or {at}key_hash must be given, not both.", param=f"{at}key")
        _check_key_text(at, self.key)
        if self.key_hash is UNSET:
            if self.prefix is not UNSET:
                raise InvalidBody(
                    f"{at}prefix may only stand beside {at}key_hash.", param=f"{at}prefix"
                )
        elif not _DIGEST_TEXT.fullmatch(self.key_hash):
            raise wrong(at, "key_hash", _DIGEST)
        if self.prefix and not self.prefix.isprintable():
            raise wrong(at, "prefix", _TEXT)
        if self.id and not self.id.isprintable():
            raise wrong(at, "id", f"{_ID}, {_TEXT}")
        super().check(at)


class SyncKeys(Request, kw_only=True, forbid_unknown_fields=True):
    """``/admin/keys/sync``; ``full`` deletes every key that is not among these."""

    keys: Annotated[tuple[SyncKey, ...], Meta(description="a list of keys")]
    mode: Mode | UnsetType = UNSET

    @property
    def is_full(self) -> bool:
        """Whether all other keys are deleted; that is the default."""
        return self.mode != "incremental"

    def check(self, at: str) -> None:
        """Check what types cannot say; see `Request.check`."""
        if not self.keys and self.mode is UNSET:
            raise InvalidBody(
                f"{at}keys is empty, which deletes all keys; want {at}mode with it.",
                param=f"{at}mode",
            )
        for number, key in enumerate(self.keys):
            key.check(f"{at}keys[{number}].")


class RatesShown(Struct, kw_only=True):
    """``rate_limit`` of an answer; null: as every key."""

    requests_per_second: Count | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    max_concurrent: Count | None = None
    burst_size: Count | None = None


class Key(_Discreet, kw_only=True):
    """A key in answers: its beginning and three dots, but whole in the answer of create."""

    id: str
    key: str
    name: str
    user_id: str
    status: StatusNumber
    status_text: Status
    allowed_models: tuple[str, ...]
    allowed_ips: tuple[str, ...]
    denied_ips: tuple[str, ...]
    starts_at: datetime | None
    expires_at: datetime | None
    total_quota: Count | None
    used_quota: int
    quota_reset_period: Period
    quota_resets_at: datetime | None
    rate_limit: RatesShown
    metadata: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    key_hash: Digest | UnsetType = UNSET
    prefix: str | UnsetType = UNSET


class KeyList(Struct, kw_only=True):
    """``/admin/keys/list``: a page."""

    keys: tuple[Key, ...]
    total: Count
    offset: Count
    limit: Count


class KeyDeleted(Struct, kw_only=True):
    """``/admin/keys/delete``."""

    id: str


class KeysSynced(Struct, kw_only=True):
    """``/admin/keys/sync``: how many."""

    created: Count
    updated: Count
    deleted: Count


def _check_key_text(at: str, key: str | UnsetType | None) -> None:
    if isinstance(key, str) and not _KEY_TEXT.fullmatch(key):
        raise wrong(at, "key", _KEY)


def _check_one_name(at: str, key_id: str | UnsetType, key: str | UnsetType) -> None:
    if (key_id is UNSET) == (key is UNSET):
        raise InvalidBody(f"{at}id or {at}key must be given, not both.", param=f"{at}id")
    _check_key_text(at, key)
    if key_id and not key_id.isprintable():
        raise wrong(at, "id", f"{_ID}, {_TEXT}")


def _check_networks(at: str, field: str, networks: Iterable[str]) -> None:
    for number, network in enumerate(networks):
        try:
            # An address may carry a zone ("fe80::1%eth0"), which no request comes with.
            if "%" in network:
                raise ValueError
            ip_network(network)
        except ValueError:
            wanted = (
                "a network or address such as 10.0.0.0/8, fd00::/8 or 192.0.2.7, "
                "without bits beyond its prefix"
            )
            raise wrong(at, f"{field}[{number}]", wanted) from None
