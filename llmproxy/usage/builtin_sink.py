"""The reporter of type ``builtin``: usage records where the admin API asks for them.

It knows nothing of the store's kind, of the spool, and of when batches come.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import implementer

from llmproxy.deliveries import Batch
from llmproxy.errors import DeliveryFailed, StoreUnavailable
from llmproxy.interfaces import IRecordStore, IUsageSink
from llmproxy.usage.batches import records_of


@implementer(IUsageSink)
class BuiltinSink:
    """Stores records in the gateway's own store.

    Args:
        name: The reporter's.
        store: Where they are kept.
    """

    kinds = frozenset(("usage",))

    def __init__(self, name: str, store: IRecordStore) -> None:
        self._name = name
        self._store = store

    def __repr__(self) -> str:
        return f"<BuiltinSink {self._name} {self._store!r}>"

    def deliver(self, batch: Batch) -> Deferred[None]:
        """Store a batch; see `IUsageSink`."""
        return Deferred.fromCoroutine(self._deliver(batch))

    async def _deliver(self, batch: Batch) -> None:
        try:
            await self._store.add(records_of(batch, f"reporter {self._name}"))
        except StoreUnavailable as error:
            raise DeliveryFailed(str(error)) from error
