"""The records of what no exchange relays."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from llmproxy.errors import InvalidApiKey, UnknownUrl, UriTooLong
from llmproxy.interfaces import IClientRequest
from llmproxy.resources.base import ErrorResource, answer_json
from llmproxy.resources.models import ModelsResource
from llmproxy.resources.records import record_of, record_of_refusal
from llmproxy.site import EdgeRequest
from llmproxy.values import ModelCard, Principal, UsageRecord
from tests.edge import Edge, get


class FakeCatalog:
    """There are no models."""

    def cards(self, principal: Principal) -> list[ModelCard]:
        """Give none."""
        return []


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


@pytest.mark.parametrize(
    ("path", "key", "status", "code"),
    [
        ("/v1/models", "alice", 200, ""),
        ("/v1/models/none", "alice", 404, "model_not_found"),
        ("/v1/models", "nobody", 401, "invalid_api_key"),
        ("/v1/nothing", "alice", 404, "unknown_url"),
    ],
)
def test_who_asked_a_resource_and_why_it_was_refused(
    path: str, key: str, status: int, code: str
) -> None:
    """As with what is relayed."""
    alice = Principal("alice", key_name="laptop", user_id="a@example.org")

    def identify(request: IClientRequest) -> Deferred[Principal]:
        return succeed(alice) if key == "alice" else fail(InvalidApiKey())

    catalog: Any = FakeCatalog()
    resource = ModelsResource(identify, catalog, path.partition("/models/")[2] or None)
    unknown = ErrorResource(UnknownUrl())

    def answer(request: EdgeRequest) -> None:
        (unknown if path == "/v1/nothing" else resource).render(request)

    with Edge(answer) as edge:
        edge.connect().send(get(path))
        (request,) = edge.logged
        record = record_of(request, 1000.0, edge.clock.seconds())
    assert record is not None
    assert (record.status, record.error_code) == (status, code)
    known = key == "alice" and path != "/v1/nothing"
    assert (record.key_id, record.key_name, record.user_id) == (
        ("alice", "laptop", "a@example.org") if known else ("", "", "")
    )


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
