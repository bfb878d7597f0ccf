"""The sinks of reporters that keep records: types ``builtin`` and ``database``.

It makes no stores: they come from where the configuration's stores are made.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmproxy.config.model_usage import Reporter
from llmproxy.interfaces import IDatabase, IRecordStore, IUsageSink
from llmproxy.usage.builtin_sink import BuiltinSink
from llmproxy.usage.database_sink import DatabaseSink


def make_record_sink(
    reporter: Reporter, records: IRecordStore | None, databases: Mapping[str, IDatabase]
) -> IUsageSink | None:
    """Make the sink of a reporter.

    Args:
        reporter: One of ``usage.reporters``.
        records: The gateway's own store; there is one when a reporter is of type ``builtin``.
        databases: By the names of ``storage.databases``; those that reporters name are there.

    Returns:
        The sink; None: this reporter keeps no records.
    """
    if reporter.type == "builtin":
        assert records is not None
        return BuiltinSink(reporter.name, records)
    if reporter.type == "database":
        settings = reporter.database
        return DatabaseSink(reporter.name, databases[settings.storage], settings.table)
    return None
