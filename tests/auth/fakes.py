"""Stand-ins of this room's tests: sources that say what they are told, stores without a server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from llmproxy.auth.digests import KeyDigests
from llmproxy.auth.judge import PreparedKey, prepare
from llmproxy.auth.verdicts import UNSAID, Unsaid, Verdict
from llmproxy.errors import RedisReplyError, StoreUnavailable
from llmproxy.interfaces import IDatabase, IKeySource, IKeyStore, IRedis
from llmproxy.key_records import KeyDraft, KeyFilter, KeyRecord, StoredKey, SyncCounts

SECRET = b"0123456789abcdef"
DIGESTS = KeyDigests(SECRET)


def outcome(asked: Deferred[Any]) -> Any:
    """Take a Deferred's result or its failure's class; None while there is none."""
    results: list[Any] = []
    asked.addBoth(results.append)
    if not results:
        return None
    return results[0].type if isinstance(results[0], Failure) else results[0]


def prepared(key_id: str = "k", **fields: Any) -> PreparedKey:
    """Make a prepared key."""
    return prepare(KeyRecord(id=key_id, **fields))


class SaidVerdicts:
    """Verdicts that say one thing at once, and one thing when they are asked.

    Attributes:
        asked: What was asked for.
        forgotten: What was to be forgotten.
    """

    def __init__(
        self,
        said: Verdict | Unsaid | None = UNSAID,
        answer: Deferred[Verdict | None] | None = None,
        recorded: bool = False,
    ) -> None:
        self.said = said
        self.answer = answer
        self.recorded = recorded
        self.asked: list[str] = []
        self.forgotten: list[Collection[str] | None] = []

    def recall(self, digest: bytes) -> Verdict | Unsaid | None:
        """Say it."""
        return self.said

    def ask(self, credential: str, digest: bytes) -> Deferred[Verdict | None]:
        """Give the answer."""
        self.asked.append(credential)
        assert self.answer is not None
        return self.answer

    def has_record(self, digest: bytes) -> bool:
        """Say whether it is recorded."""
        return self.recorded

    def forget(self, key_ids: Collection[str] | None) -> None:
        """Note it."""
        self.forgotten.append(key_ids)

    def ids_behind(self, key_id: str) -> tuple[str, ...]:
        """Give the id itself."""
        return (key_id,)

    def principal_id(self, digest: bytes, key_id: str) -> str:
        """Give the id itself."""
        return key_id


@implementer(IKeySource)
class AskedSource:
    """A source whose questions the test answers.

    Attributes:
        questions: Those that wait, the oldest first; a cancelled one has been called.
        asked: How many there were.
        cancelled: How many of them were cancelled.
        cancel_error: What a cancelled question fails with; None: as Twisted has it.
    """

    def __init__(self, name: str = "asked") -> None:
        self.name = name
        self.questions: list[Deferred[KeyRecord | None]] = []
        self.asked = 0
        self.cancelled = 0
        self.cancel_error: Exception | None = None

    def find(self, credential: str) -> Deferred[KeyRecord | None]:
        """Let it wait."""

        def cancel(_: Any) -> None:
            self.cancelled += 1
            self.questions.remove(question)
            if self.cancel_error is not None:
                question.errback(self.cancel_error)

        question: Deferred[KeyRecord | None] = Deferred(cancel)
        self.asked += 1
        self.questions.append(question)
        return question

    def answer(self, record: KeyRecord | None) -> None:
        """Answer the oldest question."""
        self.questions.pop(0).callback(record)

    def fail(self, error: Exception | None = None) -> None:
        """Fail the oldest question."""
        self.questions.pop(0).errback(error or StoreUnavailable("down"))


@implementer(IRedis)
class MemoryRedis:
    """The few commands of Redis that are needed, on a dictionary."""

    def __init__(self) -> None:
        self.held: dict[bytes, Any] = {}
        self.calls: list[tuple[bytes | str | int, ...]] = []
        self.error: Exception | None = None

    def call(self, *words: bytes | str | int) -> Deferred[Any]:
        """Do a command."""
        self.calls.append(words)
        if self.error is not None:
            return fail(self.error)
        command, place = words
        assert isinstance(place, bytes)
        held = self.held.get(place)
        wanted = {"GET": bytes, "HGETALL": dict}[str(command)]
        if held is not None and not isinstance(held, wanted):
            return fail(RedisReplyError("WRONGTYPE Operation against a key"))
        if command == "HGETALL":
            pairs: dict[bytes, bytes] = held or {}
            return succeed([word for pair in pairs.items() for word in pair])
        return succeed(held)

    def run_script(
        self,
        script: str,
        keys: Sequence[bytes | str],
        arguments: Sequence[bytes | str | int],
    ) -> Deferred[Any]:
        """Refuse: no source of keys needs scripts."""
        raise NotImplementedError


@implementer(IDatabase)
class MemoryDatabase:
    """A real SQLite in memory, asked in the same turn."""

    dialect = "sqlite"
    marker = "?"
    quote = '"'

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.statements: list[str] = []

    def query(self, statement: str, parameters: Sequence[Any]) -> Deferred[Sequence[Sequence[Any]]]:
        """Ask."""
        self.statements.append(statement)
        try:
            return succeed(self.connection.execute(statement, parameters).fetchall())
        except sqlite3.Error as error:
            return fail(StoreUnavailable(str(error)))

    def write(self, statement: str, rows: Sequence[Sequence[Any]]) -> Deferred[None]:
        """Refuse: no source of keys writes."""
        raise NotImplementedError


@implementer(IKeyStore)
class MemoryKeyStore:
    """Stored keys in a dictionary; with ``error`` set, nothing can be said."""

    def __init__(self) -> None:
        self.by_key: dict[str, StoredKey] = {}
        self.error: Exception | None = None
        self.asked: list[str] = []

    def put(self, key: str, record: KeyRecord) -> None:
        """Store a key."""
        self.by_key[key] = StoredKey(
            record=record, prefix="", digest=b"", created_at_s=0.0, updated_at_s=0.0
        )

    def identify(self, key: str) -> Deferred[StoredKey | None]:
        """Give a key by the key itself."""
        if self.error is not None:
            return fail(self.error)
        return succeed(self.by_key.get(key))

    def get(self, key_id: str) -> Deferred[StoredKey | None]:
        """Give a key by its id."""
        self.asked.append(key_id)
        if self.error is not None:
            return fail(self.error)
        stored = [one for one in self.by_key.values() if one.record.id == key_id]
        return succeed(stored[0] if stored else None)

    def create(self, draft: KeyDraft) -> Deferred[StoredKey]:
        """Refuse: the pipeline only reads."""
        raise NotImplementedError

    def update(
        self, key_id: str, change: Callable[[KeyRecord], KeyRecord]
    ) -> Deferred[StoredKey | None]:
        """Refuse: the pipeline only reads."""
        raise NotImplementedError

    def delete(self, key_id: str) -> Deferred[bool]:
        """Refuse: the pipeline only reads."""
        raise NotImplementedError

    def list(self, wanted: KeyFilter) -> Deferred[tuple[Sequence[StoredKey], int]]:
        """Refuse: the pipeline only reads."""
        raise NotImplementedError

    def sync(self, drafts: Sequence[KeyDraft], full: bool) -> Deferred[SyncCounts]:
        """Refuse: the pipeline only reads."""
        raise NotImplementedError
