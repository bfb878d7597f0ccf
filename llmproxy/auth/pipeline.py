"""Several sources of keys in a row, and how the configuration makes them.

It knows what an authenticator promises, and which class each configured type stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from zope.interface import implementer

from llmproxy.auth.anonymous import AnonymousAuthenticator
from llmproxy.auth.static import StaticAuthenticator
from llmproxy.config.model import Auth, StaticKey
from llmproxy.errors import InvalidApiKey
from llmproxy.interfaces import IAuthenticator
from llmproxy.values import Principal


@implementer(IAuthenticator)
class FirstMatch:
    """Asks one source after the other; the first that knows the key decides.

    A source that knows the key but refuses it has decided, too: a disabled key does not come back
    to life further down. Cancelling cancels the source that is being asked.

    Args:
        sources: In the order in which they are asked; with none every key is unknown.
    """

    def __init__(self, sources: Sequence[IAuthenticator]) -> None:
        self._sources = tuple(sources)

    def __repr__(self) -> str:
        return f"<FirstMatch {list(self._sources)!r}>"

    def authenticate(self, credential: str, client_ip: str) -> Deferred[Principal]:
        """Say who a credential stands for; see `IAuthenticator`."""
        return self._ask(0, credential, client_ip)

    def _ask(self, position: int, credential: str, client_ip: str) -> Deferred[Principal]:
        if position == len(self._sources):
            return fail(InvalidApiKey())

        def next_one(failure: Failure) -> Deferred[Principal]:
            failure.trap(InvalidApiKey)
            return self._ask(position + 1, credential, client_ip)

        asked = self._sources[position].authenticate(credential, client_ip)
        return asked.addErrback(next_one)


def from_config(
    auth: Auth,
    api_keys: Sequence[StaticKey],
    *,
    secret: bytes,
    now: Callable[[], float],
) -> IAuthenticator:
    """Make the authenticator that the configuration asks for.

    Args:
        auth: The section ``auth``.
        api_keys: The short form's list; asked last, and only with ``auth.storage: file``.
        secret: Random bytes of this process, under which keys are hashed.
        now: Gives the wall clock's time, seconds since the epoch.

    Raises:
        ValueError: A provider of a type that has no class here.
    """
    if not auth.enabled:
        return AnonymousAuthenticator()
    sources: list[IAuthenticator] = []
    for provider in auth.pipeline:
        if provider.type != "static":
            raise ValueError(f"auth provider {provider.name!r}: type {provider.type!r}, not static")
        sources.append(StaticAuthenticator(provider.static.keys, secret=secret, now=now))
    if auth.storage == "file":
        sources.append(StaticAuthenticator(api_keys, secret=secret, now=now))
    return sources[0] if len(sources) == 1 else FirstMatch(sources)
