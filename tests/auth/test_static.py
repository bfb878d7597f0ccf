"""Tests of `llmproxy.auth.static`."""

from __future__ import annotations

import gc
from typing import Any

import attrs
import pytest

from llmproxy.auth.credentials import UNREADABLE
from llmproxy.auth.digests import KeyDigests, public_key_id
from llmproxy.auth.static import StaticSource
from llmproxy.config.model_auth import OwnLimits as ConfiguredLimits
from llmproxy.config.model_auth import StaticKey
from llmproxy.config.setting import Secret
from llmproxy.errors import MalformedRecord
from llmproxy.interfaces import IKeySource
from llmproxy.key_records import KeyRecord
from tests.auth import sources_contract
from tests.auth.fakes import DIGESTS, outcome


def static(*keys: StaticKey) -> StaticSource:
    """Make a source."""
    return StaticSource("file", keys, digests=DIGESTS)


def key(secret: str, **fields: Any) -> StaticKey:
    """Make a configured key."""
    return StaticKey(**{"key": secret, **fields})


class StaticContractTests(sources_contract.SourceContract):
    """The suite over a list in the configuration."""

    statuses = ("active", "disabled")
    keeps_nul = True

    def setUp(self) -> None:
        """Begin without keys."""
        self.keys: list[StaticKey] = []

    async def put(self, key: str, record: KeyRecord) -> None:
        """List it."""
        fields: dict[str, Any] = {
            "starts_at": record.starts_at_s,
            "expires_at": record.expires_at_s,
        }
        fields |= {
            name: getattr(record, name)
            for name in ("name", "user_id", "status", "allowed_models", "allowed_ips", "denied_ips")
        }
        if (quota := record.quota) is not None:
            fields["total_quota"] = quota.total
            fields["used_quota"] = quota.used_before
            fields["quota_reset_period"] = quota.period
        if record.own_limits is not None:
            fields["rate_limit"] = ConfiguredLimits(**attrs.asdict(record.own_limits))
        self.keys.append(
            StaticKey(
                key=Secret(key),
                metadata=record.metadata,
                **fields,
            )
        )

    def make_source(self) -> IKeySource:
        """Make it of the list."""
        return static(*self.keys)


def test_says_so_at_once() -> None:
    """What it knows it recalls, as the same object; what it recalls it answers."""
    source = static(key("sk-one", name="one"))
    known = source.recall(DIGESTS.of("sk-one"))
    assert known is not None
    assert known is source.recall(DIGESTS.of("sk-one"))
    assert known is outcome(source.ask("sk-one", DIGESTS.of("sk-one")))
    assert known.principal.key_id == public_key_id("sk-one")
    assert source.recall(DIGESTS.of("sk-two")) is None
    assert source.has_record(DIGESTS.of("sk-one"))
    assert not source.has_record(DIGESTS.of("sk-two"))


@pytest.mark.parametrize("credential", ["", "sk-on", "sk-one ", "SK-ONE", UNREADABLE, "\ud800"])
def test_unknown_credentials(credential: str) -> None:
    """What is not exactly a key is not known."""
    results: list[Any] = []
    static(key("sk-one")).find(credential).addCallback(results.append)
    assert results == [None]


def test_first_of_equal_keys_counts() -> None:
    """A key that is listed twice has the first entry's rules."""
    known = static(key("a", name="1"), key("a", name="2")).recall(DIGESTS.of("a"))
    assert known is not None
    assert known.principal.key_name == "1"


def test_forgets_nothing() -> None:
    """What stands in the file stands."""
    source = static(key("a"))
    source.forget(None)
    assert source.recall(DIGESTS.of("a")) is not None


def test_key_that_cannot_be_used() -> None:
    """A key that everybody has is a mistake, named by place and name; so is a wrong network."""
    with pytest.raises(ValueError, match="static key 1 \\('oops'\\) is empty"):
        static(key("a"), key("", name="oops"))
    with pytest.raises(MalformedRecord):
        static(key("a", allowed_ips=("nowhere",)))


def test_key_is_not_kept() -> None:
    """Nothing that the source holds, or shows, is the key."""
    secret = "sk-very-" + "secret"
    source = StaticSource("file", [key(secret, name="one")], digests=KeyDigests(b"s" * 16))
    seen: set[int] = set()
    todo: list[Any] = [source]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type) or callable(thing):
            continue
        seen.add(id(thing))
        assert secret not in repr(thing)
        assert secret.encode() not in (thing if isinstance(thing, bytes) else b"")
        todo.extend(gc.get_referents(thing))
    assert len(seen) > 5
    assert repr(source) == "<StaticSource file keys=1>"
