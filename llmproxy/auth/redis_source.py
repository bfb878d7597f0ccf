"""Keys whose records are in Redis: each a string of JSON, or a hash.

It knows nothing of connections, and nothing of other sources of keys.
"""

from __future__ import annotations

import hashlib
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from llmproxy.auth.digests import DefaultIds
from llmproxy.auth.field_values import json_value
from llmproxy.auth.records import record_from_fields
from llmproxy.errors import MalformedRecord, RedisReplyError, StoreUnavailable
from llmproxy.interfaces import IKeySource, IRedis
from llmproxy.key_records import KeyRecord


@implementer(IKeySource)
class RedisSource:
    """Looks keys up in Redis.

    The first question takes records for strings; when one turns out to be a hash, it is asked for
    as such, and so is the next key: then one question is enough for either kind.

    Args:
        name: As the configuration calls it.
        redis: The server.
        key_pattern: Where a key's record is; ``{api_key}`` or ``{sha256}`` in it is replaced.
        ids: Makes ids for records without one.

    Raises:
        ValueError: The pattern has neither.
    """

    def __init__(self, name: str, redis: IRedis, key_pattern: str, *, ids: DefaultIds) -> None:
        self.name = name
        self._redis = redis
        self._ids = ids
        self._hashed = "{sha256}" in key_pattern
        place = "{sha256}" if self._hashed else "{api_key}"
        before, found, after = key_pattern.partition(place)
        if not found:
            raise ValueError(f"key_pattern {key_pattern!r}: want {{api_key}} or {{sha256}} in it")
        self._before, self._after = before.encode("utf-8"), after.encode("utf-8")
        self._hash_first = False

    def __repr__(self) -> str:
        return f"<RedisSource {self.name}>"

    def find(self, credential: str) -> Deferred[KeyRecord | None]:
        """Look a key up; see `IKeySource`."""
        return Deferred.fromCoroutine(self._find(credential))

    async def _find(self, credential: str) -> KeyRecord | None:
        key = credential.encode("utf-8", "surrogatepass")
        if self._hashed:
            key = hashlib.sha256(key).hexdigest().encode("ascii")
        place = self._before + key + self._after
        for as_hash in (self._hash_first, not self._hash_first):
            try:
                reply = await self._redis.call("HGETALL" if as_hash else "GET", place)
            except RedisReplyError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise StoreUnavailable("Redis refuses to tell") from error
                continue
            self._hash_first = as_hash
            fields = _pairs(reply) if as_hash else _object(reply)
            if fields is None:
                return None
            return record_from_fields(fields, self._ids.maker(credential), credential)
        raise MalformedRecord("what is kept there is neither a string nor a hash")


def _object(reply: Any) -> dict[str, Any] | None:
    """Read a string of JSON; None: there is none."""
    if reply is None:
        return None
    if not isinstance(reply, bytes):
        raise MalformedRecord("what Redis answers is not a string")
    fields = json_value(reply)
    if not isinstance(fields, dict):
        raise MalformedRecord("what is kept there is not a JSON object")
    return fields


def _pairs(reply: Any) -> dict[str, Any] | None:
    """Read a hash's names and values; None: there is none."""
    if (
        not isinstance(reply, list)
        or len(reply) % 2
        or not all(isinstance(word, bytes) for word in reply)
    ):
        raise MalformedRecord("what Redis answers is not a hash")
    if not reply:
        return None
    names = (name.decode("utf-8", "replace") for name in reply[::2])
    return dict(zip(names, reply[1::2], strict=True))
