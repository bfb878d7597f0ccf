r"""Event streams cut into whole lines, and the payloads of their data lines.

The rules (WHATWG HTML, section 9.2, "Server-sent events"): a line ends in LF, CR or CRLF; a blank
line ends an event; ``data:`` and at most one space precede a payload; a line that begins with a
colon is a comment. An event may spread its payload over several data lines; no inference server
does, so here each data line is a payload of its own.

Theory: a reader of a stream that is only *watched* need not see events, and hardly ever a line.
`LineScanner` therefore gives on whole lines in blocks, most of the time the very bytes object that
it was fed, so that a few byte tests over a block can tell that there is nothing in it. Only where
there is something are `data_payloads` cut out. The module must not know what is in the payloads.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

_LINE_ENDS: Final = (b"\n", b"\r")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_LINE = re.compile(rb"[^\r\n]+(?:\r\n|\n|\r)?")
BOM: Final = b"\xef\xbb\xbf"
_EVENT_BOUNDARY = re.compile(rb"(?:\A|\n|\r(?!\n))(?:\r\n|\n|\r)\Z")
LONGEST_BOUNDARY: Final = 4
LINE_LIMIT_BYTES: Final = 1024 * 1024


def data_payloads(block: bytes) -> list[bytes]:
    """Return the payload of each data line in a block of whole lines, in order.

    Args:
        block: Whole lines; the last may lack its end. A byte order mark, which may stand before
            the first line of a stream, is not its affair.
    """
    lines = block.splitlines()
    return [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]


@attrs.define
class LineScanner:
    """Gives on the whole lines of a stream that comes in pieces cut anywhere.

    Memory is bounded by the limit, and time is linear in the bytes fed, however they are cut. A
    line over the limit is left out, as if it were not there.

    Attributes:
        limit_bytes: Longest line that is kept, without its end.
        skipped_lines: How many were longer.
    """

    limit_bytes: int = LINE_LIMIT_BYTES
    skipped_lines: int = 0
    _pending: bytearray = attrs.field(factory=bytearray, init=False)
    _skipping: bool = attrs.field(default=False, init=False)

    @property
    def holding(self) -> bool:
        """Whether the stream stands in the midst of a line."""
        return bool(self._pending) or self._skipping

    def feed(self, piece: bytes) -> bytes:
        """Take the next piece.

        Returns:
            The lines that are whole now, with their ends: the piece itself where it begins and
            ends with a line. Empty when no line ended. A CRLF that is cut in two gives the LF as a
            blank line.
        """
        if not self._pending and not self._skipping and piece.endswith(_LINE_ENDS):
            return piece if len(piece) <= self.limit_bytes else self._without_long_lines(piece)
        return self._feed_cut(piece)

    def rest(self) -> bytes:
        """Return the line that the stream ended in the midst of, and forget it."""
        rest = bytes(self._pending)
        self._pending.clear()
        return rest

    def _feed_cut(self, piece: bytes) -> bytes:
        if self._skipping:
            end = _LINE_END.search(piece)
            if end is None:
                return b""
            self._skipping = False
            piece = piece[end.end() :]
        cut = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
        block = b""
        if cut:
            block = bytes(self._pending) + piece[:cut]
            self._pending.clear()
            if len(block) > self.limit_bytes:
                block = self._without_long_lines(block)
        self._pending += piece[cut:]
        if len(self._pending) > self.limit_bytes:
            self._pending.clear()
            self._skipping = True
            self.skipped_lines += 1
        return block

    def _without_long_lines(self, block: bytes) -> bytes:
        kept = []
        done = 0
        for line in _LINE.finditer(block):
            if len(line[0].rstrip(b"\r\n")) > self.limit_bytes:
                kept.append(block[done : line.start()])
                done = line.end()
                self.skipped_lines += 1
        kept.append(block[done:])
        return b"".join(kept)


def ends_at_event(end: bytes) -> bool:
    """Say whether a stream stands between two events.

    Args:
        end: At least its last `LONGEST_BOUNDARY` bytes, or all of it.

    Returns:
        Whether nothing came yet, or what came last is a blank line.
    """
    return not end or _EVENT_BOUNDARY.search(end[-LONGEST_BOUNDARY:]) is not None
