r"""A long JSON text cut down to its skeleton as it passes.

What makes an answer long is its texts and its vectors; what is wanted of it, such as usage, names
and reasons, is short. A string longer than `LONGEST_STRING_BYTES` becomes an empty one, and of a
row of numbers a few stay, so that what is left is still JSON, with everything else in its place.
The module must not know which keys matter.
"""

from __future__ import annotations

import re
from typing import Final

LONGEST_STRING_BYTES: Final = 256
BLOCK_BYTES: Final = 64 * 1024
"""Of pieces at least so large, rows of numbers lose all but a few."""
LIMIT_BYTES: Final = 1024 * 1024
TAIL_BYTES: Final = 64 * 1024

_QUOTE: Final = b'"'
_STRING_REST = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_SHORT_STRINGS = re.compile(rb'(?:[^"]*"[^"\\]{0,%d}")*' % LONGEST_STRING_BYTES)
_NUMBERS: Final = rb"(?<=[\[,])\s*(?:-?[\d.eE+-]+\s*,\s*){8,}"
"""Numbers with their commas, in a row that began before and goes on behind: without them it is as
valid as with them."""
_ROW = re.compile(_NUMBERS)
_STRING_OR_ROW = re.compile(rb'("[^"\\]*")|' + _NUMBERS)


class Skeleton:
    """Takes a JSON text in pieces, and keeps its skeleton.

    Attributes:
        text: What is left so far.
        cut: Whether that was still more than `LIMIT_BYTES`: only its end is kept then.
    """

    __slots__ = ("_escaped", "_string", "cut", "text")

    def __init__(self) -> None:
        self._string: bytearray | None = None  # the one that it stands in, as far as it is kept
        self._escaped = False  # the last byte was a backslash in it
        self.text = bytearray()
        self.cut = False

    def __repr__(self) -> str:
        return f"<Skeleton {len(self.text)} bytes cut={self.cut}>"

    def feed(self, piece: bytes) -> None:
        """Take the next piece, cut anywhere."""
        for start in range(0, len(piece), BLOCK_BYTES):
            self._feed(piece[start : start + BLOCK_BYTES])
            if len(self.text) > LIMIT_BYTES:
                self.cut = True
            if self.cut:
                del self.text[:-TAIL_BYTES]

    def _feed(self, block: bytes) -> None:
        at, size = 0, len(block)
        while at < size:
            if self._string is not None:
                at = self._in_string(self._string, block, at)
                continue
            run = _SHORT_STRINGS.match(block, at)
            assert run is not None, "it matches nothing as well"
            quote = block.find(_QUOTE, run.end())
            end = size if quote < 0 else quote
            self.text += _without_rows(block[at:end])
            at = end + 1
            if quote >= 0:
                self._string = bytearray()

    def _in_string(self, string: bytearray, piece: bytes, at: int) -> int:
        """Take the rest of a string, as far as it goes; return where that is."""
        rest = _STRING_REST.match(piece, at + self._escaped)
        assert rest is not None, "it matches nothing as well"
        self._escaped = False
        end = rest.end()
        if len(string) <= LONGEST_STRING_BYTES:
            string += piece[at : min(end, at + LONGEST_STRING_BYTES + 1)]
        if end < len(piece) and piece[end] == _QUOTE[0]:
            if len(string) <= LONGEST_STRING_BYTES:
                self.text += b'"%b"' % bytes(string)
            else:
                self.text += b'""'
            self._string = None
            return end + 1
        if end < len(piece):  # a backslash that ends the piece
            self._escaped = True
            string += piece[end:]
            return len(piece)
        return end


def _without_rows(text: bytes) -> bytes:
    """Take the rows of numbers out of a text whose strings are whole and have no escapes."""
    return _STRING_OR_ROW.sub(rb"\1", text) if _ROW.search(text) else text
