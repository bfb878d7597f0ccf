"""What is logged during a test."""

from __future__ import annotations

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer


@implementer(ILogObserver)
class Logged:
    """Keeps what is logged until `stop`.

    Args:
        source: Only by whom: the end of the logger's namespace.

    Attributes:
        lines: What was logged.
    """

    def __init__(self, source: str = "") -> None:
        self._source = source
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self)

    def __call__(self, event: LogEvent) -> None:
        """Keep an event."""
        if event["log_namespace"].endswith(self._source):
            self.lines.append(formatEvent(event))

    def stop(self) -> None:
        """Keep no more."""
        globalLogPublisher.removeObserver(self)
