"""The keys that the admin API keeps, in the gateway's own SQLite file.

Keys are stored as HMAC-SHA256 (RFC 2104) under the server's secret and looked up by that; the keys
themselves are never written. Several processes may share the file: each is told of its own changes
as they are committed, and of the others' by a counter in the file that it looks at twice a second.
It knows nothing of requests, and does not judge what is in a record.
"""

from __future__ import annotations

import base64
import hmac
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from llmproxy.errors import StoreUnavailable
from llmproxy.interfaces import IKeyStore
from llmproxy.key_records import KeyDraft, KeyFilter, KeyRecord, StoredKey, SyncCounts
from llmproxy.stores import key_table
from llmproxy.stores.key_text import shown_prefix
from llmproxy.stores.sqlite import SqliteFile

T = TypeVar("T")

POLL_INTERVAL_S: Final = 0.5
"""How often changes of other processes are looked for."""

DIGEST_BYTES: Final = 32


@attrs.frozen
class _Committed(Generic[T]):
    """What a transaction did.

    Attributes:
        before: The counter of changes when it began.
        after: The counter when it ended.
        changed: The ids that it changed.
        result: What its caller asked for.
    """

    before: int
    after: int
    changed: frozenset[str]
    result: T


@implementer(IKeyStore)
class SqliteKeyStore(Service):
    """Keys in a SQLite file.

    What `identify` gives is never older than the last change that was told before it is given, so
    whoever forgets verdicts when told cannot be given an old one afterwards.

    Cancelling a look-up leaves its result unread; cancelling a change ends only the waiting.

    Args:
        file: The file.
        secret: Under which keys are hashed.
        now: Seconds since the epoch; called in any thread.
        random_bytes: Gives so many bytes that nobody can guess; called in any thread.
        clock: The reactor's time.
        on_change: Called in the reactor's thread after each committed change with the ids of the
            keys that were made, changed or deleted; with None when another process has changed
            keys, no matter which.

    Raises:
        ValueError: The keys in the file were hashed under another secret.
        OSError: The file cannot be used.
    """

    _log = Logger()

    def __init__(
        self,
        file: SqliteFile,
        *,
        secret: bytes,
        now: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        clock: IReactorTime,
        on_change: Callable[[frozenset[str] | None], None],
    ) -> None:
        self._file = file
        self._secret = secret
        self._now = now
        self._random_bytes = random_bytes
        self._on_change = on_change
        mark = hmac.digest(secret, b"llmproxy: the secret that keys are hashed under", "sha256")
        self._seen, known = file.at_once(partial(key_table.claim, mark=mark))
        if not known:
            raise ValueError(
                f"the keys in {file.path} were hashed under another secret than the one of "
                "admin.key_secret, or in the file beside it; none of them would be known"
            )
        self._told = 0
        self._blind = False
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock
        self._looping: Deferred[Any] = succeed(None)

    def __repr__(self) -> str:
        return f"<SqliteKeyStore {self._file.path} changes={self._seen} blind={self._blind}>"

    def startService(self) -> None:
        """Begin to look for changes of other processes."""
        super().startService()
        self._looping = self._loop.start(POLL_INTERVAL_S)

    def stopService(self) -> Deferred[Any]:
        """Look no more; the Deferred fires when the last look has ended."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        return self._looping

    def create(self, draft: KeyDraft) -> Deferred[StoredKey]:
        """Store a new key; see `IKeyStore`.

        Raises:
            ValueError: (By the Deferred.) There is neither a key nor a digest of 32 bytes.
        """
        try:
            key = self._stored(draft)
        except ValueError:
            return fail()

        def work(connection: sqlite3.Connection) -> tuple[StoredKey, set[str]]:
            stored = key_table.insert(connection, key)
            return stored, {stored.record.id}

        return self._write(work)

    def get(self, key_id: str) -> Deferred[StoredKey | None]:
        """Give a key by its id; see `IKeyStore`."""
        return self._file.read(partial(key_table.by_id, key_id=key_id))

    def identify(self, key: str) -> Deferred[StoredKey | None]:
        """Give a key by the key itself; see `IKeyStore`."""
        return Deferred.fromCoroutine(self._identify(self._digest(key)))

    def update(
        self, key_id: str, change: Callable[[KeyRecord], KeyRecord]
    ) -> Deferred[StoredKey | None]:
        """Change a key; see `IKeyStore`. What ``change`` raises is the Deferred's failure."""
        now_s = self._now()

        def work(connection: sqlite3.Connection) -> tuple[StoredKey | None, set[str]]:
            key = key_table.by_id(connection, key_id=key_id)
            if key is None:
                return None, set()
            record = attrs.evolve(change(key.record), id=key.record.id)
            key = key_table.replace(
                connection, attrs.evolve(key, record=record, updated_at_s=now_s)
            )
            return key, {key.record.id}

        return self._write(work)

    def delete(self, key_id: str) -> Deferred[bool]:
        """Delete a key; see `IKeyStore`."""

        def work(connection: sqlite3.Connection) -> tuple[bool, set[str]]:
            deleted = key_table.delete(connection, key_id)
            return deleted, {key_id} if deleted else set()

        return self._write(work)

    def list(self, wanted: KeyFilter) -> Deferred[tuple[Sequence[StoredKey], int]]:
        """Give a page of the keys, and how many there are; see `IKeyStore`."""
        return self._file.read(partial(key_table.page, wanted=wanted))

    def sync(self, drafts: Sequence[KeyDraft], full: bool) -> Deferred[SyncCounts]:
        """Make the stored keys what the drafts say; see `IKeyStore`.

        A draft that says what is stored changes nothing and is not counted. It fails with
        `KeyExists`, too, when a draft's id is of one stored key and its key of another; with
        `ValueError` as `create`.
        """

        def work(connection: sqlite3.Connection) -> tuple[SyncCounts, set[str]]:
            # Here, for it takes long when they are many; meanwhile streams go on.
            keys = [(self._stored(draft), bool(draft.record.id)) for draft in drafts]
            keep_status = {
                key.digest
                for (key, _), draft in zip(keys, drafts, strict=True)
                if not draft.says_status
            }
            return key_table.sync(connection, keys, full=full, keep_status=keep_status)

        return self._write(work)

    def _stored(self, draft: KeyDraft) -> StoredKey:
        """Make of a draft what is to be stored.

        Raises:
            ValueError: There is neither a key nor a digest.
        """
        if draft.key:
            digest, prefix = self._digest(draft.key), shown_prefix(draft.key)
        elif len(draft.digest) == DIGEST_BYTES:
            digest, prefix = draft.digest, draft.prefix
        else:
            raise ValueError(
                f"a draft without a key has a digest of {len(draft.digest)} bytes; want "
                f"{DIGEST_BYTES}"
            )
        record, now_s = draft.record, self._now()
        if not record.id:
            record = attrs.evolve(record, id=self._new_id())
        return StoredKey(
            record=record, prefix=prefix, digest=digest, created_at_s=now_s, updated_at_s=now_s
        )

    def _new_id(self) -> str:
        return "key_" + base64.b32encode(self._random_bytes(10)).decode("ascii").lower()

    def _digest(self, key: str) -> bytes:
        return hmac.digest(self._secret, key.encode("utf-8", "surrogatepass"), "sha256")

    async def _identify(self, digest: bytes) -> StoredKey | None:
        while True:
            told = self._told
            key = await self._file.read(partial(key_table.by_digest, digest=digest))
            if told == self._told:
                break
            # A change was told of while this was read: it may be what was before it.
        # The index may stop at the first byte that differs; what that tells is of the MAC under a
        # secret, and the verdict is this comparison's, which takes its time.
        if key is None or not hmac.compare_digest(key.digest, digest):
            return None
        return key

    def _write(self, work: Callable[[sqlite3.Connection], tuple[T, set[str]]]) -> Deferred[T]:
        """Run a transaction that gives a result and the ids it changed, and tell of these."""

        def counted(connection: sqlite3.Connection) -> _Committed[T]:
            before = key_table.changes(connection)
            result, changed = work(connection)
            after = key_table.changes(connection)
            return _Committed(before, after, frozenset(changed), result)

        return self._file.write(counted, self._committed).addCallback(lambda done: done.result)

    def _committed(self, done: _Committed[Any]) -> None:
        foreign = done.before != self._seen
        self._seen = done.after
        if foreign:
            self._tell(None)
        elif done.changed:
            self._tell(done.changed)

    def _look(self) -> Deferred[None]:
        # In the order of the writes: so the counter is what our own last one left, or another
        # process has moved it.
        looked = self._file.read_in_order(key_table.changes)
        return looked.addCallbacks(self._looked, self._cannot_look).addErrback(self._look_failed)

    def _looked(self, count: int) -> None:
        if self._blind:
            self._blind = False
            self._log.info("changes of keys by other processes are seen again")
        if count != self._seen:
            self._seen = count
            self._tell(None)

    def _cannot_look(self, failure: Failure) -> None:
        failure.trap(StoreUnavailable)
        if not self._blind and self.running:
            self._blind = True
            self._log.warn(
                "changes of keys by other processes cannot be seen now: {reason}",
                reason=failure.getErrorMessage(),
            )

    def _look_failed(self, failure: Failure) -> None:
        """Go on: a loop that ended here would never see a key revoked."""
        self._log.failure("a look for changes of keys failed", failure=failure)

    def _tell(self, changed: frozenset[str] | None) -> None:
        self._told += 1
        try:
            self._on_change(changed)
        except Exception:  # noqa: BLE001 - not the store's: what is committed stays committed
            self._log.failure("what was to be told of a change of keys failed")
