"""What the configuration names, opened."""

from __future__ import annotations

import os
import socket
from io import StringIO
from pathlib import Path

import pytest
from twisted.logger import capturedLogs, formatEvent

from llmproxy.logs.journal import JournalSink
from llmproxy.logs.outputs import Destination, Outputs
from llmproxy.values import LogLine

STDOUT = Destination("stdout")


def test_streams() -> None:
    """Each is the one that was given."""
    stdout, stderr = StringIO(), StringIO()
    outputs = Outputs(stdout, stderr)
    outputs.open(STDOUT).write((LogLine("out\n"),))
    outputs.open(Destination("stderr", "not-used.log")).write((LogLine("err\n"),))
    assert (stdout.getvalue(), stderr.getvalue()) == ("out\n", "err\n")


def test_two_logs_share_a_destination(tmp_path: Path) -> None:
    """So that a file is set aside once."""
    outputs = Outputs(StringIO(), StringIO())
    place = Destination("file", str(tmp_path / "a.log"), 10, 2)
    one, two = outputs.open(place), outputs.open(place)
    assert one is two
    assert outputs.open(Destination("file", str(tmp_path / "b.log"))) is not one
    assert outputs.open(STDOUT) is outputs.open(STDOUT)
    for _ in range(3):
        one.write((LogLine("12345678\n"),))
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "a.log",
        "a.log.1",
        "a.log.2",
        "b.log",
    ]


def test_the_journal(tmp_path: Path) -> None:
    """At its socket; without one nothing is opened."""
    path = str(tmp_path / "socket")
    outputs = Outputs(StringIO(), StringIO(), journal_path=path)
    with pytest.raises(FileNotFoundError):
        outputs.open(Destination("journal"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        sink = outputs.open(Destination("journal"))
        assert isinstance(sink, JournalSink)
        assert outputs.open(Destination("journal")) is sink


def test_settling(tmp_path: Path) -> None:
    """Every file is opened anew; one that cannot be is told of, and the others are all the same."""
    outputs = Outputs(StringIO(), StringIO())
    (tmp_path / "gone").mkdir()
    first = Destination("file", str(tmp_path / "gone" / "a.log"))
    second = Destination("file", str(tmp_path / "b.log"))
    bad, good = outputs.open(first), outputs.open(second)
    (tmp_path / "gone").rename(tmp_path / "moved")
    (tmp_path / "b.log").rename(tmp_path / "b.old")
    with capturedLogs() as told:
        outputs.settle((first, STDOUT, second))
    (event,) = told
    assert "a.log> cannot be reopened: No such file" in formatEvent(event)
    for sink in (bad, good):
        sink.write((LogLine("one\n"),))
    assert (tmp_path / "moved" / "a.log").read_text() == "one\n"
    assert (tmp_path / "b.log").read_text() == "one\n"
    assert (tmp_path / "b.old").read_text() == ""


def test_settling_for_others(tmp_path: Path) -> None:
    """What is wanted no more is closed; what stays is the same object, set aside otherwise."""
    outputs = Outputs(StringIO(), StringIO())
    kept, gone = (Destination("file", str(tmp_path / name)) for name in ("a.log", "b.log"))
    before = len(os.listdir("/proc/self/fd"))
    sink, other = outputs.open(kept), outputs.open(gone)
    smaller = Destination("file", kept.path, 10, 1)
    assert outputs.open(smaller) is sink
    outputs.settle((smaller,))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        other.write((LogLine("one\n"),))
    for _ in range(2):
        sink.write((LogLine("12345678\n"),))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.log", "a.log.1", "b.log"]


def test_a_file_that_cannot_be_opened_anew(tmp_path: Path) -> None:
    """That is said while the old one can still stay in use."""
    outputs = Outputs(StringIO(), StringIO())
    (tmp_path / "logs").mkdir()
    place = Destination("file", str(tmp_path / "logs" / "a.log"))
    sink = outputs.open(place)
    (tmp_path / "logs").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        outputs.open(place)
    sink.write((LogLine("one\n"),))
    assert (tmp_path / "moved" / "a.log").read_text() == "one\n"
