"""The operations on keys, over the key store and the limiter that counts what they use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import UNSET, UnsetType
from twisted.logger import Logger

from llmproxy.entitlements import Quota
from llmproxy.errors import KeyExists, StoreUnavailable
from llmproxy.interfaces import IKeyStore, ILimiter
from llmproxy.key_records import KeyDraft, KeyRecord, StoredKey
from llmproxy.limits.periods import period_end_s
from llmproxy.resources.admin import operations
from llmproxy.resources.admin.envelope import Refusal
from llmproxy.resources.admin.operations import Done, InThread, Note, Operation, Run
from llmproxy.wire.admin_keys import (
    CreateKey,
    Key,
    KeyDeleted,
    KeyList,
    KeyNamed,
    KeysSynced,
    ListKeys,
    SyncKeys,
    UpdateKey,
)
from llmproxy.wire.admin_records import (
    changed,
    draft_to_create,
    draft_to_sync,
    filter_of,
    shown,
)

MANY_KEYS = 200
"""More take milliseconds to be made drafts of."""


class KeyOperations:
    """Creates, shows, changes and deletes keys.

    Args:
        keys: Where they are.
        limiter: Counts what of their quotas is used.
        new_key: Makes the text of a new key.
        now: Seconds since the epoch.
        in_thread: Makes drafts of many keys.
    """

    _log = Logger()

    def __init__(
        self,
        keys: IKeyStore,
        limiter: ILimiter,
        new_key: Callable[[], str],
        now: Callable[[], float],
        in_thread: InThread,
    ) -> None:
        self._keys = keys
        self._limiter = limiter
        self._new_key = new_key
        self._now = now
        self._in_thread = in_thread

    def runs(self) -> Mapping[Operation, Run]:
        """Give what does each operation."""
        return {
            operations.CREATE_KEY: self._create,
            operations.UPDATE_KEY: self._update,
            operations.DELETE_KEY: self._delete,
            operations.GET_KEY: self._get,
            operations.LIST_KEYS: self._list,
            operations.SYNC_KEYS: self._sync,
        }

    async def _create(self, request: CreateKey, note: Note) -> Done:
        draft = draft_to_create(request, self._new_key())
        stored = await self._keys.create(draft)
        note(f"created key {stored.record.id}")
        # Whatever fails from here on would lose the key: nobody else is asked any more.
        quota = stored.record.quota
        used = {stored.record.id: quota.used_before} if quota is not None else {}
        if quota is not None and quota.used_before:
            await self._begin({stored.record.id: quota})
        return Done(
            "The key is created. This is the only time that it is shown.",
            self._shown(stored, used, whole_key=draft.key),
        )

    async def _update(self, request: UpdateKey, note: Note) -> Done:
        def change(record: KeyRecord) -> KeyRecord:
            return changed(record, request)

        found = await self._find(request.id, request.key)
        change(found.record)  # what is wrong with it is said before the store is troubled
        stored = await self._keys.update(found.record.id, change)
        if stored is None:
            raise _unknown_key()
        note(f"changed key {stored.record.id}: {', '.join(_named(request))}")
        quota, tokens = stored.record.quota, request.used_quota
        if quota is not None and tokens is not UNSET:
            await self._limiter.set_quota_used(stored.record.id, quota, tokens or 0)
        return Done("The key is changed.", self._shown(stored, await self._used([stored])))

    async def _delete(self, request: KeyNamed, note: Note) -> Done:
        key_id = request.id
        if not isinstance(key_id, str):
            key_id = (await self._find(UNSET, request.key)).record.id
        if not await self._keys.delete(key_id):
            raise _unknown_key()
        note(f"deleted key {key_id}")
        return Done("The key is deleted.", KeyDeleted(id=key_id))

    async def _get(self, request: KeyNamed, note: Note) -> Done:
        del note
        stored = await self._find(request.id, request.key)
        return Done("This is the key.", self._shown(stored, await self._used([stored])))

    async def _list(self, request: ListKeys, note: Note) -> Done:
        del note
        wanted = filter_of(request)
        page, total = await self._keys.list(wanted)
        used = await self._used(page)
        keys = tuple(self._shown(stored, used, for_export=request.include_hash) for stored in page)
        return Done(
            "These are the keys.",
            KeyList(keys=keys, total=total, offset=wanted.offset, limit=wanted.limit),
        )

    async def _sync(self, request: SyncKeys, note: Note) -> Done:
        def make_drafts() -> list[KeyDraft]:
            return [draft_to_sync(entry, number) for number, entry in enumerate(request.keys)]

        many = len(request.keys) > MANY_KEYS
        drafts = await self._in_thread(make_drafts) if many else make_drafts()
        try:
            counts = await self._keys.sync(drafts, request.is_full)
        except KeyExists:
            raise Refusal(
                409, "Two of the keys are the same, or have the same id.", param="keys"
            ) from None
        mode = "full" if request.is_full else "incremental"
        note(
            f"synchronised keys ({mode}): {counts.created} created, "
            f"{counts.updated} updated, {counts.deleted} deleted"
        )
        await self._begin(counts.begun)
        return Done(
            "The keys are synchronised.",
            KeysSynced(created=counts.created, updated=counts.updated, deleted=counts.deleted),
        )

    async def _begin(self, quotas: Mapping[str, Quota]) -> None:
        """Have what is used already count in this period, whenever the keys are met first."""
        ids = list(quotas)
        for first in range(0, len(ids), MANY_KEYS):
            some = {key_id: quotas[key_id] for key_id in ids[first : first + MANY_KEYS]}
            try:
                await self._limiter.quota_used(some)
            except StoreUnavailable as error:
                self._log.warn("of what keys have used, some may count later: {error}", error=error)
                return

    async def _find(self, key_id: str | UnsetType, key: str | UnsetType) -> StoredKey:
        if isinstance(key_id, str):
            found = await self._keys.get(key_id)
        else:
            found = await self._keys.identify(key or "")
        if found is None:
            raise _unknown_key()
        return found

    async def _used(self, page: Sequence[StoredKey]) -> Mapping[str, int]:
        """Ask what is used of the quotas of those that have one."""
        quotas = {
            stored.record.id: stored.record.quota
            for stored in page
            if stored.record.quota is not None
        }
        return await self._limiter.quota_used(quotas) if quotas else {}

    def _shown(
        self,
        stored: StoredKey,
        used: Mapping[str, int],
        *,
        whole_key: str = "",
        for_export: bool = False,
    ) -> Key:
        quota, now_s = stored.record.quota, self._now()
        return shown(
            stored,
            now_s=now_s,
            used=used.get(stored.record.id, 0),
            resets_at_s=None if quota is None else period_end_s(quota.period, now_s),
            whole_key=whole_key,
            for_export=for_export,
        )


def _unknown_key() -> Refusal:
    return Refusal(404, "There is no such key.")


def _named(request: UpdateKey) -> list[str]:
    """List the fields that a request names; their values may be anybody's secret."""
    return [
        field
        for field in request.__struct_fields__
        if field not in ("id", "key") and getattr(request, field) is not UNSET
    ]
