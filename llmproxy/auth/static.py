"""Keys that are listed in the configuration file.

The keys themselves are not kept: only their digests by keyed BLAKE2b (RFC 7693), a MAC that costs
a third of HMAC-SHA256, under a secret that lives as long as the process. It knows nothing of
requests, and nothing of other sources of keys.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from llmproxy.auth.credentials import UNREADABLE
from llmproxy.auth.ip_rules import IpRules
from llmproxy.config.model import StaticKey
from llmproxy.errors import InvalidApiKey, IpNotAllowed, KeyDisabled, KeyExpired
from llmproxy.interfaces import IAuthenticator
from llmproxy.values import Principal


@attrs.frozen
class _KnownKey:
    """What is kept of one key.

    Attributes:
        digest: Its MAC.
        principal: Who it stands for.
        disabled: Whether it was switched off.
        expires_at_s: The end of its life, seconds since the epoch; None: never.
        ip_rules: From where it may be used.
    """

    digest: bytes = attrs.field(repr=False)
    principal: Principal
    disabled: bool
    expires_at_s: float | None
    ip_rules: IpRules


@implementer(IAuthenticator)
class StaticAuthenticator:
    """Knows the keys of one list.

    Its verdicts come at once. They are given in this order: unknown, disabled, expired, address not
    allowed.

    Args:
        keys: The keys; of two equal ones the first counts.
        secret: Random bytes of this process, 16 to 64 of them, under which keys are hashed.
        now: Gives the wall clock's time, seconds since the epoch.

    Raises:
        ValueError: A key is empty, or one of its networks is none.
    """

    def __init__(
        self, keys: Sequence[StaticKey], *, secret: bytes, now: Callable[[], float]
    ) -> None:
        self._secret = secret
        self._now = now
        self._known: dict[bytes, _KnownKey] = {}
        for position, key in enumerate(keys):
            if not key.key:
                raise ValueError(f"static key {position} ({key.name!r}) is empty")
            digest = self._digest(key.key)
            self._known.setdefault(
                digest,
                _KnownKey(
                    digest=digest,
                    principal=Principal(
                        key_id=public_key_id(key.key),
                        key_name=key.name,
                        user_id=key.user_id,
                        allowed_models=tuple(key.allowed_models),
                    ),
                    disabled=key.status == "disabled",
                    expires_at_s=key.expires_at,
                    ip_rules=IpRules(key.allowed_ips, key.denied_ips),
                ),
            )

    def __repr__(self) -> str:
        return f"<StaticAuthenticator keys={len(self._known)}>"

    def authenticate(self, credential: str, client_ip: str) -> Deferred[Principal]:
        """Say who a credential stands for; see `IAuthenticator`."""
        if not credential or credential == UNREADABLE:
            return fail(InvalidApiKey())
        digest = self._digest(credential)
        known = self._known.get(digest)
        # The dictionary's own comparison may stop at the first byte that differs; what it tells is
        # of the MAC under a secret, and the verdict is this comparison's, which takes its time.
        if known is None or not hmac.compare_digest(known.digest, digest):
            return fail(InvalidApiKey())
        if known.disabled:
            return fail(KeyDisabled())
        if known.expires_at_s is not None and self._now() >= known.expires_at_s:
            return fail(KeyExpired())
        if not known.ip_rules.permits(client_ip):
            return fail(IpNotAllowed())
        return succeed(known.principal)

    def _digest(self, key: str) -> bytes:
        message = key.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(message, key=self._secret, digest_size=32).digest()


def public_key_id(key: str) -> str:
    """Derive the id by which logs and usage records name a key.

    It hangs on the key alone, so it outlives restarts, reloads and a new order in the file. Since
    it is public, a plain hash of it would let short keys be guessed offline; scrypt (RFC 7914) with
    1 MiB makes each guess dear, and still costs only some milliseconds per key at the start.
    """
    digest = hashlib.scrypt(
        key.encode("utf-8", "surrogatepass"), salt=b"llmproxy-key-id", n=1024, r=8, p=1, dklen=6
    )
    return f"key-{digest.hex()}"
