"""Keys that are listed in the configuration file.

The keys themselves are not kept, only their digests under a secret that lives as long as the
process. It knows nothing of requests, and nothing of other sources of keys.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from llmproxy.auth.digests import KeyDigests, public_key_id
from llmproxy.auth.judge import PreparedKey, prepare
from llmproxy.auth.verdicts import Verdict
from llmproxy.config.model_auth import OwnLimits as ConfiguredLimits
from llmproxy.config.model_auth import StaticKey
from llmproxy.entitlements import OwnLimits, Quota
from llmproxy.interfaces import IKeySource
from llmproxy.key_records import KeyRecord


@implementer(IKeySource)
class StaticSource:
    """Knows the keys of one list, and says so at once; it is its own `Verdicts`.

    Args:
        name: As the configuration calls it.
        keys: The keys; of two equal ones the first counts.
        digests: Of this process.
        ids: Of keys that were listed before, by digest: to derive them takes its time.

    Raises:
        ValueError: A key is empty.
        MalformedRecord: One of its networks is none.
    """

    def __init__(
        self,
        name: str,
        keys: Sequence[StaticKey],
        *,
        digests: KeyDigests,
        ids: Mapping[bytes, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self._digests = digests
        self._known: dict[bytes, tuple[bytes, PreparedKey]] = {}
        for position, key in enumerate(keys):
            if not key.key:
                raise ValueError(f"static key {position} ({key.name!r}) is empty")
            digest = digests.of(key.key)
            if digest not in self._known:
                key_id = ids.get(digest) or public_key_id(key.key)
                self._known[digest] = (digest, prepare(_record(key, key_id)))

    def __repr__(self) -> str:
        return f"<StaticSource {self.name} keys={len(self._known)}>"

    def known(self) -> Iterator[tuple[bytes, PreparedKey]]:
        """Give all keys, by their digests."""
        yield from self._known.values()

    def find(self, credential: str) -> Deferred[KeyRecord | None]:
        """Look a key up; see `IKeySource`."""
        known = self.recall(self._digests.of(credential))
        return succeed(None if known is None else known.record)

    def recall(self, digest: bytes) -> PreparedKey | None:
        """Say what is known of a key; see `Verdicts`."""
        known = self._known.get(digest)
        # The dictionary's own comparison may stop at the first byte that differs; what it tells is
        # of the MAC under a secret, and the verdict is this comparison's, which takes its time.
        if known is None or not hmac.compare_digest(known[0], digest):
            return None
        return known[1]

    def ask(self, credential: str, digest: bytes) -> Deferred[Verdict | None]:
        """Say the same; see `Verdicts`."""
        del credential
        return succeed(self.recall(digest))

    def has_record(self, digest: bytes) -> bool:
        """Say whether a key is in the list; see `Verdicts`."""
        return digest in self._known

    def forget(self, key_ids: Collection[str] | None) -> None:
        """Forget nothing: what stands in the file stands; see `Verdicts`."""

    def ids_behind(self, key_id: str) -> tuple[str, ...]:
        """Give the id itself; see `Verdicts`."""
        return (key_id,)

    def principal_id(self, digest: bytes, key_id: str) -> str:
        """Give the id itself; see `Verdicts`."""
        del digest
        return key_id


def _record(key: StaticKey, key_id: str) -> KeyRecord:
    return KeyRecord(
        id=key_id,
        name=key.name,
        user_id=key.user_id,
        status=key.status,
        allowed_models=tuple(key.allowed_models),
        allowed_ips=tuple(key.allowed_ips),
        denied_ips=tuple(key.denied_ips),
        starts_at_s=key.starts_at,
        expires_at_s=key.expires_at,
        quota=_quota(key),
        own_limits=_own_limits(key.rate_limit),
        metadata=dict(key.metadata),
    )


def _quota(key: StaticKey) -> Quota | None:
    if key.total_quota is None:
        return None
    return Quota(total=key.total_quota, period=key.quota_reset_period, used_before=key.used_quota)


def _own_limits(limits: ConfiguredLimits) -> OwnLimits | None:
    own = OwnLimits(
        requests_per_second=limits.requests_per_second,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        max_concurrent=limits.max_concurrent,
        burst_size=limits.burst_size,
    )
    return None if own == OwnLimits() else own
