r"""The meter of event streams.

A piece of a stream is looked at with a few byte tests; JSON is parsed only where they find a fact:
usage, a finish reason, a tool call's name, an error, an end. Which bytes these are, the dialect of
the endpoint says.

What a server may do that the tests do not see: spell keys with escapes, or spread one event over
several data lines. None does.
"""

from __future__ import annotations

import re
from typing import Final

from llmproxy.values import NO_USAGE, MeterReading, UsageSource
from llmproxy.wire.dialect import Dialect
from llmproxy.wire.estimate import completed
from llmproxy.wire.event_shape import EventShape
from llmproxy.wire.sse import BOM, LONGEST_BOUNDARY, LineScanner, data_payloads, ends_at_event

_LINE_END = re.compile(rb"[\r\n]")
_NAME_LINE: Final = b"event:"
_DONE: Final = b"[DONE]"
_EVENT_END: Final = b"\n\n"
_RUNS: Final = 8


class StreamMeter:
    """Meters one stream; see `meter.Meter`.

    Args:
        dialect: Reads its facts.
        prompt_tokens: An estimate of the prompt.
    """

    __slots__ = (
        "_deltas",
        "_dialect",
        "_first",
        "_last",
        "_lines",
        "_prompt_tokens",
        "_shape",
        "_torn",
        "done",
    )

    def __init__(self, dialect: Dialect, prompt_tokens: int) -> None:
        self._dialect = dialect
        self._prompt_tokens = prompt_tokens
        self._lines = LineScanner()
        self._shape = EventShape()
        self._last = b""
        self._first = True
        self._torn = False  # the last piece ended in the midst of a line
        self._deltas = 0
        self.done = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} deltas={self._deltas} done={self.done}>"

    @property
    def ends_at_event(self) -> bool:
        """Whether what was fed so far ends with a whole event."""
        return ends_at_event(self._last)

    def ends_torn(self) -> bool:
        """Say whether a stream that ended here was cut; see `meter.Meter`."""
        self._read_last_line()
        return not (self.done or self.ends_at_event)

    def feed(self, piece: bytes) -> None:
        """Take the next piece; see `meter.Meter`."""
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
        signs = self._dialect.signs
        facts = _DONE in block
        text_at = fact_at = -1
        texts = 0
        for sign in signs.pattern.finditer(block):
            at = sign.start()
            kind = block[at + 1]
            if kind in signs.texts:
                # llama_cpp.server sends the same piece twice in one line.
                if text_at < 0 or _LINE_END.search(block, text_at, at):
                    texts += 1
                    text_at = at
                    text_from = sign.end() - 1
                else:
                    fact_at = at
            if kind in signs.facts:
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
        named_at = block.rfind(b"\n", 0, max(start - 1, 0)) + 1
        if block.startswith(_NAME_LINE, named_at):
            start = named_at
        line_end = block.find(b"\n", text_at)
        if sign_at >= start or line_end < 0:
            return
        end = line_end + 1
        if block.startswith((b"\n", b"\r\n"), end):
            end = block.index(b"\n", end) + 1
        self._shape.learn(block[start:end], text_from - start)

    def _read(self, payload: bytes) -> None:
        """Have one event's payload read if there is a fact in it."""
        dialect = self._dialect
        if payload.strip() == _DONE:
            self.done = True
        elif dialect.signs.fact_in(payload):
            dialect.take_event(payload)
            self.done = self.done or dialect.done

    def _read_last_line(self) -> None:
        """Look at the line that the stream ended in the midst of: it may be its last word."""
        rest = self._lines.rest()
        if rest:
            self._watch(rest)

    def reading(self, complete: bool) -> MeterReading:
        """Return what was seen; see `meter.Meter`."""
        self._read_last_line()
        dialect = self._dialect
        counted = dialect.usage()
        whole = (complete or self.done) and not dialect.error
        nothing_came = dialect.error or (complete and not self._last)
        source: UsageSource
        if whole and counted is not None and dialect.counts_all:
            usage, source = counted, "exact"
        elif counted is None and not self._deltas and nothing_came:
            usage, source = NO_USAGE, "none"
        else:
            usage = completed(
                counted, prompt_tokens=self._prompt_tokens, completion_tokens=self._deltas
            )
            source = "estimated" if whole else "partial"
        return MeterReading(
            usage=usage,
            usage_source=source,
            finish_reason=dialect.finish_reason,
            tool_calls=dialect.tool_calls(),
            error=dialect.error,
        )
