"""Lines to standard output or standard error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from zope.interface import implementer

from llmproxy.interfaces import ILogSink
from llmproxy.values import LogLine


@implementer(ILogSink)
class StreamSink:
    """Writes lines to a stream of the process, which it never closes.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __repr__(self) -> str:
        return f"<StreamSink {getattr(self._stream, 'name', '')}>"

    def write(self, lines: Sequence[LogLine]) -> None:
        """Write lines with one call, and flush them."""
        text = "".join([line.text for line in lines])
        try:
            self._stream.write(text)
        except UnicodeEncodeError:  # and nothing of it is written
            self._stream.write(encoded(text).decode("utf-8"))
        self._stream.flush()


def encoded(text: str) -> bytes:
    """Give a text as UTF-8; what has no place in it is escaped, so that no line is lost for it."""
    return text.encode("utf-8", "backslashreplace")
