"""Tests of `llmproxy.backends.reasons`."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from llmproxy.backends.reasons import AskTimedOut, reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError(" wrong "), "wrong"),
        (ValueError(), "ValueError"),
        (ResponseNeverReceived([Failure(ValueError("inner"))]), "inner"),
        (ResponseFailed([Failure(ResponseFailed([Failure(ValueError("deep"))]))]), "deep"),
        (ResponseFailed([Failure(ConnectionLost("bye"))]), "Connection to the other side was lost"),
    ],
)
def test_reason_is_the_innermost_cause(error: Exception, reason: str) -> None:
    """Twisted's wrappers are taken off; what has no message gives its name."""
    assert reason_of(Failure(error)).startswith(reason)


def test_timeout_whatever_the_cancelling_left() -> None:
    """Also an agent that fails with its own error when cancelled has timed out."""
    clock = Clock()
    asked: Deferred[Any] = Deferred(lambda d: d.errback(ConnectionLost()))
    results: list[Failure] = []
    asked.addTimeout(2.5, clock, AskTimedOut.instead).addErrback(results.append)
    clock.advance(2.5)
    assert results[0].type is AskTimedOut
    assert reason_of(results[0]) == "no answer within 2.5 s"
