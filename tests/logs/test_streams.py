"""Lines to the process's own streams."""

from __future__ import annotations

from io import BytesIO, StringIO, TextIOWrapper

from zope.interface.verify import verifyObject

from llmproxy.interfaces import ILogSink
from llmproxy.logs.streams import StreamSink, encoded
from llmproxy.values import LogLine


def test_it_is_a_sink() -> None:
    """It provides the interface."""
    assert verifyObject(ILogSink, StreamSink(StringIO()))


def test_lines_are_out_at_once() -> None:
    """Nothing stays in a buffer."""
    raw = BytesIO()
    stream = TextIOWrapper(raw, encoding="utf-8")
    sink = StreamSink(stream)
    sink.write((LogLine("one ✓\n"), LogLine("two\n")))
    sink.write((LogLine("three\n"),))
    assert raw.getvalue() == "one ✓\ntwo\nthree\n".encode()


def test_what_is_no_utf_8_is_escaped() -> None:
    """A lone surrogate costs no line."""
    assert encoded("a\ud800b ✓") == "a\\ud800b ✓".encode()
    raw = BytesIO()
    stream = TextIOWrapper(raw, encoding="utf-8")
    StreamSink(stream).write((LogLine("a\ud800b\n"), LogLine("c\n")))
    assert raw.getvalue() == b"a\\ud800b\nc\n"
