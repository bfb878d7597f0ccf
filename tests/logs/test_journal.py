"""The journal's own protocol, towards a socket of ours."""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from llmproxy.interfaces import ILogSink
from llmproxy.logs.journal import JournalSink, encode_fields
from llmproxy.values import LogLine


def decode_fields(content: bytes) -> dict[str, str]:
    """Read an entry as journald does."""
    fields: dict[str, str] = {}
    while content:
        name, end, rest = content.partition(b"\n")
        key, equals, value = name.partition(b"=")
        if equals:
            content = rest
        else:
            length = int.from_bytes(rest[:8], "little")
            value, content = rest[8 : 8 + length], rest[8 + length + 1 :]
            assert rest[8 + length : 8 + length + 1] == b"\n"
        assert end
        fields[key.decode()] = value.decode()
    return fields


@attrs.define
class FakeJournal:
    """A socket where journald's would be.

    Attributes:
        path: Its name.
    """

    path: str
    _socket: socket.socket = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(10)

    def receive(self) -> bytes:
        """Give the next entry, from a datagram or from the memory file in it."""
        content, ancillary, _, _ = self._socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        for _, kind, passed in ancillary:
            assert (kind, content) == (socket.SCM_RIGHTS, b"")
            (file,) = array("i", passed)
            with os.fdopen(file, "rb") as reader:
                content = os.pread(reader.fileno(), 1 << 24, 0)
                with pytest.raises(OSError, match="not permitted"):
                    os.ftruncate(os.dup(file), 0)
        return content

    def close(self) -> None:
        """Be gone, name and all."""
        self._socket.close()
        os.unlink(self.path)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FakeJournal]:
    """A journal."""
    journal = FakeJournal(str(tmp_path / "socket"))
    yield journal
    if os.path.exists(journal.path):
        journal.close()


def test_it_is_a_sink(journal: FakeJournal) -> None:
    """It provides the interface."""
    assert verifyObject(ILogSink, JournalSink(journal.path))


def test_entries(journal: FakeJournal) -> None:
    """One datagram for each line, with its fields."""
    sink = JournalSink(journal.path)
    sink.write((LogLine("said ✓\n", 4, "req-1", "llmproxy.x"), LogLine("more\n")))
    assert (
        journal.receive()
        == (
            "MESSAGE=said ✓\nPRIORITY=4\nSYSLOG_IDENTIFIER=llmproxy\nREQUEST_ID=req-1\n"
            "LLMPROXY_SOURCE=llmproxy.x\n"
        ).encode()
    )
    assert journal.receive() == b"MESSAGE=more\nPRIORITY=6\nSYSLOG_IDENTIFIER=llmproxy\n"


def test_messages_of_several_lines(journal: FakeJournal) -> None:
    """They come with their length: nothing in them passes for a field."""
    JournalSink(journal.path).write((LogLine("one\nPRIORITY=0\n", 3),))
    content = journal.receive()
    assert content.startswith(b"MESSAGE\n\x0e\0\0\0\0\0\0\0one\nPRIORITY=0\n")
    assert decode_fields(content) == {
        "MESSAGE": "one\nPRIORITY=0",
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "llmproxy",
    }


def test_large_entries(journal: FakeJournal) -> None:
    """They go in a sealed memory file."""
    text = "x" * 5_000_000
    JournalSink(journal.path).write((LogLine(text + "\n", 6, "req-1"),))
    fields = decode_fields(journal.receive())
    assert fields["MESSAGE"] == text
    assert fields["REQUEST_ID"] == "req-1"


@given(st.dictionaries(st.from_regex("[A-Z]{1,9}", fullmatch=True), st.text(min_size=1)))
def test_any_value_comes_through(fields: dict[str, str]) -> None:
    """Whatever stands in it, but for what is no UTF-8."""
    kept = {name: text for name, text in fields.items() if text.isprintable() or "\n" in text}
    kept = {name: text.encode("utf-8", "backslashreplace").decode() for name, text in kept.items()}
    assert decode_fields(encode_fields(kept)) == kept


def test_no_journal_at_all(tmp_path: Path) -> None:
    """That is told at the start."""
    with pytest.raises(FileNotFoundError):
        JournalSink(str(tmp_path / "nothing"))


def test_a_journal_that_goes_and_comes_back(journal: FakeJournal) -> None:
    """What is written meanwhile fails, and afterwards it is written again."""
    sink = JournalSink(journal.path)
    journal.close()
    with pytest.raises(FileNotFoundError):
        sink.write((LogLine("lost\n"),))
    again = FakeJournal(journal.path)
    sink.write((LogLine("kept\n"),))
    assert decode_fields(again.receive())["MESSAGE"] == "kept"


def test_a_journal_that_takes_nothing(journal: FakeJournal) -> None:
    """It is waited for once; lines are lost after that, until it takes some again."""
    sink = JournalSink(journal.path)
    with pytest.raises(TimeoutError):
        sink.write([LogLine("x\n")] * 100_000)
    with pytest.raises(BlockingIOError):
        sink.write((LogLine("lost\n"),))
    for _ in range(3):
        journal.receive()
    sink.write((LogLine("kept\n"),))
    with pytest.raises(TimeoutError):
        sink.write([LogLine("x\n")] * 100_000)
