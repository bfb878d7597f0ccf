"""Keys that the admin API keeps, as a source of the pipeline.

It knows nothing of how the store keeps them, nor of how they get there.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import implementer

from llmproxy.interfaces import IKeySource, IKeyStore
from llmproxy.key_records import KeyRecord


@implementer(IKeySource)
class BuiltinSource:
    """Looks keys up in the key store.

    Args:
        name: As the configuration calls it.
        store: The key store.

    Attributes:
        found_ids: The ids of all keys that were found so far; so a request's key can be told to be
            one of the store's. There are no more of them than keys in the store.
    """

    def __init__(self, name: str, store: IKeyStore) -> None:
        self.name = name
        self.found_ids: set[str] = set()
        self._store = store

    def __repr__(self) -> str:
        return f"<BuiltinSource {self.name}>"

    def find(self, credential: str) -> Deferred[KeyRecord | None]:
        """Look a key up; see `IKeySource`."""
        return Deferred.fromCoroutine(self._find(credential))

    async def _find(self, credential: str) -> KeyRecord | None:
        stored = await self._store.identify(credential)
        if stored is None:
            return None
        self.found_ids.add(stored.record.id)
        return stored.record
