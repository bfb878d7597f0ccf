"""What is to be true of a cache over a source whose keys come and go; see `test_cached`."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from llmproxy.auth.cached import CachedSource, CacheTimes
from llmproxy.auth.judge import PreparedKey
from llmproxy.auth.verdicts import Verdict
from llmproxy.errors import AuthUnavailable, StoreUnavailable
from llmproxy.interfaces import IKeySource
from llmproxy.key_records import KeyRecord

RECHECK_S, TTL_S, NEGATIVE_S = 1.0, 3.0, 2.0


@attrs.define(eq=False)
class Question:
    """One question, and when it was put."""

    credential: str
    asked_at_s: float
    answer: Deferred[KeyRecord | None]


@implementer(IKeySource)
class World:
    """A source with keys that come and go, and all that is to be true of a cache over it.

    Each record's name is a number; by that it is known when its question was put.
    """

    name = "world"

    def __init__(self) -> None:
        self.clock = Clock()
        self.questions: list[Question] = []
        self.keys: dict[str, bool] = {}
        self.asked_at_s: dict[str, float] = {}
        self.last_failed: dict[str, bool] = {}
        self.denied_at_s: dict[str, float] = {}
        self.waiting: list[Deferred[Verdict | None]] = []
        self.broken: list[str] = []
        self.cache = CachedSource(
            self,
            CacheTimes(RECHECK_S, TTL_S, NEGATIVE_S),
            clock=self.clock,
            now=self.clock.seconds,
            on_revoked=lambda *_: None,
            max_entries=3,
        )

    def find(self, credential: str) -> Deferred[KeyRecord | None]:
        """Note the question; a key is never asked for twice at a time."""
        if credential in [one.credential for one in self.questions]:
            self.broken.append(f"{credential} is looked up twice at a time")

        def cancel(_: Any) -> None:
            self.questions.remove(question)

        question = Question(credential, self.clock.seconds(), Deferred(cancel))
        self.questions.append(question)
        return question.answer

    def request(self, credential: str) -> None:
        """Use a key, and hold what is said at once to the rules."""
        digest, now = credential.encode(), self.clock.seconds()
        said = self.cache.recall(digest)
        if isinstance(said, PreparedKey):
            age_s = now - self.asked_at_s[said.record.name]
            assert age_s < TTL_S
            assert age_s < RECHECK_S or self.last_failed[credential]
        elif said is None:
            assert now - self.denied_at_s[credential] < NEGATIVE_S
        else:
            self.waiting.append(self.cache.ask(credential, digest))
            self.waiting[-1].addCallback(self.hold, credential).addErrback(
                lambda failure: failure.trap(AuthUnavailable, CancelledError) and None
            )

    def hold(self, found: Verdict | None, credential: str) -> None:
        """Hold what was said later to the rules."""
        if isinstance(found, PreparedKey):
            age_s = self.clock.seconds() - self.asked_at_s[found.record.name]
            if not (age_s < TTL_S if self.last_failed[credential] else self.keys[credential]):
                self.broken.append(f"{credential} passed with a verdict of {age_s} seconds")

    def answer(self) -> None:
        """Answer the oldest question, truly."""
        if self.questions:
            question = self.questions.pop(0)
            self.last_failed[question.credential] = False
            if self.keys.get(question.credential):
                name = str(len(self.asked_at_s))
                self.asked_at_s[name] = question.asked_at_s
                question.answer.callback(KeyRecord(id=question.credential, name=name))
            else:
                self.denied_at_s[question.credential] = question.asked_at_s
                question.answer.callback(None)

    def fail(self) -> None:
        """Let the oldest question fail."""
        if self.questions:
            question = self.questions.pop(0)
            self.last_failed[question.credential] = True
            question.answer.errback(StoreUnavailable("down"))

    def met(self, credential: str, *, good: bool = True) -> None:
        """Use a key and have all questions answered, or failed."""
        self.request(credential)
        while self.questions:
            (self.answer if good else self.fail)()

    def lost(self, credential: str) -> None:
        """Use a key while the source is down."""
        self.met(credential, good=False)

    def toggle(self, credential: str) -> None:
        """Make a key known or unknown."""
        self.keys[credential] = not self.keys.get(credential)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    def forget(self, key_id: str | None) -> None:
        """Tell of a change."""
        self.cache.forget(None if key_id is None else {key_id})

    def leave(self) -> None:
        """Let the client that waits longest leave."""
        if self.waiting:
            self.waiting.pop(0).cancel()
