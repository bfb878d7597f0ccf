"""Who a credential stands for, by what the sources of keys say.

A key that is in memory costs no Deferred that waits. Unknown keys are counted by address before
anybody is asked for them. It knows the sources as `Verdicts` only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from llmproxy.auth.credentials import MAX_CREDENTIAL_BYTES
from llmproxy.auth.digests import KeyDigests
from llmproxy.auth.throttle import FailureThrottle
from llmproxy.auth.verdicts import UNSAID, Verdict, Verdicts
from llmproxy.errors import InvalidApiKey, TooManyFailures
from llmproxy.interfaces import IAuthenticator
from llmproxy.values import Principal

_T = TypeVar("_T")


@implementer(IAuthenticator)
class KeyAuthenticator:
    """Authenticates by keys.

    Args:
        verdicts: The sources.
        digests: Of this process; the sources go by the same.
        throttle: Counts unknown keys by address; None: nobody does.
        now: Gives the wall clock's time, seconds since the epoch.
        is_stored: Says whether an id is that of a key in the key store.
    """

    def __init__(
        self,
        verdicts: Verdicts,
        *,
        digests: KeyDigests,
        throttle: FailureThrottle | None,
        now: Callable[[], float],
        is_stored: Callable[[str], bool],
    ) -> None:
        self._verdicts = verdicts
        self._digests = digests
        self._throttle = throttle
        self._now = now
        self._is_stored = is_stored
        # How many wait for what is said of a key that was not known: they who join cost nothing.
        self._asked: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return f"<KeyAuthenticator {self._verdicts!r} {self._throttle!r}>"

    def authenticate(self, credential: str, client_ip: str) -> Deferred[Principal]:
        """Say who a credential stands for; see `IAuthenticator`.

        A credential that can be no key (`credentials.UNREADABLE` is such a one) is unknown without
        anybody being asked, and counted like one that was looked for.
        """
        if not credential:
            return fail(InvalidApiKey())
        digest = self._digests.of(credential)
        verdict = self._verdicts.recall(digest) if _may_be_key(credential) else None
        if verdict is None or verdict is UNSAID:
            throttle = None if self._verdicts.has_record(digest) else self._throttle
            if throttle is not None and digest not in self._asked:
                blocked_s = throttle.blocked_s(client_ip)
                if blocked_s > 0:
                    return fail(TooManyFailures(retry_after_s=blocked_s))
            if verdict is None:
                return self._judged(None, client_ip)
            asked = self._verdicts.ask(credential, digest)
            if throttle is not None:
                self._asked[digest] = self._asked.get(digest, 0) + 1
                asked.addBoth(self._told, digest, throttle.begin(client_ip))
            return asked.addCallback(self._judged, client_ip)
        return self._judged(verdict, client_ip)

    def _told(self, outcome: _T, digest: bytes, end: Callable[[], None]) -> _T:
        """Let one wait less for what is said of a key."""
        end()
        self._asked[digest] -= 1
        if not self._asked[digest]:
            del self._asked[digest]
        return outcome

    def _judged(self, verdict: Verdict | None, client_ip: str) -> Deferred[Principal]:
        if verdict is None:
            if self._throttle is not None:
                self._throttle.note_failure(client_ip)
            return fail(InvalidApiKey())
        refusal = verdict.refusal(self._now(), client_ip)
        return succeed(verdict.principal) if refusal is None else fail(refusal)

    def forget(self, key_ids: Collection[str] | None) -> None:
        """Ask anew for those keys, and for all that were unknown; None: for all."""
        self._verdicts.forget(key_ids)

    def principal_id(self, digest: bytes, key_id: str) -> str:
        """Give the id of the principal that a key stands for, of the id of one of its records."""
        return self._verdicts.principal_id(digest, key_id)

    def stored_id(self, key_id: str) -> str | None:
        """Give the id in the key store of a principal's key; None: it is not from there."""
        return next(
            (one for one in self._verdicts.ids_behind(key_id) if self._is_stored(one)), None
        )


def _may_be_key(credential: str) -> bool:
    return (
        credential.isascii()
        and credential.isprintable()
        and len(credential) <= MAX_CREDENTIAL_BYTES
    )
