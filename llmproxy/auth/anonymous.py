"""What stands in for keys when authentication is off.

It must know nothing of keys: whoever calls is the same principal.
"""

from __future__ import annotations

from collections.abc import Collection

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from llmproxy.interfaces import IAuthenticator
from llmproxy.values import ANONYMOUS, Principal


@implementer(IAuthenticator)
class AnonymousAuthenticator:
    """Takes any credential, and none, for the anonymous principal."""

    def __repr__(self) -> str:
        return "<AnonymousAuthenticator>"

    def authenticate(self, credential: str, client_ip: str) -> Deferred[Principal]:  # noqa: ARG002
        """Let everybody in; see `IAuthenticator`."""
        return succeed(ANONYMOUS)

    def forget(self, key_ids: Collection[str] | None) -> None:
        """Forget nothing: no key is known."""

    def stored_id(self, key_id: str) -> str | None:  # noqa: ARG002
        """Say that nobody's key is in the key store."""
        return None
