"""The daemon's own log: `twisted.logger` events as one JSON object or one plain line each.

What an event is about a request, its ``request_id`` says, and so does the line. No line is written
before it went through the redactor.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
)
from zope.interface import implementer

from llmproxy.interfaces import ILogSink
from llmproxy.values import LogLine

LineFormat = Literal["json", "text", "bare"]
"""How an event is written; ``bare`` is the message alone, for what knows time and level itself."""

_PRIORITIES: Final = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}

_LEVELS = {
    "debug": LogLevel.debug,
    "info": LogLevel.info,
    "warning": LogLevel.warn,
    "error": LogLevel.error,
}

USAGE_SOURCE: Final = "llmproxy.usage.log_sink.LogSink"
"""Where the lines of usage come from: who wants them has a reporter that says so."""

_CHATTY = (
    "log_legacy",
    "twisted.internet.protocol.Factory",
    "twisted.web.client._HTTP11ClientFactory",
    "llmproxy.site.EdgeSite",
)


@implementer(ILogObserver)
class LineObserver:
    """Writes each event as a line, at once.

    Args:
        sink: Where to.
        line_format: How.
        redact: Takes the secrets out of a text.
    """

    def __init__(
        self, sink: ILogSink, line_format: LineFormat, redact: Callable[[str], str]
    ) -> None:
        self._sink = sink
        self._format = line_format
        self._redact = redact

    def __call__(self, event: LogEvent) -> None:
        """Write an event."""
        level = getattr(event.get("log_level"), "name", "info")
        source = str(event.get("log_namespace") or "-")
        request_id = self._redact(str(event.get("request_id") or ""))
        message = self._redact(formatEvent(event))
        failure = event.get("log_failure")
        trace = self._redact(failure.getTraceback()) if failure is not None else ""
        if self._format == "bare":
            text = (message + ("\n" + trace if trace else "")).rstrip("\n") + "\n"
        elif self._format == "json":
            line = {"time": _stamp(event), "level": level, "source": source, "message": message}
            if request_id:
                line["request_id"] = request_id
            if trace:
                line["traceback"] = trace
            text = msgspec.json.encode(line).decode("utf-8") + "\n"
        else:
            about = f" [{request_id}]" if request_id else ""
            told = "\n    ".join((message + ("\n" + trace if trace else "")).splitlines())
            text = f"{_stamp(event)} {level:<8} {source}{about}: {told}\n"
        self._sink.write((LogLine(text, _PRIORITIES.get(level, 6), request_id, source),))


def _stamp(event: LogEvent) -> str:
    when = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


def make_observer(
    sink: ILogSink,
    line_format: LineFormat,
    level: Literal["debug", "info", "warning", "error"],
    redact: Callable[[str], str],
) -> ILogObserver:
    """Make the observer that writes events of that level and above, and usage at any level."""
    predicate = LogLevelFilterPredicate(defaultLogLevel=_LEVELS[level])
    if level == "info":
        # Twisted tells of every factory and port that comes and goes: that is for debugging.
        for chatty in _CHATTY:
            predicate.setLogLevelForNamespace(chatty, LogLevel.warn)
    predicate.setLogLevelForNamespace(USAGE_SOURCE, LogLevel.info)
    return FilteringLogObserver(LineObserver(sink, line_format, redact), [predicate])
