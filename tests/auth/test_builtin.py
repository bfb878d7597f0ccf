"""Tests of `llmproxy.auth.builtin`, over a stand-in of the key store and over the real one."""

from __future__ import annotations

import os

from twisted.internet.task import Clock

from llmproxy.auth.builtin import BuiltinSource
from llmproxy.errors import StoreUnavailable
from llmproxy.interfaces import IKeySource
from llmproxy.key_records import KeyDraft, KeyRecord
from llmproxy.stores.key_store import SqliteKeyStore
from tests.auth import sources_contract
from tests.auth.fakes import MemoryKeyStore, outcome
from tests.stores.sqlite_case import SqliteTestCase


class MemoryContractTests(sources_contract.SourceContract):
    """The suite over a dictionary."""

    keeps_nul = True

    def setUp(self) -> None:
        """Begin without keys."""
        self.store = MemoryKeyStore()

    async def put(self, key: str, record: KeyRecord) -> None:
        """Store it."""
        self.store.put(key, record)

    def make_source(self) -> IKeySource:
        """Make it over the store."""
        return BuiltinSource("local", self.store)


class SqliteContractTests(SqliteTestCase, sources_contract.SourceContract):
    """The suite over the gateway's own file."""

    keeps_nul = True

    def setUp(self) -> None:
        """Open the file."""
        self.store = SqliteKeyStore(
            self.open(),
            secret=b"s" * 32,
            now=lambda: sources_contract.NOW_S,
            random_bytes=os.urandom,
            clock=Clock(),
            on_change=lambda _: None,
        )

    async def put(self, key: str, record: KeyRecord) -> None:
        """Store it."""
        await self.store.create(KeyDraft(record=record, key=key))

    def make_source(self) -> IKeySource:
        """Make it over the store."""
        return BuiltinSource("local", self.store)


def test_remembers_the_ids_it_found() -> None:
    """Only those, so that a request's key can be told to be one of the store's."""
    store = MemoryKeyStore()
    store.put("sk-one", KeyRecord(id="one"))
    store.put("sk-two", KeyRecord(id="two"))
    source = BuiltinSource("local", store)
    outcome(source.find("sk-one"))
    outcome(source.find("sk-three"))
    assert source.found_ids == {"one"}


def test_store_that_is_down() -> None:
    """It cannot be said what is known."""
    store = MemoryKeyStore()
    store.error = StoreUnavailable("locked")
    assert outcome(BuiltinSource("local", store).find("sk-one")) is StoreUnavailable
