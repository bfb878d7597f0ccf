"""The meter of plain answers.

An answer is kept as it passes, and read when it is whole. Of one over `WHOLE_LIMIT_BYTES` only the
skeleton is kept (`wire/skeleton.py`), in which usage, tool calls and the finish reason still stand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

from llmproxy.values import NO_USAGE, MeterReading, UsageSource
from llmproxy.wire.dialect import Dialect
from llmproxy.wire.estimate import completed, estimate_texts
from llmproxy.wire.skeleton import BLOCK_BYTES, Skeleton

WHOLE_LIMIT_BYTES: Final = 1024 * 1024
_MANY_PIECES: Final = 4096
_USAGE = re.compile(rb'"usage"\s*:\s*\{')


class PlainMeter:
    """Meters one plain answer; see `meter.Meter`.

    Args:
        make_dialect: Makes what reads the answer.
        prompt_tokens: An estimate of the prompt.
        generates: Whether answers of the endpoint are generated; else only their prompts count.
    """

    __slots__ = (
        "_generates",
        "_make_dialect",
        "_pieces",
        "_prompt_tokens",
        "_size",
        "_skeleton",
        "_unread_bytes",
    )

    ends_at_event = False
    done = False

    def __init__(
        self, make_dialect: Callable[[], Dialect], prompt_tokens: int, *, generates: bool
    ) -> None:
        self._make_dialect = make_dialect
        self._prompt_tokens = prompt_tokens
        self._generates = generates
        self._pieces: list[bytes] = []
        self._unread_bytes = 0  # in the pieces
        self._size = 0
        self._skeleton: Skeleton | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} size={self._size}>"

    def ends_torn(self) -> bool:
        """Say that it knows nothing of streams."""
        return False

    def feed(self, piece: bytes) -> None:
        """Take the next piece; see `meter.Meter`."""
        self._pieces.append(piece)
        self._size += len(piece)
        self._unread_bytes += len(piece)
        if self._unread_bytes > (WHOLE_LIMIT_BYTES if self._skeleton is None else BLOCK_BYTES):
            if self._skeleton is None:
                self._skeleton = Skeleton()
            self._cut_down(self._skeleton)
        elif len(self._pieces) > _MANY_PIECES:
            self._pieces = [b"".join(self._pieces)]

    def reading(self, complete: bool) -> MeterReading:
        """Return what was seen; see `meter.Meter`."""
        if not self._size:
            return MeterReading()
        if not complete:
            usage = completed(
                None, prompt_tokens=self._prompt_tokens, completion_tokens=self._by_size()
            )
            return MeterReading(usage, "partial")
        dialect = self._make_dialect()
        is_read = self._read(dialect)
        counted = dialect.usage()
        source: UsageSource
        if counted is not None and dialect.counts_all:
            usage, source = counted, "exact"
        elif dialect.error:
            usage, source = NO_USAGE, "none"
        else:
            seen = estimate_texts(dialect.text_bytes) if is_read else self._by_size()
            usage = completed(counted, prompt_tokens=self._prompt_tokens, completion_tokens=seen)
            source = "estimated"
        return MeterReading(
            usage=usage,
            usage_source=source,
            finish_reason=dialect.finish_reason,
            tool_calls=dialect.tool_calls(),
            error=dialect.error,
        )

    def _by_size(self) -> int:
        """Estimate the tokens of an answer that cannot be looked into."""
        return estimate_texts(self._size) if self._generates else 0

    def _read(self, dialect: Dialect) -> bool:
        """Have the answer read; return whether all of it could be."""
        skeleton = self._skeleton
        if skeleton is None:
            pieces = self._pieces
            return dialect.take_answer(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        self._cut_down(skeleton)
        if skeleton.cut:
            dialect.take_usage(_last_usage(bytes(skeleton.text)))
            return False
        dialect.take_answer(bytes(skeleton.text))
        return False

    def _cut_down(self, skeleton: Skeleton) -> None:
        skeleton.feed(b"".join(self._pieces))
        self._pieces.clear()
        self._unread_bytes = 0


def _last_usage(tail: bytes) -> object:
    """Read the last ``usage`` object in the end of a long answer."""
    places = [match.end() - 1 for match in _USAGE.finditer(tail)]
    if not places:
        return None
    try:
        report, _ = json.JSONDecoder().raw_decode(tail[places[-1] :].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return report
