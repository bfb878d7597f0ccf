r"""The meter: what one answer cost and did, read from its bytes as they pass.

It is fed each piece by reference after the piece was written to the client, so it never delays
one. A piece of an event stream is looked at with a few byte tests; JSON is parsed only where they
find something: usage, a finish reason, a tool call's name, an error. JSON escapes every quote
inside a string, so bytes such as ``"usage"`` are a key or a whole string, never part of a text.

What a server may do that the tests do not see: spell keys with escapes, or spread one event over
several data lines. None does. The module must not know how the bytes came or where they went.
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from typing import Any, Final, Protocol

import attrs
import msgspec

from llmproxy.values import NO_USAGE, MeterReading, Usage, UsageSource
from llmproxy.wire.event_shape import EventShape
from llmproxy.wire.sse import BOM, LONGEST_BOUNDARY, LineScanner, data_payloads, ends_at_event
from llmproxy.wire.usage import UsageTally, read_usage

WHOLE_LIMIT_BYTES: Final = 1024 * 1024
TAIL_BYTES: Final = 64 * 1024
_MANY_PIECES = 4096
_LONGEST_ERROR = 500

_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_LINE_END = re.compile(rb"[\r\n]")
_SIGNS = re.compile(
    rb'"(?:'
    rb'usage"[ \t]*:[ \t]*\{|finish_reason"[ \t]*:[ \t]*"|error"'
    rb'|name"[ \t]*:[ \t]*"[^"\r\n]'
    rb'|(?:content|text|reasoning|reasoning_content|arguments)"[ \t]*:[ \t]*"[^"\r\n]'
    rb")"
)
"""What to look for in a line: a fact worth parsing; the name of a tool call, parsed too; the
beginning of a text that is not empty, counted. Later pieces of a call's arguments have no name,
so they are not parsed. The byte after the quote tells which kind it is; capturing groups would,
too, but make the search several times as slow."""
_DONE = b"[DONE]"
_EVENT_END = b"\n\n"
_RUNS = 8
_FACTS = frozenset(b"ufen")
_TEXTS = frozenset(b"ctran")


class _Answer(msgspec.Struct):
    """A whole answer, or one event of a streamed one; checked part by part as it is used."""

    object: Any = None
    choices: Any = None
    usage: Any = None
    error: Any = None
    message: Any = None
    type: Any = None
    code: Any = None


_ANSWER = msgspec.json.Decoder(_Answer)


def _decode(payload: bytes) -> _Answer | None:
    """Return the JSON object, or None when it is not one."""
    try:
        return _ANSWER.decode(payload)
    except (msgspec.ValidationError, RecursionError):
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_leniently(payload)


def _decode_leniently(payload: bytes) -> _Answer | None:
    """Read what msgspec refuses: lone surrogates (valid JSON), and bytes that are not UTF-8."""
    try:
        tree = json.loads(payload.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(tree, dict):
        return None
    return _Answer(*(tree.get(key) for key in _Answer.__struct_fields__))


def _dicts(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list; nothing of anything else."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _index(entry: dict[str, Any], otherwise: int) -> int:
    index = entry.get("index")
    return index if isinstance(index, int) else otherwise


def _error_text(answer: _Answer) -> str:
    """Return what an error says: nested, as a plain string, or flat; empty when it is none."""
    error = answer.error
    if isinstance(error, dict):
        parts = [error.get("message"), error.get("type"), error.get("code")]
    elif error:
        parts = [error]
    elif answer.object == "error":
        parts = [answer.message, answer.type, answer.code]
    else:
        return ""
    said = [str(part) for part in parts if isinstance(part, (str, int)) and part]
    return said[0][:_LONGEST_ERROR] if said else "error"


@attrs.define
class _Deeds:
    """What the choices of an answer did: how the first ended, and which functions were called.

    A call is counted by its place (choice, position), under the first name seen there: some
    servers repeat the name with every piece of the arguments. The older ``function_call`` counts
    where its choice has no ``tool_calls``; llama_cpp.server sends both.
    """

    finish_reason: str = ""
    _calls: dict[tuple[int, int], str] = attrs.field(factory=dict, init=False)
    _old_calls: dict[int, str] = attrs.field(factory=dict, init=False)

    def take(self, choice: dict[str, Any], position: int, message_key: str) -> bool:
        """Take one choice in; return whether it has a finish reason."""
        index = _index(choice, position)
        message = choice.get(message_key)
        if isinstance(message, dict):
            for place, call in enumerate(_dicts(message.get("tool_calls"))):
                name = self._name(call.get("function"))
                if name:
                    self._calls.setdefault((index, _index(call, place)), name)
            name = self._name(message.get("function_call"))
            if name:
                self._old_calls.setdefault(index, name)
        reason = choice.get("finish_reason")
        if not isinstance(reason, str) or not reason:
            return False
        self.finish_reason = self.finish_reason or reason
        return True

    def tool_calls(self) -> dict[str, int]:
        """Return the number of calls of each function."""
        if not self._calls and not self._old_calls:
            return {}
        with_calls = {index for index, _ in self._calls}
        names = [name for index, name in self._old_calls.items() if index not in with_calls]
        return dict(Counter([*self._calls.values(), *names]))

    @staticmethod
    def _name(function: object) -> str:
        name = function.get("name") if isinstance(function, dict) else None
        return name if isinstance(name, str) else ""


class Meter(Protocol):
    """Reads one answer; fed as it passes, asked at its end.

    Memory is bounded: one line of a stream, or `WHOLE_LIMIT_BYTES` of a plain answer.
    """

    @property
    def ends_at_event(self) -> bool:
        """Whether what was fed so far ends with a whole event (streams only)."""

    @property
    def done(self) -> bool:
        """Whether a stream said ``[DONE]``: all that it had to say has come."""

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the body, any size, cut anywhere; it is kept by reference."""

    def reading(self, complete: bool) -> MeterReading:
        """Return what was seen; may be asked again.

        Args:
            complete: Whether the body came to its end. A stream that ended with ``[DONE]`` counts
                as complete anyway, one that reported an error as not.

        Returns:
            ``exact`` with the backend's own counts of a complete answer. ``partial`` for a stream
            that is not: the backend's last counts if it sent any; else the number of events
            that brought text, reasoning or tool calls as completion tokens (servers send about
            one token per event) and no prompt. Otherwise ``none``.
        """


def make_meter(*, stream: bool) -> Meter:
    """Make the meter of one answer.

    Args:
        stream: Whether the answer is an event stream, by its content type.
    """
    return _StreamMeter() if stream else _PlainMeter()


class _StreamMeter:
    __slots__ = (
        "_deeds",
        "_deltas",
        "_error",
        "_first",
        "_last",
        "_lines",
        "_shape",
        "_tally",
        "_torn",
        "done",
    )

    def __init__(self) -> None:
        self._lines = LineScanner()
        self._shape = EventShape()
        self._last = b""
        self._first = True
        self._torn = False  # the last piece ended in the midst of a line
        self._deltas = 0
        self._deeds = _Deeds()
        self._tally = UsageTally()
        self._error = ""
        self.done = False

    def __repr__(self) -> str:
        return f"<meter of a stream deltas={self._deltas} done={self.done}>"

    @property
    def ends_at_event(self) -> bool:
        return ends_at_event(self._last)

    def feed(self, piece: bytes) -> None:
        end = piece[-LONGEST_BOUNDARY:]  # not the piece, which may be as large as a read
        self._last = end if len(end) == LONGEST_BOUNDARY else self._last[-3:] + end
        if not self._torn:
            texts = self._shape.texts(piece)
            if texts >= 0:
                self._deltas += texts
                return
        block = self._lines.feed(piece)
        self._torn = self._lines.holding
        if block:
            self._watch(block)

    def _watch(self, block: bytes) -> None:
        """Take a block of whole lines: a run of events of one shape in one go, others one by one.

        Where shapes keep changing, as between the choices of one answer, the rest is looked at as a
        whole.
        """
        if self._first:
            self._first = False
            block = block.removeprefix(BOM)
        at, runs_left = 0, _RUNS
        while at < len(block) and runs_left:
            end = self._shape.run_end(block, at)
            if end > at:
                texts = self._shape.texts(block[at:end])
                if texts >= 0:
                    self._deltas += texts
                    at = end
                    continue
            runs_left -= 1
            end = block.find(_EVENT_END, at) + len(_EVENT_END)
            if end < len(_EVENT_END):
                break
            self._look(block[at:end])
            at = end
        if at < len(block):
            self._look(block[at:] if at else block)

    def _look(self, block: bytes) -> None:
        """Look at whole lines: count those with text, read those with facts."""
        facts = _DONE in block
        text_at = fact_at = -1
        texts = 0
        for sign in _SIGNS.finditer(block):
            at = sign.start()
            kind = block[at + 1]
            if kind in _TEXTS:
                # llama_cpp.server sends the same piece twice in one line.
                if text_at < 0 or _LINE_END.search(block, text_at, at):
                    texts += 1
                    text_at = at
                    text_from = sign.end() - 1
                else:
                    fact_at = at
            if kind in _FACTS:
                facts = True
                fact_at = at
        self._deltas += texts
        if facts:
            for payload in data_payloads(block):
                self._read(payload)
        if texts and self._shape.teachable:
            self._learn(block, text_at, text_from, fact_at)

    def _learn(self, block: bytes, text_at: int, text_from: int, sign_at: int) -> None:
        """Learn what the last event with text looks like, if the text is all there is in it."""
        start = block.rfind(b"\n", 0, text_at) + 1
        line_end = block.find(b"\n", text_at)
        if sign_at >= start or line_end < 0:
            return
        end = line_end + 1
        if block.startswith((b"\n", b"\r\n"), end):
            end = block.index(b"\n", end) + 1
        self._shape.learn(block[start:end], text_from - start)

    def _read(self, payload: bytes) -> None:
        """Parse one event's payload if there is a fact in it."""
        if payload.strip() == _DONE:
            self.done = True
            return
        if not any(sign[1] in _FACTS for sign in _SIGNS.findall(payload)):
            return
        event = _decode(payload)
        if event is None:
            return
        self._error = self._error or _error_text(event)
        choices = _dicts(event.choices)
        for position, choice in enumerate(choices):
            if self._deeds.take(choice, position, "delta"):
                self._tally.choice_finished()
        usage = read_usage(event.usage)
        if usage is None:
            return
        if choices:
            is_text = event.object == "text_completion"
            self._tally.add_on_choice(_index(choices[0], 0), usage, own_prompt=is_text)
        else:
            self._tally.add_of_answer(usage)

    def reading(self, complete: bool) -> MeterReading:
        rest = self._lines.rest()
        if rest:
            self._watch(rest)
        whole = (complete or self.done) and not self._error
        usage = self._tally.total()
        source: UsageSource = "none"
        if usage is not None:
            source = "exact" if whole else "partial"
        elif self._deltas and not whole:
            usage = Usage(completion_tokens=self._deltas, total_tokens=self._deltas)
            source = "partial"
        return MeterReading(
            usage=usage or NO_USAGE,
            usage_source=source,
            finish_reason=self._deeds.finish_reason,
            tool_calls=self._deeds.tool_calls(),
            error=self._error,
        )


class _PlainMeter:
    """Keeps a plain answer, or when it is long its end, and reads it when it is whole."""

    __slots__ = ("_cut", "_pieces", "_size")

    ends_at_event = False
    done = False

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._cut = False

    def __repr__(self) -> str:
        return f"<meter of a plain answer size={self._size}>"

    def feed(self, piece: bytes) -> None:
        pieces = self._pieces
        pieces.append(piece)
        self._size += len(piece)
        if self._cut or self._size > WHOLE_LIMIT_BYTES:
            self._cut = True
            while self._size - len(pieces[0]) >= TAIL_BYTES:
                self._size -= len(pieces.popleft())
        if len(pieces) > _MANY_PIECES:
            self._pieces = deque((b"".join(pieces),))

    def reading(self, complete: bool) -> MeterReading:
        if not complete:
            return MeterReading()
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._cut:
            return self._of_usage(_last_usage(body[-TAIL_BYTES:]), _Deeds())
        answer = _decode(body)
        if answer is None:
            return MeterReading()
        deeds = _Deeds()
        for position, choice in enumerate(_dicts(answer.choices)):
            deeds.take(choice, position, "message")
        return self._of_usage(read_usage(answer.usage), deeds)

    @staticmethod
    def _of_usage(usage: Usage | None, deeds: _Deeds) -> MeterReading:
        return MeterReading(
            usage=usage or NO_USAGE,
            usage_source="none" if usage is None else "exact",
            finish_reason=deeds.finish_reason,
            tool_calls=deeds.tool_calls(),
        )


def _last_usage(tail: bytes) -> Usage | None:
    """Read the last ``usage`` object in the end of a long answer."""
    places = [match.end() - 1 for match in _USAGE.finditer(tail)]
    if not places:
        return None
    try:
        report, _ = json.JSONDecoder().raw_decode(tail[places[-1] :].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return read_usage(report)
