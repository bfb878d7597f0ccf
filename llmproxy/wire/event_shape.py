"""The shape that a stream's text events share, so that most of them need not be searched.

From its second token on, a stream says the same words around every piece of text: an event is
``head`` + one place + ``middle`` + another place + ``end``. One place is the text; in the other
stands an id, a time or a number that changes, before the text or after it. Where nothing changes
there is only the text, and no ``middle``. Once that is known, whether bytes are such events and
nothing else is a matter of comparing and counting, many times cheaper than looking for what else
might be in them.

Why the counting proves it: what stands before the text ends with the quote that opens it, what
stands behind begins with the one that closes it, and JSON escapes every quote inside a string. If
each event of a block follows on the one before, has its parts, and no further line or unescaped
quote, there is no room for another key. An event may begin with a line that names it (``event:``),
which is the same in all of them. The module must not know what the texts are, or which keys matter.
"""

from __future__ import annotations

import re
from typing import Final

_QUOTE: Final = b'"'
_SIGNS: Final = b'"\n\r'
"""Counted together, in one pass: the parts of an event have some, and nothing else may have any."""
_BACKSLASH: Final = b"\\"
_LONGEST_SHAPE: Final = 16 * 1024
_SEAM_BYTES: Final = 8
_DIGITS: Final = b"0123456789"
_BEFORE = re.compile(rb'(?:event:[^"\r\n]*\r?\n)?[^\r\n]*\Z')
"""What may stand before a text: an event's name in a line of its own, which nobody reads."""
_IN_A_VALUE = re.compile(rb'(?::\s*"[^"]*|"\s*:[^"]*)\Z')
"""What ends there is in a value of an object: what differs from there on is no key."""
MAX_LESSONS: Final = 8
"""After so many lessons in a row that no event followed, none is taken any more."""


class EventShape:
    """The shape of the event that was learnt last; matches nothing before that."""

    __slots__ = (
        "_after",
        "_before",
        "_end",
        "_head",
        "_joint",
        "_lessons",
        "_middle",
        "_opening",
        "_seam",
        "_signs",
    )

    def __init__(self) -> None:
        self._before = self._after = b""
        self._head = self._middle = self._end = b""
        self._seam = self._joint = b""  # around an empty text; between two events
        self._opening = b""  # of an event with an empty text, where that is the first place
        self._signs = self._lessons = 0

    def __repr__(self) -> str:
        return f"<EventShape {self._head!r} {self._middle!r} {self._end!r}>"

    @property
    def teachable(self) -> bool:
        """Whether it still takes lessons."""
        return self._lessons < MAX_LESSONS

    def learn(self, event: bytes, text_at: int) -> None:
        """Take an event's shape over.

        Args:
            event: One whole event, its line ends included, with one text that is not empty.
            text_at: Where its text begins, after the opening quote.
        """
        self._lessons += 1
        close_at = event.find(_QUOTE, text_at)
        if close_at < 0 or event[close_at - 1] == _BACKSLASH[0] or len(event) > _LONGEST_SHAPE:
            return
        before, after = event[:text_at], event[close_at:]
        if not _BEFORE.match(before) or _BACKSLASH in before or _BACKSLASH in after:
            return
        head, middle, end = before, b"", after
        if self._before and before != self._before and after == self._after:
            head, middle = _around_the_difference(before, self._before)
        elif before == self._before and after != self._after:
            close, rest = _around_the_difference(after, self._after)
            if rest:
                middle, end = close, rest
        if middle and middle in end + head:
            head, middle, end = before, b"", after  # where it stands would not be plain
        self._head, self._middle, self._end = head, middle, end
        if end is after:
            self._seam, self._opening = (middle or before)[-_SEAM_BYTES:] + after, b""
        else:
            self._seam, self._opening = before[-_SEAM_BYTES:] + middle, before + middle
        self._before, self._after = before, after
        self._signs = len(before + after) - len((before + after).translate(None, _SIGNS))
        self._joint = end + head

    def run_end(self, block: bytes, start: int) -> int:
        """Say how far a run of such events that begins at ``start`` may reach; -1: none begins."""
        if not self._head or not block.startswith(self._head, start):
            return -1
        last = block.rfind(self._end, start)
        return last + len(self._end) if last >= 0 else -1

    def texts(self, block: bytes) -> int:
        """Count the texts in a block of events.

        Returns:
            How many of them are not empty; -1 when the block holds anything but whole events of
            this shape.
        """
        head = self._head
        if not head or not block.startswith(head) or not block.endswith(self._end):
            return -1
        signs = len(block) - len(block.translate(None, _SIGNS))
        if _BACKSLASH in block:
            if b"\\\\" in block:
                return -1  # whether a quote after them is escaped would have to be worked out
            signs -= block.count(b'\\"')
        middle = self._middle
        if signs == self._signs:
            if middle and block.find(middle, len(head), len(block) - len(self._end)) < 0:
                return -1
            self._lessons = 0
            opening = self._opening
            empty = block.startswith(opening) if opening else block.endswith(self._seam)
            return 0 if empty else 1
        events = signs // self._signs
        if (
            signs != events * self._signs
            or block.count(self._joint) != events - 1
            or (middle and block.count(middle) != events)
        ):
            return -1
        self._lessons = 0
        return events - block.count(self._seam)


def _around_the_difference(one: bytes, other: bytes) -> tuple[bytes, bytes]:
    """Give what two texts begin and end with alike, if what differs is a value, or in one.

    Digits at its edges belong to what differs: a counter's first ones change as well, only later.
    """
    start = _common(one, other)
    end = _common(one[start:][::-1], other[start:][::-1])
    head, tail = one[:start].rstrip(_DIGITS), one[len(one) - end :].lstrip(_DIGITS)
    differs, differed = one[start : len(one) - end], other[start : len(other) - end]
    if _QUOTE in differs or _QUOTE in differed or not _IN_A_VALUE.search(head):
        return one, b""
    return head, tail


def _common(one: bytes, other: bytes) -> int:
    """Give the length of what two texts begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
