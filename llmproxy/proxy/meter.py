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

from llmproxy.values import MeterReading, Usage
from llmproxy.wire.sse import BoundaryWatch, LineScanner, data_payloads
from llmproxy.wire.usage import UsageTally, read_usage

WHOLE_LIMIT_BYTES: Final = 1024 * 1024
TAIL_BYTES: Final = 64 * 1024
_MANY_PIECES = 4096
_LONGEST_ERROR = 500

_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_LINE_END = re.compile(rb"[\r\n]")
_SIGNS = re.compile(
    rb'"(?:'
    rb'usage"\s*:\s*\{|finish_reason"\s*:\s*"|error"'
    rb'|name"\s*:\s*"[^"]'
    rb'|(?:content|text|reasoning|reasoning_content|arguments)"\s*:\s*"[^"]'
    rb")"
)
"""What to look for in a line: a fact worth parsing; the name of a tool call, parsed too; the
beginning of a text that is not empty, counted. Later pieces of a call's arguments have no name,
so they are not parsed. The byte after the quote tells which kind it is; capturing groups would,
too, but make the search several times as slow."""
_DONE = b"[DONE]"
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
        with_calls = {index for index, _ in self._calls}
        names = [name for index, name in self._old_calls.items() if index not in with_calls]
        return dict(Counter([*self._calls.values(), *names]))

    @staticmethod
    def _name(function: object) -> str:
        name = function.get("name") if isinstance(function, dict) else None
        return name if isinstance(name, str) else ""


class _Kind(Protocol):
    def feed(self, piece: bytes) -> None: ...

    def reading(self, complete: bool) -> MeterReading: ...


class Meter:
    """Reads one answer; fed as it passes, asked at its end.

    Memory is bounded: one line of a stream, or `WHOLE_LIMIT_BYTES` of a plain answer.

    Args:
        stream: Whether the answer is an event stream, by its content type.
    """

    def __init__(self, *, stream: bool) -> None:
        self._kind: _Kind = _StreamMeter() if stream else _PlainMeter()
        self._boundary = BoundaryWatch()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._kind!r}>"

    @property
    def ends_at_event(self) -> bool:
        """Whether what was fed so far ends with a whole event (streams only)."""
        return self._boundary.ends_at_event

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the body, any size, cut anywhere; it is kept by reference."""
        self._boundary.feed(piece)
        self._kind.feed(piece)

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
        return self._kind.reading(complete)


@attrs.define
class _StreamMeter:
    _lines: LineScanner = attrs.field(factory=LineScanner, init=False)
    _deltas: int = attrs.field(default=0, init=False)
    _deeds: _Deeds = attrs.field(factory=_Deeds, init=False)
    _tally: UsageTally = attrs.field(factory=UsageTally, init=False)
    _error: str = attrs.field(default="", init=False)
    _done: bool = attrs.field(default=False, init=False)

    def feed(self, piece: bytes) -> None:
        block = self._lines.feed(piece)
        if block:
            self._watch(block)

    def _watch(self, block: bytes) -> None:
        """Look at a block of whole lines: count those with text, read those with facts."""
        facts = _DONE in block
        text_at = -1
        for sign in _SIGNS.finditer(block):
            at = sign.start()
            kind = block[at + 1]
            if kind in _TEXTS:
                # llama_cpp.server sends the same piece twice in one line.
                if text_at < 0 or _LINE_END.search(block, text_at, at):
                    self._deltas += 1
                text_at = at
            if kind in _FACTS:
                facts = True
        if facts:
            for payload in data_payloads(block):
                self._read(payload)

    def _read(self, payload: bytes) -> None:
        """Parse one event's payload if there is a fact in it."""
        if payload.strip() == _DONE:
            self._done = True
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
        whole = (complete or self._done) and not self._error
        reading = MeterReading(
            finish_reason=self._deeds.finish_reason,
            tool_calls=self._deeds.tool_calls(),
            error=self._error,
        )
        usage = self._tally.total()
        if usage is not None:
            return attrs.evolve(reading, usage=usage, usage_source="exact" if whole else "partial")
        if whole or not self._deltas:
            return reading
        counted = Usage(completion_tokens=self._deltas, total_tokens=self._deltas)
        return attrs.evolve(reading, usage=counted, usage_source="partial")


@attrs.define
class _PlainMeter:
    """Keeps a plain answer, or when it is long its end, and reads it when it is whole."""

    _pieces: deque[bytes] = attrs.field(factory=deque, init=False, repr=False)
    _size: int = attrs.field(default=0, init=False)
    _cut: bool = attrs.field(default=False, init=False)

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
        body = b"".join(self._pieces)
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
            usage=usage or Usage(),
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
