"""The JSON of usage records and sessions in the admin API: which are wanted, and pages of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct

from llmproxy.errors import InvalidBody
from llmproxy.values import Outcome, RecordFilter, SessionFilter, SessionTotal
from llmproxy.wire.admin import Count, Request, wrong
from llmproxy.wire.admin_keys import LARGEST_PAGE, PageSize
from llmproxy.wire.admin_usage import NAME, Name
from llmproxy.wire.usage_record import UsageRecordJson

_CURSOR = "the next_cursor of a page"
_MOMENT = "a time such as 2030-12-31T18:00:00Z"
_MOST_DIGITS = r"[0-9]{1,15}"

Moment = Annotated[datetime, Meta(tz=True, description=_MOMENT)]
AnyOutcome = Annotated[
    Outcome,
    Meta(description="ok, client_abort, upstream_error, truncated, timeout or rejected"),
]
RecordCursor = Annotated[
    str, Meta(pattern=rf"^{_MOST_DIGITS}\.[!-~]{{1,256}}$", description=_CURSOR)
]
SessionCursor = Annotated[
    str, Meta(pattern=rf"^{_MOST_DIGITS}\.{_MOST_DIGITS}$", description=_CURSOR)
]

F = TypeVar("F", RecordFilter, SessionFilter)


class _Wanted(Request, kw_only=True, forbid_unknown_fields=True):
    """Which records or sessions; null is the same as nothing."""

    since: Moment | None = None
    until: Moment | None = None
    key_id: Name | None = None
    user_id: Name | None = None
    session_id: Name | None = None
    limit: PageSize | None = None

    def check(self, at: str) -> None:
        """Check what types cannot say; see `Request.check`."""
        if self.since and self.until and self.until < self.since:
            raise InvalidBody(f"{at}until must not be before {at}since.", param=f"{at}until")
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if isinstance(value, str) and not value.isprintable():
                raise wrong(at, field, _CURSOR if field == "cursor" else NAME)

    def _filter(self, kind: type[F]) -> F:
        """Give the filter, whose fields have the same names."""
        fields: dict[str, Any] = {}
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, datetime):
                fields[f"{name}_s"] = value.timestamp()
            elif value is not None:
                fields[name] = value
        if self.limit is not None:
            fields["limit"] = min(self.limit, LARGEST_PAGE)
        return kind(**fields)


class QueryUsage(_Wanted, kw_only=True, forbid_unknown_fields=True):
    """``/admin/usage/query``: which records, by when they began; the newest first."""

    model: Name | None = None
    backend: Name | None = None
    outcome: AnyOutcome | None = None
    request_id: Name | None = None
    cursor: RecordCursor | None = None

    def as_filter(self) -> RecordFilter:
        """Give which are wanted."""
        return self._filter(RecordFilter)


class QuerySessions(_Wanted, kw_only=True, forbid_unknown_fields=True):
    """``/admin/usage/sessions``: which sessions, by when they were last seen; the last first."""

    parent_session_id: Name | None = None
    cursor: SessionCursor | None = None

    def as_filter(self) -> SessionFilter:
        """Give which are wanted."""
        return self._filter(SessionFilter)


class RecordPage(Struct, kw_only=True):
    """``/admin/usage/query``: a page of records."""

    records: tuple[UsageRecordJson, ...]
    next_cursor: str


class SessionShown(Struct, kw_only=True):
    """What the requests of one session, made with one key, come to."""

    session_id: str
    parent_session_id: str
    key_id: str
    user_id: str
    models: tuple[str, ...]
    requests: Count
    errors: Count
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    cached_tokens: Count
    reasoning_tokens: Count
    tool_calls: Mapping[str, int]
    tool_calls_total: int
    first_seen: datetime
    last_seen: datetime
    duration_s: float


class SessionPage(Struct, kw_only=True):
    """``/admin/usage/sessions``: a page of sessions."""

    sessions: tuple[SessionShown, ...]
    next_cursor: str


def session_shown(total: SessionTotal) -> SessionShown:
    """Give a session as answers show it."""
    return SessionShown(
        session_id=total.session_id,
        parent_session_id=total.parent_session_id,
        key_id=total.key_id,
        user_id=total.user_id,
        models=total.models,
        requests=total.requests,
        errors=total.errors,
        prompt_tokens=total.prompt_tokens,
        completion_tokens=total.completion_tokens,
        total_tokens=total.total_tokens,
        cached_tokens=total.cached_tokens,
        reasoning_tokens=total.reasoning_tokens,
        tool_calls=total.tool_calls,
        tool_calls_total=sum(total.tool_calls.values()),
        first_seen=datetime.fromtimestamp(total.first_seen_s, UTC),
        last_seen=datetime.fromtimestamp(total.last_seen_s, UTC),
        duration_s=round(total.last_seen_s - total.first_seen_s, 3),
    )
