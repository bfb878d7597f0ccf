"""Tests of `llmproxy.auth.pipeline`."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from llmproxy.auth.anonymous import AnonymousAuthenticator
from llmproxy.auth.pipeline import FirstMatch, from_config
from llmproxy.auth.static import StaticAuthenticator
from llmproxy.config.model import Auth, Provider, Secret, StaticKey, StaticProvider
from llmproxy.errors import InvalidApiKey, KeyDisabled
from llmproxy.interfaces import IAuthenticator
from llmproxy.values import Principal


@implementer(IAuthenticator)
class Source:
    """Gives one result, and remembers what it was asked."""

    def __init__(self, result: Deferred[Principal]) -> None:
        self.result = result
        self.asked: list[tuple[str, str]] = []

    def authenticate(self, credential: str, client_ip: str) -> Deferred[Principal]:
        """Give the result."""
        self.asked.append((credential, client_ip))
        return self.result


def outcome(asked: Deferred[Principal]) -> Any:
    """Take a Deferred's result or its failure's class; None while there is none."""
    results: list[Any] = []
    asked.addBoth(results.append)
    if not results:
        return None
    return results[0].type if isinstance(results[0], Failure) else results[0]


def unknown() -> Source:
    """Make a source that does not know the key."""
    return Source(fail(InvalidApiKey()))


def test_first_that_knows_the_key_decides() -> None:
    """Sources that do not know it are passed over, later ones are not asked."""
    known, later = Source(succeed(Principal("k"))), Source(succeed(Principal("later")))
    pipeline = FirstMatch([unknown(), known, later])
    assert verifyObject(IAuthenticator, pipeline)
    assert outcome(pipeline.authenticate("sk", "192.0.2.7")) == Principal("k")
    assert known.asked == [("sk", "192.0.2.7")]
    assert later.asked == []


def test_refusal_is_a_decision() -> None:
    """A disabled key is not looked for further down."""
    pipeline = FirstMatch([unknown(), Source(fail(KeyDisabled())), Source(succeed(Principal()))])
    assert outcome(pipeline.authenticate("sk", "")) is KeyDisabled


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nobody_knows_the_key(count: int) -> None:
    """After the last source the key is unknown."""
    pipeline = FirstMatch([unknown() for _ in range(count)])
    assert outcome(pipeline.authenticate("sk", "")) is InvalidApiKey


def test_waits_and_cancels() -> None:
    """A slow source is waited for; cancelling reaches it, and nobody is asked after it."""
    slow, later = Source(Deferred()), Source(succeed(Principal()))
    asked = FirstMatch([unknown(), slow, later]).authenticate("sk", "")
    assert outcome(asked) is None
    asked.cancel()
    assert slow.result.called
    assert later.asked == []


def test_cancelled_verdict_is_unknown() -> None:
    """A cancelled question fails as such, not as an unknown key."""
    asked = FirstMatch([Source(Deferred())]).authenticate("sk", "")
    results: list[Failure] = []
    asked.addErrback(results.append)
    asked.cancel()
    assert results[0].type is CancelledError


def configured(auth: Auth, *api_keys: StaticKey) -> IAuthenticator:
    """Make the authenticator of a configuration."""
    return from_config(auth, api_keys, secret=b"s" * 16, now=lambda: 0.0)


def listed(secret: str, name: str = "") -> StaticKey:
    """Make a configured key."""
    return StaticKey(key=Secret(secret), name=name)


def provider(name: str, *keys: StaticKey) -> Provider:
    """Make a configured list of keys."""
    return Provider(name=name, type="static", static=StaticProvider(keys=keys))


def test_disabled_auth_is_anonymous() -> None:
    """With auth off, keys in the file play no role."""
    auth = Auth(enabled=False, pipeline=(provider("a", listed("sk")),))
    assert isinstance(configured(auth), AnonymousAuthenticator)


def test_single_list_stands_alone() -> None:
    """One source needs no pipeline around it."""
    assert isinstance(
        configured(Auth(pipeline=(provider("a", listed("sk")),))), StaticAuthenticator
    )


def test_several_lists_in_order() -> None:
    """All lists are asked, in the file's order."""
    auth = configured(
        Auth(pipeline=(provider("a", listed("1", "a1")), provider("b", listed("1"), listed("2"))))
    )
    assert outcome(auth.authenticate("1", "")).key_name == "a1"
    assert outcome(auth.authenticate("2", "")).key_name == ""
    assert outcome(auth.authenticate("3", "")) is InvalidApiKey


def test_short_form() -> None:
    """Top-level keys count with ``storage: file``, and only then."""
    assert outcome(configured(Auth(storage="file"), listed("1", "x")).authenticate("1", "")) == (
        outcome(configured(Auth(pipeline=(provider("a", listed("1", "x")),))).authenticate("1", ""))
    )
    assert outcome(configured(Auth(), listed("1")).authenticate("1", "")) is InvalidApiKey


def test_no_source_is_no_open_door() -> None:
    """Authentication without any key lets nobody in."""
    assert outcome(configured(Auth()).authenticate("", "")) is InvalidApiKey


def test_type_without_a_class() -> None:
    """A type that slipped through the loader is named."""
    with pytest.raises(ValueError, match="'redis'"):
        configured(Auth(pipeline=(Provider(name="r", type="redis"),)))
