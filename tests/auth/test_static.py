"""Tests of `llmproxy.auth.static`."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from llmproxy.auth.credentials import UNREADABLE
from llmproxy.auth.static import StaticAuthenticator, public_key_id
from llmproxy.config.model import StaticKey
from llmproxy.errors import InvalidApiKey, IpNotAllowed, KeyDisabled, KeyExpired
from llmproxy.interfaces import IAuthenticator
from llmproxy.values import Principal

SECRET = b"0123456789abcdef"


def static(*keys: StaticKey, now: float = 1000.0) -> StaticAuthenticator:
    """Make an authenticator whose clock stands still."""
    return StaticAuthenticator(keys, secret=SECRET, now=lambda: now)


def key(secret: str, **fields: Any) -> StaticKey:
    """Make a configured key."""
    return StaticKey(**{"key": secret, **fields})


def verdict(asked: Deferred[Principal]) -> Any:
    """Take a Deferred's result, which must be there already."""
    results: list[Any] = []
    asked.addBoth(results.append)
    (result,) = results
    return result.type if isinstance(result, Failure) else result


def test_interface() -> None:
    """It is what the data path expects."""
    assert verifyObject(IAuthenticator, static())


def test_known_key_gives_its_principal() -> None:
    """The principal says all of the key but the key."""
    auth = static(
        key("sk-other"),
        key("sk-one", name="one", user_id="u1", allowed_models=("qwen*",)),
    )
    principal = verdict(auth.authenticate("sk-one", "192.0.2.7"))
    assert principal == Principal(
        key_id=public_key_id("sk-one"), key_name="one", user_id="u1", allowed_models=("qwen*",)
    )


@pytest.mark.parametrize(
    "credential", ["", "sk-on", "sk-one ", "SK-ONE", UNREADABLE, "\ud800", "ключ"]
)
def test_unknown_credentials(credential: str) -> None:
    """What is not exactly a key is not known."""
    assert verdict(static(key("sk-one")).authenticate(credential, "")) is InvalidApiKey


def test_unreadable_matches_nothing() -> None:
    """Not even a key that is written so in the file."""
    assert verdict(static(key(UNREADABLE)).authenticate(UNREADABLE, "")) is InvalidApiKey


def test_order_of_the_checks() -> None:
    """Unknown, disabled, expired, address: the first that applies is told."""
    bad: dict[str, Any] = {"status": "disabled", "expires_at": 1.0, "allowed_ips": ("10.0.0.0/8",)}
    assert verdict(static(key("a", **bad)).authenticate("b", "")) is InvalidApiKey
    assert verdict(static(key("a", **bad)).authenticate("a", "")) is KeyDisabled
    del bad["status"]
    assert verdict(static(key("a", **bad)).authenticate("a", "")) is KeyExpired
    del bad["expires_at"]
    assert verdict(static(key("a", **bad)).authenticate("a", "")) is IpNotAllowed
    assert isinstance(verdict(static(key("a", **bad)).authenticate("a", "10.0.0.1")), Principal)


@pytest.mark.parametrize(("now", "expired"), [(999.9, False), (1000.0, True), (1000.1, True)])
def test_expiry_is_an_instant(now: float, expired: bool) -> None:
    """From the very instant on, the key is expired."""
    result = verdict(static(key("a", expires_at=1000.0), now=now).authenticate("a", ""))
    assert (result is KeyExpired) is expired


def test_denied_addresses() -> None:
    """Denied networks are looked at, too."""
    auth = static(key("a", denied_ips=("10.0.0.0/8",)))
    assert verdict(auth.authenticate("a", "::ffff:10.0.0.1")) is IpNotAllowed
    assert isinstance(verdict(auth.authenticate("a", "11.0.0.1")), Principal)


def test_first_of_equal_keys_counts() -> None:
    """A key that is listed twice has the first entry's rules."""
    principal = verdict(static(key("a", name="1"), key("a", name="2")).authenticate("a", ""))
    assert isinstance(principal, Principal)
    assert principal.key_name == "1"


def test_empty_key_is_refused() -> None:
    """A key that everybody has is a mistake, and is named by place and name."""
    with pytest.raises(ValueError, match="static key 1 \\('oops'\\) is empty"):
        static(key("a"), key("", name="oops"))


def test_key_is_not_kept() -> None:
    """Nothing that the authenticator holds, or shows, is the key."""
    secret = "sk-very-" + "secret"
    auth = static(key(secret, name="one"))
    seen: set[int] = set()
    todo: list[Any] = [auth]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type) or callable(thing):
            continue
        seen.add(id(thing))
        assert secret not in repr(thing)
        assert secret.encode() not in (thing if isinstance(thing, bytes) else b"")
        todo.extend(gc.get_referents(thing))
    assert len(seen) > 5
    assert repr(auth) == "<StaticAuthenticator keys=1>"


def test_key_id() -> None:
    """The id is stable, differs between keys and does not hold the key; it is part of records."""
    assert public_key_id("sk-one") == KEY_ID_OF_SK_ONE
    assert public_key_id("sk-one") != public_key_id("sk-two")


KEY_ID_OF_SK_ONE = "key-a81c23576c67"
