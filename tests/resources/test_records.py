"""The records of what no exchange relays."""

from __future__ import annotations

import pytest

from llmproxy.errors import UriTooLong
from llmproxy.resources.base import answer_json
from llmproxy.resources.records import record_of, record_of_refusal
from llmproxy.site import EdgeRequest
from llmproxy.values import UsageRecord
from tests.edge import Edge, get


def recorded(raw: bytes, status: int = 200, passes_s: float = 0.0) -> UsageRecord | None:
    """Answer a request with a status; give its record."""

    def answer(request: EdgeRequest) -> None:
        edge.clock.advance(passes_s)
        answer_json(request, status, "four")

    with Edge(answer, trusted=["192.0.2.7"]) as edge:
        edge.connect().send(raw)
        (request,) = edge.logged
        return record_of(request, 1000.0, edge.clock.seconds())


def test_record_of_a_request() -> None:
    """All that is known of it; the time is when it began."""
    raw = get(
        "/a%20b?secret=1",
        "X-Request-ID: mine",
        "X-Forwarded-For: 198.51.100.1",
        "User-Agent: agent \xe9" + "x" * 300,
        "Referer: http://from",
        "Authorization: Bearer sk-secret",
        version="1.0",
        method="PUT",
    )
    record = recorded(raw, 404, passes_s=1.5)
    assert record == UsageRecord(
        id="mine",
        time=998.5,
        request_id="mine",
        method="PUT",
        endpoint="/a%20b",
        protocol="HTTP/1.0",
        outcome="rejected",
        status=404,
        duration_ms=1500.0,
        bytes_out=6,
        client_ip="198.51.100.1",
        user_agent=("agent \xe9" + "x" * 300)[:256],
        referer="http://from",
    )
    assert "secret" not in repr(record)


@pytest.mark.parametrize(("status", "outcome"), [(200, "ok"), (204, "ok"), (503, "rejected")])
def test_outcomes(status: int, outcome: str) -> None:
    """An error of any kind is a rejection."""
    record = recorded(get("/x"), status)
    assert record is not None
    assert (record.status, record.outcome) == (status, outcome)


@pytest.mark.parametrize("path", ["/health", "/ready", "/ready?x"])
def test_probes_are_silent_while_all_is_well(path: str) -> None:
    """They come every few seconds; only when they fail is it worth a line."""
    assert recorded(get(path)) is None
    failed = recorded(get(path), 503)
    assert failed is not None
    assert failed.status == 503


def test_record_of_a_refusal() -> None:
    """Of bytes that were no request, only the error is known, and who sent them."""
    record = record_of_refusal(UriTooLong(), "192.0.2.7", "id-1", 1000.0)
    assert record == UsageRecord(
        id="id-1",
        time=1000.0,
        request_id="id-1",
        method="-",
        endpoint="-",
        outcome="rejected",
        status=414,
        error_code="uri_too_long",
        client_ip="192.0.2.7",
    )


def test_further_probes() -> None:
    """Metrics are read as often, wherever they are served."""
    with Edge(lambda request: answer_json(request, 200, "x")) as edge:
        edge.connect().send(get("/numbers"))
        (request,) = edge.logged
        assert record_of(request, 1000.0, 0.0, frozenset((b"/numbers",))) is None
        assert record_of(request, 1000.0, 0.0) is not None
