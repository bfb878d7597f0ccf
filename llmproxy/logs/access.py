"""The access log: one line per request, in Apache's combined format or as JSON.

It is a reporter: it takes the same record that every other reporter takes. Secrets never reach it,
because records hold none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final, Literal

import attrs
import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from llmproxy.interfaces import ILogSink, IReporter
from llmproxy.values import LogLine, UsageRecord

FLUSH_AFTER_S = 0.1

_TELLS: Final = 6
_SOURCE: Final = "access"

_UNSAFE = {
    # Controls of both sets, for terminals obey the second as well; quotes; backslashes.
    **{number: f"\\x{number:02x}" for number in (*range(0x20), *range(0x7F, 0xA0), 0x22, 0x5C)},
    # What some readers take for the end of a line.
    **{number: f"\\u{number:04x}" for number in (0x2028, 0x2029)},
}

_SUSPECT = re.compile("[" + "".join(re.escape(chr(number)) for number in _UNSAFE) + "]")


@implementer(IReporter)
class AccessLog:
    """Writes a line for each record.

    Lines are handed to the system together, `FLUSH_AFTER_S` after the first of them: a system call
    for each would cost more than the line.

    Args:
        sink: Where to.
        line_format: How.
        clock: Tells when to flush.
    """

    _log = Logger()

    def __init__(
        self, sink: ILogSink, line_format: Literal["combined", "json"], clock: IReactorTime
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._lines: list[LogLine] = []
        self._flushing: IDelayedCall | None = None
        self._encode = _ENCODERS[line_format]
        self._failing = False
        self._lines_lost = False  # since the last flush

    def report(self, record: UsageRecord) -> None:
        """Take a record's line; a full disk costs lines, never a request."""
        try:
            text = self._encode(record)
        except ValueError as error:
            self._lines_lost = True
            self._failed(error)
        else:
            self._lines.append(LogLine(text, _TELLS, record.request_id, _SOURCE))
        if self._flushing is None:
            self._flushing = self._clock.callLater(FLUSH_AFTER_S, self._flush)

    def switch(self, sink: ILogSink, line_format: Literal["combined", "json"]) -> None:
        """Write elsewhere, or otherwise, from now on; what was reported before goes where it was.

        Args:
            sink: As the constructor's.
            line_format: Likewise.
        """
        self.close()
        self._sink = sink
        self._encode = _ENCODERS[line_format]

    def close(self) -> None:
        """Write what was reported; what comes later is written in its time."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flush()

    def _flush(self) -> None:
        self._flushing = None
        lines, self._lines = self._lines, []
        try:
            self._sink.write(lines)
        except (OSError, ValueError) as error:
            self._failed(error)
        else:
            self._failing = self._lines_lost
        self._lines_lost = False

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            self._log.error("the access log cannot be written: {error}", error=str(error))
        self._failing = True


@lru_cache(maxsize=8)
def _stamp(second: int) -> str:
    """Write a second as the combined format does; most lines share theirs with the one before."""
    return datetime.fromtimestamp(second).astimezone().strftime("%d/%b/%Y:%H:%M:%S %z")


def combined_line(record: UsageRecord) -> str:
    """Encode a record in the combined format, with what a gateway adds to it as ``key=value``."""
    usage, key = record.usage, record.key_name or record.key_id
    line = (
        f"{record.client_ip or '-'} - {_safe(key) or '-'} [{_stamp(int(record.time))}] "
        f'"{_quoted(record.method)} {_quoted(record.endpoint)} {record.protocol}" '
        f"{record.status} {record.bytes_out or '-'} "
        f'"{_quoted(record.referer) or "-"}" "{_quoted(record.user_agent) or "-"}" '
        f"request_id={record.request_id} model={_safe(record.model) or '-'} "
        f"backend={record.backend or '-'} outcome={record.outcome} "
        f"stream={'yes' if record.stream else 'no'} "
        f"first_byte_ms={_ms(record.first_byte_ms)} duration_ms={_ms(record.duration_ms)} "
        f"tokens={usage.prompt_tokens}+{usage.completion_tokens}({record.usage_source})"
    )
    if record.finish_reason:
        line += f" finish_reason={_safe(record.finish_reason)}"
    if record.tool_calls:
        calls = ",".join(f"{_safe(name)}:{count}" for name, count in record.tool_calls.items())
        line += f" tool_calls={calls}"
    if record.session_id:
        line += f" session={_safe(record.session_id)}"
    if record.error_code:
        line += f" error={record.error_code}"
    if record.tried:
        tried = ",".join(f"{one.backend}:{one.error}" for one in record.tried)
        line += f" tried={tried}"
    return line + "\n"


def json_line(record: UsageRecord) -> str:
    """Encode a record as one JSON object."""
    flat = attrs.asdict(record)
    del flat["request_body"]
    flat.update(flat.pop("usage"))
    flat["tool_calls"] = dict(record.tool_calls)
    return msgspec.json.encode(flat).decode("utf-8") + "\n"


_ENCODERS: Final[Mapping[str, Callable[[UsageRecord], str]]] = {
    "combined": combined_line,
    "json": json_line,
}


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _quoted(text: str) -> str:
    """Make a client's text safe between double quotes: no forged lines or fields."""
    return text.translate(_UNSAFE) if text and _SUSPECT.search(text) else text


def _safe(text: str) -> str:
    """Make a client's text safe outside quotes as well."""
    return _quoted(text).replace(" ", "\\x20") if text else ""
