"""What is kept in the place of a key: a keyed digest to find it by, and a public id to name it by.

It knows nothing of sources, records or requests.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MAX_IDS: Final = 10_000
"""How many derived ids are remembered at most."""


class KeyDigests:
    """Makes MACs of keys by keyed BLAKE2b (RFC 7693), which costs a third of HMAC-SHA256.

    Args:
        secret: Random bytes of this process, 16 to 64 of them; the digests mean nothing elsewhere.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "<KeyDigests>"

    def of(self, key: str) -> bytes:
        """Give the digest of a key, 32 bytes."""
        message = key.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(message, key=self._secret, digest_size=32).digest()


class DefaultIds:
    """Derives ids for the keys of one source that have none there.

    The derivation must be slow, for ids are public (see `public_key_id`), and the same in every
    process, for counters of quotas go by it: so it can hang on no secret of the process. A source
    is asked for a key in use every second or so, therefore it is done once for each key, and
    remembered by the key's digest; and only for keys that were found, so strangers cannot make us
    work.

    Args:
        source: The source's name: two sources that know a key call it by different ids.
        digests: Of this process.
    """

    def __init__(self, source: str, digests: KeyDigests) -> None:
        self._source = source
        self._digests = digests
        self._ids: OrderedDict[bytes, str] = OrderedDict()

    def __repr__(self) -> str:
        return f"<DefaultIds {self._source} remembered={len(self._ids)}>"

    def of(self, key: str) -> str:
        """Give the id of a key."""
        digest = self._digests.of(key)
        found = self._ids.get(digest)
        if found is None:
            found = self._ids[digest] = public_key_id(key, self._source)
            if len(self._ids) > MAX_IDS:
                self._ids.popitem(last=False)
        else:
            self._ids.move_to_end(digest)
        return found

    def maker(self, key: str) -> Callable[[], str]:
        """Give a function that gives the id of a key: whoever does not call it pays nothing."""
        return lambda: self.of(key)


def public_key_id(key: str, source: str = "") -> str:
    """Derive the id by which logs and usage records name a key.

    It hangs on the key and its source's name alone, so it outlives restarts, reloads and a new
    order in the file, and is the same in all replicas. Since it is public, a plain hash of it would
    let short keys be guessed offline; scrypt (RFC 7914) with 1 MiB makes each guess dear, and still
    costs only some milliseconds per key.
    """
    salt = b"llmproxy-key-id" + (b":" + source.encode("utf-8", "surrogatepass") if source else b"")
    digest = hashlib.scrypt(
        key.encode("utf-8", "surrogatepass"), salt=salt, n=1024, r=8, p=1, dklen=6
    )
    return f"key-{digest.hex()}"
