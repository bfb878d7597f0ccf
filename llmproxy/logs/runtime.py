"""The daemon's own log: `twisted.logger` events as one JSON object or one plain line each."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, TextIO

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

_LEVELS = {
    "debug": LogLevel.debug,
    "info": LogLevel.info,
    "warning": LogLevel.warn,
    "error": LogLevel.error,
}

_CHATTY = (
    "log_legacy",
    "twisted.internet.protocol.Factory",
    "twisted.web.client._HTTP11ClientFactory",
    "llmproxy.site.EdgeSite",
)


@implementer(ILogObserver)
class LineObserver:
    """Writes each event as a line.

    Args:
        file: Where to; flushed after each line.
        line_format: How.
    """

    def __init__(self, file: TextIO, line_format: Literal["json", "text"]) -> None:
        self._file = file
        self._format = line_format

    def __call__(self, event: LogEvent) -> None:
        """Write an event."""
        when = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
        stamp = when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"
        level = getattr(event.get("log_level"), "name", "info")
        source = str(event.get("log_namespace") or "-")
        message = formatEvent(event)
        failure = event.get("log_failure")
        trace = failure.getTraceback() if failure is not None else ""
        if self._format == "json":
            line = {"time": stamp, "level": level, "source": source, "message": message}
            if trace:
                line["traceback"] = trace
            self._file.write(msgspec.json.encode(line).decode("utf-8") + "\n")
        else:
            text = "\n    ".join((message + ("\n" + trace if trace else "")).splitlines())
            self._file.write(f"{stamp} {level:<8} {source}: {text}\n")
        self._file.flush()


def make_observer(
    file: TextIO,
    line_format: Literal["json", "text"],
    level: Literal["debug", "info", "warning", "error"],
) -> ILogObserver:
    """Make the observer that writes events of that level and above."""
    predicate = LogLevelFilterPredicate(defaultLogLevel=_LEVELS[level])
    if level == "info":
        # Twisted tells of every factory and port that comes and goes: that is for debugging.
        for chatty in _CHATTY:
            predicate.setLogLevelForNamespace(chatty, LogLevel.warn)
    return FilteringLogObserver(LineObserver(file, line_format), [predicate])
