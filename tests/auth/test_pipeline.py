"""Tests of `llmproxy.auth.pipeline`."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from llmproxy.auth.digests import public_key_id
from llmproxy.auth.keyed import KeyAuthenticator
from llmproxy.auth.pipeline import BUILTIN_TIMES, Lookups, from_config
from llmproxy.auth.throttle import FailureThrottle
from llmproxy.config.model_auth import (
    Auth,
    DatabaseProvider,
    Provider,
    RedisProvider,
    StaticKey,
    StaticProvider,
    WebhookProvider,
)
from llmproxy.config.setting import Duration, Secret
from llmproxy.entitlements import Limits, OwnLimits
from llmproxy.errors import (
    AuthUnavailable,
    GatewayError,
    InvalidApiKey,
    KeyDisabled,
    StoreUnavailable,
    TooManyFailures,
)
from llmproxy.key_records import KeyRecord
from llmproxy.values import Principal
from tests.auth.fakes import MemoryDatabase, MemoryKeyStore, MemoryRedis, outcome

IP = "192.0.2.7"


class SilentClient:
    """A service that never answers."""

    def request(self, method: str, url: str, **arguments: Any) -> Deferred[Any]:
        """Let it wait."""
        return Deferred()


class Place:
    """All that keys can be looked up in, and an authenticator over some of it."""

    def __init__(
        self,
        *providers: Provider,
        mode: Literal["first_match", "all"] = "first_match",
        api_keys: tuple[StaticKey, ...] = (),
        lookups: Lookups | None = None,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.redis = MemoryRedis()
        self.database = MemoryDatabase()
        self.database.connection.execute("CREATE TABLE api_keys (key text, owner text)")
        self.store = MemoryKeyStore()
        self.revoked: list[tuple[str, type[GatewayError]]] = []
        self.lookups = lookups or Lookups(
            clock=self.clock,
            redis={"primary": self.redis},
            databases={"primary": self.database},
            key_store=self.store,
            new_webhook_client=SilentClient,
            read_body=lambda *_: Deferred(),
        )
        made = from_config(
            Auth(pipeline=providers, mode=mode, storage="file" if api_keys else ""),
            api_keys,
            secret=b"s" * 16,
            now=lambda: 1000.0 + self.clock.seconds(),
            throttle=FailureThrottle(60, 3, clock=self.clock),
            lookups=self.lookups,
            on_revoked=lambda key_id, error: self.revoked.append((key_id, type(error))),
            **options,
        )
        assert made is not None
        self.pipeline = made
        self.auth = made.authenticator

    def ask(self, credential: str, client_ip: str = IP) -> Any:
        """Give the principal of a key, or the class of its refusal."""
        return outcome(self.auth.authenticate(credential, client_ip))

    def in_redis(self, key: str, **fields: Any) -> None:
        """Set a record."""
        self.redis.held[f"llmproxy:key:{key}".encode()] = json.dumps(fields).encode()


def listed(secret: str, name: str = "", **fields: Any) -> StaticKey:
    """Make a configured key."""
    return StaticKey(key=Secret(secret), name=name, **fields)


def static(name: str, *keys: StaticKey) -> Provider:
    """Make a configured list of keys."""
    return Provider(name=name, type="static", static=StaticProvider(keys=keys))


REDIS = Provider(name="cache", type="redis", redis=RedisProvider(storage="primary"))
BUILTIN = Provider(name="local", type="builtin")
DATABASE = Provider(
    name="sql",
    type="database",
    database=DatabaseProvider(storage="primary", fields=("owner as user_id",)),
)
WEBHOOK = Provider(
    name="iam",
    type="webhook",
    webhook=WebhookProvider(url="http://192.0.2.1/", timeout=Duration(2)),
)


def test_disabled_auth_is_anonymous() -> None:
    """With auth off, keys in the file play no role."""
    auth = from_config(
        Auth(enabled=False, pipeline=(static("a", listed("sk")),)),
        (),
        secret=b"s" * 16,
        now=lambda: 0.0,
    )
    assert auth is None


def test_file_needs_nothing_else() -> None:
    """Keys in the file need neither lookups nor a throttle; other sources do."""

    def made(*providers: Provider) -> KeyAuthenticator:
        made = from_config(Auth(pipeline=providers), (), secret=b"s" * 16, now=lambda: 0.0)
        assert made is not None
        return made.authenticator

    auth = made(static("a", listed("1", "a1")))
    assert outcome(auth.authenticate("1", IP)).key_name == "a1"
    assert outcome(auth.authenticate("2", IP)) is InvalidApiKey
    with pytest.raises(ValueError, match="'cache'"):
        made(REDIS)


def test_several_lists_in_order() -> None:
    """All lists are asked, in the file's order; a refusal is a decision."""
    place = Place(
        static("a", listed("1", "a1"), listed("3", status="disabled")),
        static("b", listed("1"), listed("2", "b2"), listed("3")),
    )
    assert place.ask("1").key_name == "a1"
    assert place.ask("2").key_name == "b2"
    assert place.ask("3") is KeyDisabled
    assert place.ask("4") is InvalidApiKey


def test_short_form() -> None:
    """Top-level keys count with ``storage: file``, and only then; they have the same ids."""
    short = Place(api_keys=(listed("1", "x"),)).ask("1")
    assert short == Place(static("a", listed("1", "x"))).ask("1")
    only = from_config(Auth(), (listed("1"),), secret=b"s" * 16, now=lambda: 0.0)
    assert only is not None
    assert outcome(only.authenticator.authenticate("1", IP)) is InvalidApiKey


def test_no_source_is_no_open_door() -> None:
    """Authentication without any key lets nobody in, in either mode."""
    assert Place().ask("") is InvalidApiKey
    assert Place(mode="all").ask("sk") is InvalidApiKey


def test_each_kind_of_source() -> None:
    """A key is found wherever it is."""
    place = Place(static("a", listed("1", "one")), BUILTIN, REDIS, DATABASE)
    place.store.put("2", KeyRecord(id="stored", name="two"))
    place.in_redis("3", name="three")
    place.database.connection.execute("INSERT INTO api_keys VALUES ('4', 'four')")
    assert [place.ask(key).key_name for key in "123"] == ["one", "two", "three"]
    assert place.ask("4").user_id == "four"
    assert place.ask("5") is InvalidApiKey
    assert [place.auth.stored_id(place.ask(key).key_id) for key in "1234"] == [
        None,
        "stored",
        None,
        None,
    ]


def test_webhook_is_given_its_time() -> None:
    """One that does not answer refuses nobody as unknown, and opens nothing."""
    place = Place(WEBHOOK, static("a", listed("1")))
    results: list[Any] = []
    place.auth.authenticate("1", IP).addErrback(results.append)
    assert results == []
    place.clock.advance(2.0)
    assert results[0].type is AuthUnavailable


def test_source_that_is_down() -> None:
    """Known keys pass for their time, others are not known to be unknown; then nobody passes."""
    place = Place(REDIS)
    place.in_redis("1", name="one")
    known = place.ask("1")
    place.redis.error = StoreUnavailable("down")
    for _ in range(59):
        place.clock.advance(1.0)
        assert place.ask("1") is known
    assert place.ask("2") is AuthUnavailable
    place.clock.advance(1.0)
    assert place.ask("1") is AuthUnavailable
    place.redis.error = None
    place.clock.advance(5.0)
    assert place.ask("1") == known


def test_revoked_within_a_second() -> None:
    """A key that is disabled in Redis is refused after the interval, and that is told."""
    place = Place(REDIS)
    place.in_redis("1", id="one")
    assert isinstance(place.ask("1"), Principal)
    place.in_redis("1", id="one", status="disabled")
    place.clock.advance(0.9)
    assert isinstance(place.ask("1"), Principal)
    place.clock.advance(0.1)
    assert place.ask("1") is KeyDisabled
    assert place.revoked == [("one", KeyDisabled)]


def test_change_in_the_key_store() -> None:
    """A new key works at once, and a disabled one does not."""
    place = Place(BUILTIN)
    assert place.ask("1") is InvalidApiKey
    place.store.put("1", KeyRecord(id="one"))
    assert place.ask("1") is InvalidApiKey
    place.auth.forget(frozenset(("one",)))
    assert place.ask("1").key_id == "one"
    place.store.put("1", KeyRecord(id="one", status="disabled"))
    place.auth.forget(frozenset(("one",)))
    assert place.ask("1") is KeyDisabled
    assert BUILTIN_TIMES.recheck_interval_s <= 5.0


def test_all_must_agree() -> None:
    """The first gives the name, all of them the rules; ids of the others lead to the first's."""
    place = Place(
        static("a", listed("1", "one", allowed_models=("q*",)), listed("2")),
        BUILTIN,
        mode="all",
        per_key=Limits(max_concurrent=3),
    )
    own = OwnLimits(max_concurrent=5)
    place.store.put("1", KeyRecord(id="s1", allowed_models=("*7b",), own_limits=own))
    both = place.ask("1")
    assert (both.key_name, both.allowed_models) == ("one", (("q*",), ("*7b",)))
    assert both.own_limits == OwnLimits(max_concurrent=3)
    assert place.ask("2") is InvalidApiKey
    assert place.auth.stored_id(both.key_id) == "s1"
    place.store.put("1", KeyRecord(id="s1", status="disabled"))
    place.clock.advance(5.0)
    assert place.ask("1") is KeyDisabled
    assert place.revoked == [(both.key_id, KeyDisabled)]


def test_guessing_is_slowed_down() -> None:
    """An address that has guessed too often is told to wait before anybody is asked."""
    place = Place(REDIS)
    place.in_redis("good", name="Ann")
    place.ask("good")
    place.clock.advance(10.0)
    for number in range(3):
        assert place.ask(f"guess{number}") is InvalidApiKey
    asked = len(place.redis.calls)
    assert place.ask("guess") is TooManyFailures
    assert place.ask("guess0") is TooManyFailures
    assert len(place.redis.calls) == asked
    assert place.ask("guess", "192.0.2.8") is InvalidApiKey
    assert place.ask("good").key_name == "Ann"
    place.clock.advance(1.0)
    assert place.ask("guess") is InvalidApiKey


@pytest.mark.parametrize(
    ("provider", "message"),
    [
        (Provider(name="r", type="redis", redis=RedisProvider(storage="x")), "no storage 'x'"),
        (
            Provider(name="d", type="database", database=DatabaseProvider(storage="y")),
            "no storage 'y'",
        ),
    ],
)
def test_storage_that_is_not_there(provider: Provider, message: str) -> None:
    """What slipped through the checks is named."""
    with pytest.raises(ValueError, match=message):
        Place(provider)


def test_builtin_without_a_key_store() -> None:
    """It is named, too."""
    lookups = Lookups(
        clock=Clock(),
        redis={},
        databases={},
        key_store=None,
        new_webhook_client=SilentClient,
        read_body=lambda *_: Deferred(),
    )
    with pytest.raises(ValueError, match="'local': there is no key store"):
        from_config(
            Auth(pipeline=(BUILTIN,)), (), secret=b"s" * 16, now=lambda: 0.0, lookups=lookups
        )


def test_nothing_shows_a_key() -> None:
    """What the gateway logs of its authenticator holds no key."""
    place = Place(static("a", listed("sk-canary")), REDIS, BUILTIN)
    place.ask("sk-canary")
    assert "canary" not in repr(place.auth)
    assert "cache" in repr(place.auth)


def test_a_reload_derives_no_id_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes its time, and there may be many keys; those that are new get theirs."""
    derived: list[str] = []

    def listed(*keys: str) -> Provider:
        return static("list", *(StaticKey(key=Secret(key)) for key in keys))

    def derive(key: str, source: str = "") -> str:
        derived.append(key)
        return public_key_id(key, source)

    monkeypatch.setattr("llmproxy.auth.static.public_key_id", derive)
    auth = Auth(pipeline=(listed("a", "b"),), storage="file")
    more: dict[str, Any] = {"secret": b"s" * 16, "now": lambda: 0.0}
    before = from_config(auth, (StaticKey(key=Secret("c")),), **more)
    assert derived == ["a", "b", "c"]
    changed = Auth(pipeline=(listed("b", "c", "d"),), storage="file")
    after = from_config(changed, (StaticKey(key=Secret("a")),), before=before, **more)
    assert derived == ["a", "b", "c", "d"]
    assert after is not None
    assert [outcome(after.authenticator.authenticate(key, IP)).key_id for key in "abcd"] == [
        public_key_id(key) for key in "abcd"
    ]
