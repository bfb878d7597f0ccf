"""A Redis that writes down what it is asked, and answers when the test says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from llmproxy.interfaces import IRedis


class ScriptCall:
    """One script that was to be run.

    Attributes:
        script: It.
        names: The names of its keys.
        arguments: Its arguments.
        answer: What the caller waits for.
    """

    def __init__(self, script: str, names: Sequence[Any], arguments: Sequence[Any]) -> None:
        self.script = script
        self.names = list(names)
        self.arguments = tuple(arguments)
        self.answer: Deferred[Any] = Deferred()

    def reply(self, reply: Any) -> None:
        """Answer."""
        self.answer.callback(reply)

    def fail(self, error: Exception) -> None:
        """Fail."""
        self.answer.errback(error)


@implementer(IRedis)
class FakeRedis:
    """Answers nothing by itself.

    Attributes:
        calls: What it was asked.
        broken: With what it fails at once, if with anything.
    """

    def __init__(self) -> None:
        self.calls: list[ScriptCall] = []
        self.broken: Exception | None = None

    def call(self, *words: bytes | str | int) -> Deferred[Any]:
        """Nobody asks that."""
        raise NotImplementedError

    def run_script(
        self, script: str, keys: Sequence[bytes | str], arguments: Sequence[bytes | str | int]
    ) -> Deferred[Any]:
        """Write a script down."""
        call = ScriptCall(script, keys, arguments)
        self.calls.append(call)
        if self.broken is not None:
            call.fail(self.broken)
        return call.answer
