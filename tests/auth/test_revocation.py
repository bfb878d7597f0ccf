"""Tests of `llmproxy.auth.revocation`."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from llmproxy.auth.revocation import RETRY_S, Revocation
from llmproxy.errors import (
    GatewayError,
    InvalidApiKey,
    KeyDisabled,
    KeyExpired,
    QuotaExceeded,
    StoreUnavailable,
)
from llmproxy.key_records import KeyRecord, StoredKey
from tests.auth.fakes import MemoryKeyStore

NOW_S = 1000.0


class Gateway:
    """Running requests, some of them with keys of the store."""

    def __init__(self, *running: str) -> None:
        self.running = set(running)
        self.stored = {"a", "b", "c"}
        self.store = MemoryKeyStore()
        for key_id in self.stored:
            self.keep(key_id)
        self.cut: list[tuple[str, type[GatewayError]]] = []
        self.clock = Clock()
        self.revocation = Revocation(
            self.store,
            stored_id=lambda key_id: key_id if key_id in self.stored else None,
            running_keys=lambda: self.running,
            cut=lambda key_id, error: self.cut.append((key_id, type(error))),
            clock=self.clock,
            now=lambda: NOW_S,
        )

    def keep(self, key_id: str, **fields: Any) -> None:
        """Store a key's record."""
        self.store.put(f"sk-{key_id}", KeyRecord(id=key_id, **fields))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"status": "disabled"}, KeyDisabled),
        ({"expires_at_s": NOW_S}, KeyExpired),
        ({"status": "expired"}, KeyExpired),
        ({"status": "quota_exceeded"}, None),
        ({"name": "renamed"}, None),
        ({"allowed_ips": ("10.0.0.0/8",)}, None),
    ],
)
@pytest.mark.parametrize("changed", [frozenset(("a",)), None])
def test_changed_key(
    fields: dict[str, Any], error: type[GatewayError] | None, changed: frozenset[str] | None
) -> None:
    """What makes a key bad everywhere cuts its requests, and nothing else does."""
    it = Gateway("a", "b")
    it.keep("a", **fields)
    it.revocation.keys_changed(changed)
    assert it.cut == ([] if error is None else [("a", error)])


def test_key_that_is_gone() -> None:
    """A deleted key is not known any more."""
    it = Gateway("a")
    del it.store.by_key["sk-a"]
    it.revocation.keys_changed(frozenset(("a",)))
    assert it.cut == [("a", InvalidApiKey)]


def test_only_running_keys_of_the_store_are_looked_up() -> None:
    """Keys of other sources are not gone because the store does not know them."""
    it = Gateway("a", "b", "static")
    it.revocation.keys_changed(frozenset(("a", "c")))
    assert it.store.asked == ["a"]
    it.revocation.keys_changed(None)
    assert sorted(it.store.asked) == ["a", "a", "b"]
    assert it.cut == []


def test_store_that_cannot_say() -> None:
    """It is asked again after a second, once, and at the next change for all that was missed."""
    it = Gateway("a", "b")
    it.keep("a", status="disabled")
    it.store.error = StoreUnavailable("locked")
    it.revocation.keys_changed(frozenset(("a",)))
    it.clock.advance(RETRY_S)
    assert len(it.store.asked) == 2
    assert it.clock.getDelayedCalls() == []
    it.store.error = None
    it.revocation.keys_changed(frozenset(("b",)))
    assert it.cut == [("a", KeyDisabled)]


def test_asked_again_after_a_second() -> None:
    """When the store answers by then, that is enough."""
    it = Gateway("a")
    it.keep("a", status="disabled")
    it.store.error = StoreUnavailable("locked")
    it.revocation.keys_changed(None)
    it.store.error = None
    it.clock.advance(RETRY_S)
    assert it.cut == [("a", KeyDisabled)]
    assert it.clock.getDelayedCalls() == []


def test_record_that_cannot_be_read() -> None:
    """One such key does not keep others from being cut."""
    it = Gateway("a", "b", "c")
    it.keep("a", denied_ips=("nonsense",))
    for key_id in ("b", "c"):
        it.keep(key_id, status="disabled")
    it.revocation.keys_changed(None)
    assert sorted(it.cut) == [("b", KeyDisabled), ("c", KeyDisabled)]


def test_change_during_a_check() -> None:
    """What changes while another change is looked at is looked at after it."""
    it = Gateway("a", "b")
    waiting: list[Deferred[StoredKey | None]] = []
    answer = it.store.get

    def slow(key_id: str) -> Deferred[StoredKey | None]:
        waiting.append(Deferred())
        return waiting[-1].addCallback(lambda _: answer(key_id))

    it.store.get = slow  # type: ignore[method-assign]
    it.revocation.keys_changed(frozenset(("a",)))
    it.keep("b", status="disabled")
    it.revocation.keys_changed(frozenset(("b",)))
    assert len(waiting) == 1
    waiting.pop().callback(None)
    waiting.pop().callback(None)
    assert it.cut == [("b", KeyDisabled)]
    assert repr(it.revocation) == "<Revocation to_check=0 checking=False>"


def test_stop() -> None:
    """Neither a look-up nor a timer stays."""
    it = Gateway("a")
    pending: Deferred[StoredKey | None] = Deferred()
    it.store.get = lambda key_id: pending  # type: ignore[method-assign]
    it.revocation.keys_changed(None)
    it.revocation.stop()
    assert pending.called
    other = Gateway("a")
    other.store.error = StoreUnavailable("locked")
    other.revocation.keys_changed(None)
    other.revocation.stop()
    assert other.clock.getDelayedCalls() == []


def test_key_that_a_source_calls_bad() -> None:
    """It is cut when it runs, but not for a spent budget."""
    it = Gateway("x", "y")
    it.revocation.key_revoked("x", KeyDisabled())
    it.revocation.key_revoked("y", QuotaExceeded())
    it.revocation.key_revoked("z", KeyDisabled())
    assert it.cut == [("x", KeyDisabled)]
