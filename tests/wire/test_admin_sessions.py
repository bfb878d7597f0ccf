"""Records and sessions in the admin API's JSON. Their pages are tested with the operations."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmproxy.errors import InvalidBody
from llmproxy.values import RecordFilter, SessionFilter
from llmproxy.wire.admin import read_request
from llmproxy.wire.admin_sessions import QuerySessions, QueryUsage


def records(body: object) -> RecordFilter:
    """Read a request for records."""
    return read_request(json.dumps(body).encode(), QueryUsage).as_filter()


def sessions(body: object) -> SessionFilter:
    """Read a request for sessions."""
    return read_request(json.dumps(body).encode(), QuerySessions).as_filter()


def test_nothing_and_null() -> None:
    """Both mean everything."""
    for kind, read in ((QueryUsage, records), (QuerySessions, sessions)):
        wanted: Any = {}
        assert read(wanted) == read(dict.fromkeys(kind.__struct_fields__))
    assert records({}) == RecordFilter()
    assert sessions({}) == SessionFilter()


def test_all_fields() -> None:
    """Times are moments, whatever their zone; a page is bounded."""
    names = {name: f"a {name}" for name in ("key_id", "user_id", "session_id")}
    body = {"since": "1970-01-01T02:00:00+02:00", "until": "1970-01-01T00:00:01.5Z", "limit": 10**6}
    more = {"model": "m", "backend": "b", "outcome": "timeout", "request_id": "r"}
    wanted = records({**names, **body, **more, "cursor": "17.rec-1"})
    assert wanted == RecordFilter(
        **names, **more, since_s=0.0, until_s=1.5, limit=100, cursor="17.rec-1"
    )
    parent = {"parent_session_id": "p"}
    assert sessions({**names, **body, **parent, "cursor": "17.4"}) == SessionFilter(
        **names, **parent, since_s=0.0, until_s=1.5, limit=100, cursor="17.4"
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"since": "2027-02-30T00:00:00Z"}, "since"),
        ({"since": "2027-02-03"}, "since"),
        ({"since": "2027-02-03T00:00:00"}, "since"),
        ({"until": 1790000000}, "until"),
        ({"since": "2027-01-02T00:00:00Z", "until": "2027-01-01T00:00:00Z"}, "until"),
        ({"key_id": "a\n"}, "key_id"),
        ({"user_id": 5}, "user_id"),
        ({"session_id": "x" * 1025}, "session_id"),
        ({"limit": 0}, "limit"),
        ({"limit": "5"}, "limit"),
        ({"limit": 1.5}, "limit"),
        ({"cursor": ""}, "cursor"),
        ({"cursor": "5"}, "cursor"),
        ({"cursor": "5."}, "cursor"),
        ({"cursor": "5.6\n"}, "cursor"),
        ({"cursor": "\u0665.6"}, "cursor"),
        ({"cursor": "9999999999999999.6"}, "cursor"),
        ({"offset": 3}, "offset"),
    ],
)
def test_wrong_fields(body: object, param: str) -> None:
    """The field that is wrong is named, with what is wanted there."""
    for read in (records, sessions):
        with pytest.raises(InvalidBody) as caught:
            read(body)
        assert caught.value.param == param
        assert "must" in str(caught.value) or "is not a field" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"outcome": "fine"}, "outcome"),
        ({"outcome": ""}, "outcome"),
        ({"model": "\x7f"}, "model"),
        ({"backend": []}, "backend"),
        ({"parent_session_id": "p"}, "parent_session_id"),
    ],
)
def test_wrong_fields_of_records(body: object, param: str) -> None:
    """Those that sessions do not have."""
    with pytest.raises(InvalidBody) as caught:
        records(body)
    assert caught.value.param == param


def test_cursors_are_not_each_others() -> None:
    """That of a page of records leads to no page of sessions."""
    with pytest.raises(InvalidBody):
        sessions({"cursor": "17.rec-1"})
