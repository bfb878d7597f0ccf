"""Tests of `llmproxy.descriptors`."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import suppress

import pytest
from twisted.internet.error import ConnectBindError, ConnectionRefusedError, DNSLookupError
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from llmproxy.descriptors import (
    OUTAGE_S,
    SPARE,
    DescriptorShortage,
    limit,
    needed_for,
    raise_limit,
)

LACKING = ConnectBindError(errno.EMFILE, "Too many open files")


@pytest.fixture
def limited() -> Iterator[int]:
    """Lower the soft limit; give what it was."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before, 256), hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    """What is logged."""
    events: list[LogEvent] = []

    @implementer(ILogObserver)
    def note(event: LogEvent) -> None:
        events.append(event)

    globalLogPublisher.addObserver(note)
    yield events
    globalLogPublisher.removeObserver(note)


def test_raise_limit(limited: int) -> None:
    """The soft limit becomes the hard one, and stays it."""
    assert limit() == 256
    for _ in range(2):
        raise_limit()
        assert limit() == limited


def test_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any there are enough."""
    monkeypatch.setattr(
        "resource.getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )
    raise_limit()
    assert limit() > needed_for(10**9)


def test_needed() -> None:
    """A connection and one to a backend, and what else there is."""
    assert needed_for(100) == 200 + SPARE


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (LACKING, True),
        (ConnectBindError(errno.ENFILE, "Too many open files in system"), True),
        (OSError(errno.EMFILE, "Too many open files"), True),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), False),
        (ConnectionRefusedError(), False),
        (DNSLookupError("no such host"), False),
    ],
)
def test_whose_failure_it_is(error: Exception, ours: bool) -> None:
    """The number of the system's error tells, where there is one."""
    assert DescriptorShortage(Clock()).explains(error) is ours


def test_failures_without_a_number(limited: int) -> None:
    """Are ours when there is nothing left."""
    del limited
    shortage = DescriptorShortage(Clock())
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        assert shortage.explains(DNSLookupError("no such host"))
    finally:
        for number in taken:
            os.close(number)
    assert not shortage.explains(DNSLookupError("no such host"))


def test_an_outage_is_logged_once(logged: list[LogEvent]) -> None:
    """However many fail in it; the next outage is told of again."""
    clock = Clock()
    shortage = DescriptorShortage(clock)
    assert repr(shortage) == "<DescriptorShortage last_s=-inf>"
    for _ in range(3):
        clock.advance(OUTAGE_S - 1)
        assert shortage.explains(LACKING)
    assert [event["log_level"].name for event in logged] == ["error"]
    assert "file descriptor" in logged[0]["log_format"]
    clock.advance(OUTAGE_S + 1)
    assert shortage.explains(LACKING)
    assert len(logged) == 2
