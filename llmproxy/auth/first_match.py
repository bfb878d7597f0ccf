"""Several sources of keys in a row: the first that knows a key decides.

It knows nothing of what the sources are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from twisted.internet.defer import Deferred

from llmproxy.auth.verdicts import UNSAID, Unsaid, Verdict, Verdicts


class FirstMatch:
    """Asks one source after the other, and is itself `Verdicts`.

    A source that knows the key but refuses it has decided, too: a disabled key does not come back
    to life further down. One that cannot say ends it: the key may be disabled there.

    Args:
        sources: In the order in which they are asked; with none every key is unknown.
    """

    def __init__(self, sources: Sequence[Verdicts]) -> None:
        self._sources = tuple(sources)

    def __repr__(self) -> str:
        return f"<FirstMatch {list(self._sources)!r}>"

    def recall(self, digest: bytes) -> Verdict | Unsaid | None:
        """Say at once what is known; see `Verdicts`."""
        for source in self._sources:
            verdict = source.recall(digest)
            if verdict is not None:
                return verdict
        return None

    def ask(self, credential: str, digest: bytes) -> Deferred[Verdict | None]:
        """Find out; see `Verdicts`."""
        return Deferred.fromCoroutine(self._ask(credential, digest))

    async def _ask(self, credential: str, digest: bytes) -> Verdict | None:
        for source in self._sources:
            verdict = source.recall(digest)
            if verdict is UNSAID:
                verdict = await source.ask(credential, digest)
            if verdict is not None:
                return verdict
        return None

    def has_record(self, digest: bytes) -> bool:
        """Say whether any source has it; see `Verdicts`."""
        return any(source.has_record(digest) for source in self._sources)

    def forget(self, key_ids: Collection[str] | None) -> None:
        """Have all sources forget; see `Verdicts`."""
        for source in self._sources:
            source.forget(key_ids)

    def ids_behind(self, key_id: str) -> tuple[str, ...]:
        """Give the id itself; see `Verdicts`."""
        return (key_id,)

    def principal_id(self, digest: bytes, key_id: str) -> str:
        """Give the id itself; see `Verdicts`."""
        del digest
        return key_id
