"""Tests of `llmproxy.usage.spool_sync`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from llmproxy.usage.segment_writer import SegmentWriter
from llmproxy.usage.segments import Segments
from llmproxy.usage.spool_sync import SpoolSync
from tests.stores.logged import Logged


class Threads:
    """Runs what it is given when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def __call__(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Take a call."""
        done: Deferred[Any] = Deferred()
        self.waiting.append((done, lambda: call(*arguments)))
        return done

    def run(self) -> None:
        """Run the oldest."""
        done, call = self.waiting.pop(0)
        maybeDeferred(call).chainDeferred(done)


class Case:
    """A writer, and what forces its files to the disk."""

    def __init__(self, folder: Path, interval_s: float = 0.01, segment_bytes: int = 1000) -> None:
        self.clock = Clock()
        self.threads = Threads()
        self.forced: list[int] = []
        self.error: OSError | None = None
        self.writer = SegmentWriter(Segments(str(folder)), segment_bytes=segment_bytes)
        self.sync = SpoolSync(
            self.writer,
            str(folder),
            interval_s=interval_s,
            clock=self.clock,
            in_thread=self.threads,
            force=self.force,
        )

    def force(self, descriptor: int) -> None:
        """Note a descriptor; it is open."""
        os.fstat(descriptor)
        self.forced.append(descriptor)
        if self.error is not None:
            raise self.error

    def write(self) -> None:
        """Write a line."""
        self.writer.append(b"123456789\n", 1, 0.0)
        self.sync.written()


def test_many_lines_at_once(tmp_path: Path) -> None:
    """An interval after the first; nothing runs while nothing is written."""
    case = Case(tmp_path)
    assert case.clock.getDelayedCalls() == []
    for _ in range(5):
        case.write()
    case.clock.advance(0.009)
    assert case.threads.waiting == []
    case.clock.advance(0.002)
    case.threads.run()
    assert len(case.forced) == 1
    assert case.clock.getDelayedCalls() == []
    case.writer.close()


def test_never_twice_at_once(tmp_path: Path) -> None:
    """What is written meanwhile comes with the next; a file that became full is closed then."""
    case = Case(tmp_path, segment_bytes=10)
    case.write()
    case.clock.advance(0.02)
    case.write()
    case.write()
    case.clock.advance(1)
    assert len(case.threads.waiting) == 1
    first = case.writer.unsynced()
    assert len(first) == 3
    case.threads.run()
    assert case.writer.unsynced() == first[1:]
    case.clock.advance(0.02)
    case.threads.run()
    assert case.forced == [first[0], *first[1:]]
    assert case.writer.unsynced() == first[2:]
    case.writer.close()


def test_stopping(tmp_path: Path) -> None:
    """It waits for what runs, and forces what was written since."""
    case = Case(tmp_path)
    case.write()
    case.clock.advance(0.02)
    case.write()
    ends: list[Any] = []
    Deferred.fromCoroutine(case.sync.stop()).addCallback(ends.append)
    case.threads.run()
    assert ends == []
    case.threads.run()
    assert ends == [None]
    assert len(case.forced) == 2
    assert case.writer.unsynced() == []
    assert case.clock.getDelayedCalls() == []


def test_stopping_before_the_first_time(tmp_path: Path) -> None:
    """What was just written is forced as well."""
    case = Case(tmp_path)
    case.write()
    ends: list[Any] = []
    Deferred.fromCoroutine(case.sync.stop()).addCallback(ends.append)
    case.threads.run()
    assert ends == [None]
    assert len(case.forced) == 1
    assert case.clock.getDelayedCalls() == []


def test_a_disk_that_fails(tmp_path: Path) -> None:
    """It is told of once, and tried with what comes next."""
    logged = Logged("SpoolSync")
    case = Case(tmp_path)
    for error in (OSError(5, "Input/output error"), OSError(5, "Input/output error"), None):
        case.error = error
        case.write()
        case.clock.advance(0.02)
        case.threads.run()
    logged.stop()
    assert len(case.forced) == 3
    assert len(logged.lines) == 1
    case.writer.close()


def test_the_system_decides(tmp_path: Path) -> None:
    """With 0: nothing is forced, and full files are closed at once."""
    case = Case(tmp_path, interval_s=0.0, segment_bytes=10)
    case.write()
    case.write()
    assert len(case.writer.unsynced()) == 1
    assert case.clock.getDelayedCalls() == []
    ends: list[Any] = []
    Deferred.fromCoroutine(case.sync.stop()).addCallback(ends.append)
    assert ends == [None]
    assert case.forced == []


def test_the_directory_is_forced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each new file, or that would be lost with its name."""
    seen: list[bool] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        seen.append(os.path.samestat(os.fstat(descriptor), os.stat(tmp_path)))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    case = Case(tmp_path)
    for _ in range(3):
        case.write()
        case.clock.advance(0.02)
        case.threads.run()
    assert seen == [True]
    case.writer.close()
