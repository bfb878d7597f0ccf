"""Usage goes into the daemon's own log, a line for each record."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from llmproxy.deliveries import Batch
from llmproxy.interfaces import IUsageSink


@implementer(IUsageSink)
class LogSink:
    """Logs records; alerts have lines of their own there.

    Attributes:
        kinds: The kinds of events that it takes.
    """

    _log = Logger()
    kinds = frozenset(("usage",))

    def deliver(self, batch: Batch) -> Deferred[None]:
        """Log a batch; see `IUsageSink`."""
        for event in batch.events:
            self._log.info("usage {record}", record=event.decode("utf-8"))
        return succeed(None)
