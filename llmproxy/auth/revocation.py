"""What a key's end means for its running requests: ``auth.on_revoke``.

It learns of changes in the key store, and of keys that a renewed verdict turned bad, and has the
requests cut that no longer have a good key. It knows nothing of requests but their keys' ids.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmproxy.auth.judge import prepare
from llmproxy.errors import (
    GatewayError,
    InvalidApiKey,
    MalformedRecord,
    QuotaExceeded,
    StoreUnavailable,
)
from llmproxy.interfaces import IKeyStore

RETRY_S: Final = 1.0
"""When the key store is asked once more, after it could not say."""

_NOTHING: Final[frozenset[str]] = frozenset()


class Revocation:
    """Cuts the running requests of keys that are gone, disabled or past their end.

    A budget that is spent cuts nothing: what runs was let in under it. Keys of the store are looked
    up when it tells of a change; one that cannot be is looked up again after a second, once, and at
    the next change.

    Args:
        store: The key store.
        stored_id: Gives the id in the store of a running request's key; None: it is not from there.
        running_keys: Gives the ids of the keys of all running requests.
        cut: Ends the running requests of a key, for a reason; does not raise.
        clock: The reactor's time.
        now: Gives the wall clock's time, seconds since the epoch.
    """

    _log = Logger()

    def __init__(
        self,
        store: IKeyStore | None,
        *,
        stored_id: Callable[[str], str | None],
        running_keys: Callable[[], Collection[str]],
        cut: Callable[[str, GatewayError], None],
        clock: IReactorTime,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._stored_id = stored_id
        self._running_keys = running_keys
        self._cut = cut
        self._clock = clock
        self._now = now
        self._changed: frozenset[str] | None = _NOTHING
        self._checking: Deferred[bool] | None = None
        self._may_retry = True
        self._retry: IDelayedCall | None = None

    def __repr__(self) -> str:
        what = "all" if self._changed is None else len(self._changed)
        return f"<Revocation to_check={what} checking={self._checking is not None}>"

    def key_revoked(self, key_id: str, error: GatewayError) -> None:
        """Take it that a key is good no more, as a source has said."""
        if not isinstance(error, QuotaExceeded) and key_id in self._running_keys():
            self._cut_for(key_id, error)

    def keys_changed(self, key_ids: frozenset[str] | None) -> None:
        """Take it that keys of the store changed or went; None: any of them may have."""
        self._note(key_ids)
        self._cancel_retry()
        self._may_retry = True
        self._check()

    def stop(self) -> None:
        """Check nothing any more."""
        self._changed = _NOTHING
        self._cancel_retry()
        if self._checking is not None:
            self._checking.cancel()

    def _note(self, key_ids: frozenset[str] | None) -> None:
        if key_ids is None or self._changed is None:
            self._changed = None
        else:
            self._changed |= key_ids

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _check(self) -> None:
        if self._checking is not None or self._store is None:
            return  # who checks sees to what is noted meanwhile
        checking = self._checking = Deferred.fromCoroutine(self._check_noted(self._store))
        checking.addCallbacks(self._checked, self._failed)

    def _checked(self, complete: bool) -> None:
        self._checking = None
        if not complete and self._may_retry:
            self._retry = self._clock.callLater(RETRY_S, self._check_again)

    def _failed(self, failure: Failure) -> None:
        self._checking = None
        if not failure.check(CancelledError):
            self._log.failure("keys that may be revoked could not be checked", failure)

    def _check_again(self) -> None:
        self._retry = None
        self._may_retry = False
        self._check()

    async def _check_noted(self, store: IKeyStore) -> bool:
        """Check what is noted, until nothing is; say whether that came to its end."""
        while self._changed is None or self._changed:
            changed, self._changed = self._changed, _NOTHING
            for key_id in tuple(self._running_keys()):
                stored_id = self._stored_id(key_id)
                if stored_id is None or (changed is not None and stored_id not in changed):
                    continue
                try:
                    stored = await store.get(stored_id)
                    refusal = (
                        InvalidApiKey()
                        if stored is None
                        else prepare(stored.record).refusal_anywhere(self._now())
                    )
                except MalformedRecord as error:
                    self._log.warn("key {key_id}: {reason}", key_id=stored_id, reason=str(error))
                except StoreUnavailable as error:
                    self._note(changed)
                    self._log.warn(
                        "running requests of changed keys go on, for now: {reason}",
                        reason=str(error),
                    )
                    return False
                else:
                    if refusal is not None and not isinstance(refusal, QuotaExceeded):
                        self._cut_for(key_id, refusal)
        return True

    def _cut_for(self, key_id: str, error: GatewayError) -> None:
        self._log.info(
            "key {key_id}: running requests are cut: {code}", key_id=key_id, code=error.code
        )
        self._cut(key_id, error)
