"""What one configuration's sources of keys leave to the next one's.

What a source was told of keys outlives a reload when its settings stay. Keys that stand in the file
need no memory, but whoever runs with one that has gone from it is to be found. It knows nothing of
how sources are put together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from llmproxy.auth.cached import CachedSource
from llmproxy.auth.keyed import KeyAuthenticator
from llmproxy.auth.static import StaticSource
from llmproxy.config.model_auth import Provider
from llmproxy.errors import GatewayError, InvalidApiKey
from llmproxy.interfaces import IKeySource


@attrs.frozen(eq=False)
class AskedSource:
    """A source that must be waited for.

    Attributes:
        provider: Its settings.
        store: What it asks; None: a service that needs no connection.
        source: The source itself.
        cached: With what it said.
    """

    provider: Provider
    store: object
    source: IKeySource
    cached: CachedSource


@attrs.frozen(eq=False)
class Pipeline:
    """The sources of one configuration, put together.

    Attributes:
        authenticator: Asks them.
        listed: Those of keys that stand in the file.
        asked: Those that must be waited for and tell of keys by the keys' own ids.
    """

    authenticator: KeyAuthenticator
    listed: Sequence[StaticSource] = ()
    asked: Sequence[AskedSource] = ()

    def kept(self, provider: Provider, store: object) -> AskedSource | None:
        """Give the source of those settings, with all that it said; None: there is none."""
        return next(
            (one for one in self.asked if one.provider == provider and one.store is store), None
        )


def revoked(before: Pipeline, after: Pipeline, now_s: float) -> Iterator[tuple[str, GatewayError]]:
    """Say which keys of the file were good and are good no more.

    Args:
        before: The sources as they were.
        after: The sources as they are.
        now_s: Seconds since the epoch.

    Returns:
        The id of each one's principal, and why it is refused now.
    """
    for source in before.listed:
        for digest, key in source.known():
            if key.refusal_anywhere(now_s) is not None:
                continue
            found = next(filter(None, (one.recall(digest) for one in after.listed)), None)
            refusal = InvalidApiKey() if found is None else found.refusal_anywhere(now_s)
            if refusal is not None:
                yield before.authenticator.principal_id(digest, key.record.id), refusal
