r"""The usage chunk taken out of a stream whose client did not ask for it.

When the gateway itself asked for usage, the backend sends one event more than the client expects:
``{"choices": [], "usage": {...}}``. Exactly such events are removed; every other byte passes
unchanged, in order, and at once.

Theory. An event is a run of lines up to and including its blank line; comment lines before it
stand alone. The next byte is in one of four places:

==========  ====================================================================================
IDLE        between two events
COMMENT     in a comment line, which passes as it comes
HELD        in an event that may still be the usage chunk; what came of it is held
PASSING     in an event that cannot be it any more; its rest passes as it comes
==========  ====================================================================================

Whether an event may be the usage chunk (`_may_be_usage`) is a question to its beginning whose
answer only ever turns from yes to no as more of it comes. So the outcome is the same however the
stream is cut. The module must not know who asked for usage, nor what is in it.
"""

from __future__ import annotations

import enum
import re

import msgspec

HELD_LIMIT_BYTES = 16 * 1024

_WHOLE_EVENTS = (b"\n\n", b"\r\n\r\n")
_LINE_END = re.compile(rb"\r\n?|\n")
# The end of a line (an LF, or a CR that is not half of a CRLF), then a blank line.
_EVENT_END = re.compile(rb"(?:\n|\r(?!\n))(?P<blank>\r\n?|\n)")
_NO_CHOICE = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_SOME_CHOICE = re.compile(rb'"choices"\s*:\s*\[\s*[^\]\s]')
# The first data line of an event begins with anything but a brace. The group before it is not
# possessive, which Python before 3.11.5 matches wrongly: each line end is read in one way only.
_NO_OBJECT = re.compile(rb"(?:(?!data:)[^\r\n]*+(?:\r\n|\r(?!\n)|\n))*data:[ \t]*+[^{\s]")
_DATA_LINE = re.compile(rb"(?:\A|(?<=[\r\n]))data:[ ]?([^\r\n]*)")


class _Place(enum.Enum):
    IDLE = enum.auto()
    COMMENT = enum.auto()
    HELD = enum.auto()
    PASSING = enum.auto()


class _UsageChunk(msgspec.Struct):
    choices: list[msgspec.Raw]
    usage: msgspec.Raw


_USAGE_CHUNK = msgspec.json.Decoder(_UsageChunk)


class UsageWithholder:
    """Passes a stream on without its usage chunks.

    At most `HELD_LIMIT_BYTES` are ever held, and never a whole event. An event over that size is
    passed. A byte order mark before the first event makes it one that is not looked into.
    """

    def __init__(self) -> None:
        self._place = _Place.IDLE
        self._held = b""
        self._line_empty = True  # PASSING: nothing of the current line came yet
        self._after_cr = False  # the last byte was a CR, whose LF may follow
        self._removed_cr = False  # that CR was the end of a removed event

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._place.name} held={len(self._held)}>"

    @property
    def holding(self) -> bool:
        """Whether the start of an event is held; what was passed so far ends before it."""
        return bool(self._held)

    def feed(self, piece: bytes) -> bytes:
        """Take the next piece of the stream.

        Returns:
            What may go to the client now; the very same object when that is the whole piece.
        """
        if (
            self._place is _Place.IDLE
            and not self._after_cr
            and (b'"usage"' not in piece or _NO_CHOICE.search(piece) is None)
            and piece.endswith(_WHOLE_EVENTS)
        ):
            return piece
        return self._scan(piece)

    def end(self) -> bytes:
        """Return what is still held at the stream's end; the client gets it, for it is no event."""
        held, self._held = self._held, b""
        self._place = _Place.IDLE
        return held

    def _scan(self, piece: bytes) -> bytes:
        if not piece:
            return piece
        at = sent = resume = 0
        if self._held:
            # A line end cut in two lies at most one byte back.
            resume = len(self._held) - 1
            piece = self._held + piece
            self._held = b""
            self._place = _Place.IDLE
        elif self._after_cr and self._place is not _Place.PASSING and piece.startswith(b"\n"):
            at = 1
            sent = 1 if self._removed_cr else 0
        if self._place is not _Place.PASSING:
            self._after_cr = self._removed_cr = False
        kept = []
        size = len(piece)
        while at < size:
            if self._place is _Place.PASSING:
                at = self._pass_on(piece, at)
            elif self._place is _Place.COMMENT:
                at = self._pass_line(piece, at)
            elif piece[at] == 0x3A:  # a colon
                self._place = _Place.COMMENT
            elif piece[at] in b"\r\n":
                at = self._pass_line(piece, at)
            else:
                end = _EVENT_END.search(piece, max(at, resume))
                if end is None:
                    if self._may_be_usage(piece[at:]):
                        self._place = _Place.HELD
                        self._held = piece[at:]
                        kept.append(piece[sent:at])
                        return b"".join(kept)
                    self._place = _Place.PASSING
                    self._line_empty = self._after_cr = False
                    continue
                if self._is_usage(piece[at : end.start("blank")]):
                    kept.append(piece[sent:at])
                    sent = end.end()
                at = end.end()
                self._after_cr = piece[at - 1] == 0x0D and at == size
                self._removed_cr = self._after_cr and sent == at
        if sent == 0:
            return piece
        kept.append(piece[sent:])
        return b"".join(kept)

    def _pass_line(self, piece: bytes, at: int) -> int:
        """Pass a comment or blank line on as far as it goes; return where that is."""
        end = _LINE_END.search(piece, at)
        if end is None:
            return len(piece)
        self._place = _Place.IDLE
        self._after_cr = end[0] == b"\r" and end.end() == len(piece)
        return end.end()

    def _pass_on(self, piece: bytes, at: int) -> int:
        """Pass an event on as far as it goes; return where that is."""
        size = len(piece)
        if self._after_cr and piece[at] == 0x0A:
            at += 1
        self._after_cr = False
        if at == size:
            return at
        end = _LINE_END.match(piece, at) if self._line_empty else None
        if end is None:
            end = _EVENT_END.search(piece, at)
        if end is None:
            self._line_empty = piece[-1] in b"\r\n"
            self._after_cr = piece[-1] == 0x0D
            return size
        self._place = _Place.IDLE
        at = end.end()
        self._after_cr = piece[at - 1] == 0x0D and at == size
        return at

    @staticmethod
    def _may_be_usage(event: bytes) -> bool:
        """Whether the beginning of an event may belong to a usage chunk."""
        return (
            len(event) <= HELD_LIMIT_BYTES
            # The literal search first: it is several times as fast.
            and not (b'"choices"' in event and _SOME_CHOICE.search(event))
            and _NO_OBJECT.match(event) is None
        )

    @classmethod
    def _is_usage(cls, event: bytes) -> bool:
        """Whether a whole event, without its blank line, is a usage chunk."""
        if not (b'"usage"' in event and _NO_CHOICE.search(event) and cls._may_be_usage(event)):
            return False
        try:
            chunk = _USAGE_CHUNK.decode(b"\n".join(_DATA_LINE.findall(event)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        return not chunk.choices and bytes(chunk.usage).startswith(b"{")
