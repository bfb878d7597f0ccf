"""What the configuration names, opened."""

from __future__ import annotations

import socket
from io import StringIO
from pathlib import Path

import pytest
from twisted.logger import capturedLogs, formatEvent

from llmproxy.logs.journal import JournalSink
from llmproxy.logs.outputs import Outputs
from llmproxy.values import LogLine


def test_streams() -> None:
    """Each is the one that was given."""
    stdout, stderr = StringIO(), StringIO()
    outputs = Outputs(stdout, stderr)
    outputs.open("stdout").write((LogLine("out\n"),))
    outputs.open("stderr", "not-used.log").write((LogLine("err\n"),))
    assert (stdout.getvalue(), stderr.getvalue()) == ("out\n", "err\n")


def test_two_logs_share_a_destination(tmp_path: Path) -> None:
    """So that a file is set aside once."""
    outputs = Outputs(StringIO(), StringIO())
    path = str(tmp_path / "a.log")
    one, two = outputs.open("file", path, 10, 2), outputs.open("file", path, 10, 2)
    assert one is two
    assert outputs.open("file", str(tmp_path / "b.log")) is not one
    assert outputs.open("stdout") is outputs.open("stdout")
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
        outputs.open("journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        assert isinstance(outputs.open("journal"), JournalSink)


def test_reopening(tmp_path: Path) -> None:
    """Every file; one that fails is told of, and the others are reopened all the same."""
    outputs = Outputs(StringIO(), StringIO())
    (tmp_path / "gone").mkdir()
    bad = outputs.open("file", str(tmp_path / "gone" / "a.log"))
    good = outputs.open("file", str(tmp_path / "b.log"))
    outputs.open("stdout")
    (tmp_path / "gone").rename(tmp_path / "moved")
    (tmp_path / "b.log").rename(tmp_path / "b.old")
    with capturedLogs() as told:
        outputs.reopen()
    (event,) = told
    assert "a.log> cannot be reopened: No such file" in formatEvent(event)
    for sink in (bad, good):
        sink.write((LogLine("one\n"),))
    assert (tmp_path / "moved" / "a.log").read_text() == "one\n"
    assert (tmp_path / "b.log").read_text() == "one\n"
    assert (tmp_path / "b.old").read_text() == ""
