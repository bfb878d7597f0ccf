"""Tests of `llmproxy.auth.redis_source`, over a stand-in of Redis and over a real one."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from twisted.internet.defer import succeed

from llmproxy.auth.digests import DefaultIds
from llmproxy.auth.redis_source import RedisSource
from llmproxy.config.model_stores import Cache
from llmproxy.config.setting import Duration
from llmproxy.errors import MalformedRecord, RedisReplyError, StoreUnavailable
from llmproxy.interfaces import IKeySource, IRedis
from llmproxy.key_records import KeyRecord
from llmproxy.stores.redis import RedisConnections
from tests.auth import sources_contract
from tests.auth.fakes import DIGESTS, MemoryRedis, outcome
from tests.services import RedisServer
from tests.stores.reactor_case import reactor

PATTERN = "llmproxy:key:{api_key}"


def made(redis: IRedis, pattern: str = PATTERN) -> RedisSource:
    """Make a source."""
    return RedisSource("cache", redis, pattern, ids=DefaultIds("cache", DIGESTS))


def as_json(record: KeyRecord) -> dict[str, Any]:
    """Give a record's fields as an operator writes them in JSON."""

    def iso(at_s: float | None) -> str | None:
        return None if at_s is None else datetime.fromtimestamp(at_s, UTC).isoformat()

    fields: dict[str, Any] = {
        "id": record.id,
        "name": record.name,
        "user_id": record.user_id,
        "status": record.status,
        "allowed_models": list(record.allowed_models),
        "allowed_ips": list(record.allowed_ips),
        "denied_ips": list(record.denied_ips),
        "starts_at": iso(record.starts_at_s),
        "expires_at": record.expires_at_s,
        "metadata": record.metadata,
    }
    if record.quota is not None:
        fields["total_quota"] = record.quota.total
        fields["used_quota"] = record.quota.used_before
        fields["quota_reset_period"] = record.quota.period
    if record.own_limits is not None:
        fields["rate_limit"] = attrs.asdict(record.own_limits)
    return fields


def as_hash(record: KeyRecord) -> dict[bytes, bytes]:
    """Give them as an operator writes them in a hash: all text, absent ones blank or left out."""
    fields: dict[bytes, bytes] = {}
    for name, value in as_json(record).items():
        text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
        if name in ("allowed_models", "allowed_ips", "denied_ips"):
            text = ",".join(value)
        fields[name.encode()] = text.encode()
    return fields


class JsonContractTests(sources_contract.SourceContract):
    """The suite over strings of JSON."""

    keeps_nul = True
    pattern = PATTERN

    def setUp(self) -> None:
        """Begin with an empty Redis."""
        self.redis = MemoryRedis()

    def place(self, key: str) -> bytes:
        """Say where a key's record is."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        before, _, after = self.pattern.partition("{")
        of = key if after.startswith("api_key}") else digest
        return (before + of + after.partition("}")[2]).encode()

    async def put(self, key: str, record: KeyRecord) -> None:
        """Set it."""
        self.redis.held[self.place(key)] = json.dumps(as_json(record)).encode()

    def make_source(self) -> IKeySource:
        """Make it over Redis."""
        return made(self.redis, self.pattern)


class HashContractTests(JsonContractTests):
    """The suite over hashes, under digests of the keys."""

    pattern = "k:{sha256}:record"

    async def put(self, key: str, record: KeyRecord) -> None:
        """Set it."""
        self.redis.held[self.place(key)] = as_hash(record)


class RealJsonContractTests(JsonContractTests):
    """The suite over strings in a real Redis."""

    server: RedisServer

    @pytest.fixture(autouse=True)
    def use_redis(self, redis_server: RedisServer) -> None:
        """Use the Redis that all tests share, empty."""
        redis_server.flush()
        self.server = redis_server

    async def setUp(self) -> None:  # type: ignore[override]
        """Connect."""
        self.connections = RedisConnections(
            Cache(name="primary", addr=self.server.addr, timeout=Duration(5.0)), reactor
        )
        self.connections.startService()
        self.addCleanup(self.connections.stopService)
        await self.until(lambda: self.connections.is_up, "the connections")

    async def put(self, key: str, record: KeyRecord) -> None:
        """Set it."""
        await self.connections.call("SET", self.place(key), json.dumps(as_json(record)))

    def make_source(self) -> IKeySource:
        """Make it over the connections."""
        return made(self.connections, self.pattern)


class RealHashContractTests(RealJsonContractTests):
    """The suite over hashes in a real Redis."""

    pattern = "k:{sha256}:record"

    async def put(self, key: str, record: KeyRecord) -> None:
        """Set it."""
        words = [word for pair in as_hash(record).items() for word in pair]
        await self.connections.call("HSET", self.place(key), *words)

    async def test_neither_string_nor_hash(self) -> None:
        """Another kind of value is no record."""
        await self.connections.call("RPUSH", self.place("sk-one"), "x")
        source = self.make_source()
        for _ in range(2):
            await self.assertFailure(source.find("sk-one"), MalformedRecord)


def test_asks_once_after_the_first_of_a_kind() -> None:
    """A hash costs a second question only the first time; a string after it likewise."""
    redis = MemoryRedis()
    source = made(redis)
    redis.held = {
        b"llmproxy:key:h": {b"name": b"hash"},
        b"llmproxy:key:s": b'{"name": "string"}',
    }
    for key, name, questions in [
        ("h", "hash", 2),
        ("h", "hash", 1),
        ("s", "string", 2),
        ("s", "string", 1),
    ]:
        redis.calls.clear()
        assert outcome(source.find(key)).name == name
        assert len(redis.calls) == questions
    redis.calls.clear()
    outcome(source.find("unknown"))
    assert len(redis.calls) == 1


@pytest.mark.parametrize("held", [b"active", b"[]", b"1", b"{", b'{"x": 1}', b"\xff", b"{}"])
def test_what_is_no_record(held: bytes) -> None:
    """Something else in that place opens nothing."""
    redis = MemoryRedis()
    redis.held[b"llmproxy:key:sk-one"] = held
    assert outcome(made(redis).find("sk-one")) is MalformedRecord


@pytest.mark.parametrize("error", [StoreUnavailable("down"), RedisReplyError("NOPERM no")])
def test_redis_cannot_say(error: Exception) -> None:
    """No connection and refusals are outages."""
    redis = MemoryRedis()
    redis.error = error
    assert outcome(made(redis).find("sk-one")) is StoreUnavailable


@pytest.mark.parametrize("reply", [5, [], [b"name", b"a"], [b"name"], [b"name", None], b"{}"])
@pytest.mark.parametrize("hash_first", [False, True])
def test_replies_that_no_redis_gives(reply: Any, hash_first: bool) -> None:
    """Are no records, and no fault of ours."""
    redis = MemoryRedis()
    source = made(redis)
    if hash_first:
        redis.held[b"llmproxy:key:hash"] = {b"name": b"a"}
        outcome(source.find("hash"))
    redis.call = lambda *_: succeed(reply)  # type: ignore[method-assign]
    # What is right for the one kind is not for the other.
    if hash_first and reply == []:
        assert outcome(source.find("sk-one")) is None
    elif hash_first and reply == [b"name", b"a"]:
        assert outcome(source.find("sk-one")).name == "a"
    else:
        assert outcome(source.find("sk-one")) is MalformedRecord


def test_pattern_without_a_key() -> None:
    """All keys would have the same record."""
    with pytest.raises(ValueError, match="key_pattern 'x'"):
        made(MemoryRedis(), "x")
