"""Keys as their sources know them and as the key store keeps them; never the keys themselves.

Pure values: no I/O, no clock, no Twisted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from llmproxy.entitlements import OwnLimits, Quota

KeyStatus = Literal["active", "disabled", "quota_exceeded", "expired"]
"""What a key's source says of it; all but ``active`` are refused."""


@attrs.frozen(kw_only=True)
class KeyRecord:
    """What a source of keys knows of one key; the key itself is never in it.

    Attributes:
        id: Stable and public; unique over all sources.
        name: For humans.
        user_id: Whose it is.
        status: What the source says of it.
        allowed_models: Globs of model ids; empty: all.
        allowed_ips: Networks or addresses; empty: all.
        denied_ips: Networks or addresses; stronger than ``allowed_ips``.
        starts_at_s: Before it the key is refused, seconds since the epoch; None: no start.
        expires_at_s: The end of its life, seconds since the epoch; None: never.
        quota: Its budget; None: none.
        own_limits: Instead of the limits of every key; None: those.
        metadata: Whatever else is to be known of it; JSON values.
    """

    id: str
    name: str = ""
    user_id: str = ""
    status: KeyStatus = "active"
    allowed_models: tuple[str, ...] = ()
    allowed_ips: tuple[str, ...] = ()
    denied_ips: tuple[str, ...] = ()
    starts_at_s: float | None = None
    expires_at_s: float | None = None
    quota: Quota | None = None
    own_limits: OwnLimits | None = None
    metadata: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class StoredKey:
    """A key as the key store has it.

    Attributes:
        record: What is known of it.
        prefix: Its first characters, for humans to tell it by.
        digest: HMAC-SHA256 of the key under the server's secret, 32 bytes.
        created_at_s: Seconds since the epoch.
        updated_at_s: Seconds since the epoch.
    """

    record: KeyRecord
    prefix: str
    digest: bytes = attrs.field(repr=False)
    created_at_s: float
    updated_at_s: float


@attrs.frozen(kw_only=True)
class KeyDraft:
    """A key to be stored.

    Attributes:
        record: What is known of it; with an empty id the store gives it one.
        key: The key itself; empty: ``digest`` and ``prefix`` are given.
        digest: As in `StoredKey`, of a key that only another store has seen.
        prefix: As in `StoredKey`.
        says_status: Whether the record's status is meant; else a stored key keeps its own.
    """

    record: KeyRecord
    key: str = attrs.field(default="", repr=False)
    digest: bytes = attrs.field(default=b"", repr=False)
    prefix: str = ""
    says_status: bool = True


@attrs.frozen(kw_only=True)
class KeyFilter:
    """Which of the stored keys to list; the newest first.

    Attributes:
        offset: How many to leave out, at least 0.
        limit: How many to give at most, at least 1.
        user_id: Only theirs; empty: everybody's.
        status: Only those; None: all.
        search: Only those with it in their id, name, user or prefix, in any case; empty: all.
    """

    offset: int = 0
    limit: int = 20
    user_id: str = ""
    status: KeyStatus | None = None
    search: str = ""


@attrs.frozen
class SyncCounts:
    """What a synchronisation of keys has changed.

    Attributes:
        created: How many keys it made.
        updated: How many it changed.
        deleted: How many it deleted.
        begun: By their ids, the quotas of those made or changed that begin above nothing.
    """

    created: int = 0
    updated: int = 0
    deleted: int = 0
    begun: Mapping[str, Quota] = attrs.field(factory=dict, eq=False)
