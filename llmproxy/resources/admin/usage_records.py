"""The operations on single usage records and on sessions, over the store that keeps them."""

from __future__ import annotations

from collections.abc import Mapping

from llmproxy.interfaces import IRecordStore
from llmproxy.resources.admin import operations
from llmproxy.resources.admin.envelope import Refusal
from llmproxy.resources.admin.operations import Done, Note, Operation, Run
from llmproxy.wire.admin_sessions import (
    QuerySessions,
    QueryUsage,
    RecordPage,
    SessionPage,
    session_shown,
)


class RecordOperations:
    """Shows records and sessions.

    Args:
        records: Where they are; None: nobody keeps them.
    """

    def __init__(self, records: IRecordStore | None) -> None:
        self._records = records

    def runs(self) -> Mapping[Operation, Run]:
        """Give what does each operation."""
        return {operations.QUERY_USAGE: self._query, operations.QUERY_SESSIONS: self._sessions}

    async def _query(self, request: QueryUsage, note: Note) -> Done:
        del note
        page, cursor = await self._store().records(request.as_filter())
        return Done("These are the records.", RecordPage(records=tuple(page), next_cursor=cursor))

    async def _sessions(self, request: QuerySessions, note: Note) -> Done:
        del note
        page, cursor = await self._store().sessions(request.as_filter())
        return Done(
            "These are the sessions.",
            SessionPage(sessions=tuple(map(session_shown, page)), next_cursor=cursor),
        )

    def _store(self) -> IRecordStore:
        if self._records is None:
            raise Refusal(
                404,
                "No usage records are kept here: usage.reporters has no reporter of type builtin; "
                "want one, such as {name: local, type: builtin}.",
            )
        return self._records
