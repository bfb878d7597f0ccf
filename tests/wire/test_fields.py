"""Header fields on their way through, up and down."""

from __future__ import annotations

import pytest

from llmproxy.errors import LoopDetected
from llmproxy.wire.fields import Caller, FieldRules

RULES = FieldRules(
    pseudonym=b"llmproxy-1", credential_names=frozenset((b"authorization", b"x-team-key"))
)
CALLER = Caller(client_ip="192.0.2.1", secure=False, host=b"gw.test", peer_ip="192.0.2.1")

Fields = list[tuple[bytes, bytes]]


def up(fields: Fields, caller: Caller = CALLER, backend: Fields | None = None) -> Fields:
    """Give what goes up."""
    return RULES.upstream(fields, caller, backend or [])


def test_order_and_unknown_fields_are_kept() -> None:
    """Unknown fields pass, and fields of one name stay in their order."""
    fields = [(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3"), (b"cookie", b"c=1")]
    assert up(fields)[:4] == fields


@pytest.mark.parametrize(
    "name",
    [
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"proxy-connection",
        b"proxy-authorization",
        b"proxy-anything",
        b"http2-settings",
        b"authorization",
        b"x-team-key",
        b"host",
        b"content-length",
        b"expect",
    ],
)
def test_dropped_upstream(name: bytes) -> None:
    """Fields of one hop, the client's credentials and what is set anew do not pass."""
    assert (name, b"canary") not in up([(name, b"canary")])
    assert b"canary" not in b"".join(value for _, value in up([(name, b"canary")]))


def test_connection_nominates() -> None:
    """What Connection names is of this hop, but not fields that belong to both ends."""
    fields = [
        (b"connection", b"close, X-Hop, Content-Type, x-request-id"),
        (b"x-hop", b"1"),
        (b"content-type", b"application/json"),
    ]
    passed = dict(up(fields))
    assert b"x-hop" not in passed
    assert passed[b"content-type"] == b"application/json"
    assert b"x-request-id" not in passed  # it is not the same for all that have these fields


def test_what_is_added() -> None:
    """Via, the request id, who calls, and no wish for compression."""
    passed = dict(up([(b"accept-encoding", b"gzip, br"), (b"via", b"1.0 other")]))
    assert passed[b"via"] == b"1.0 other, 1.1 llmproxy-1"
    assert passed[b"accept-encoding"] == b"identity"
    assert passed[b"x-forwarded-for"] == b"192.0.2.1"
    assert passed[b"x-forwarded-proto"] == b"http"
    assert passed[b"x-forwarded-host"] == b"gw.test"


def test_forwarded_fields_of_strangers_are_dropped() -> None:
    """Only trusted proxies are quoted."""
    fields = [
        (b"x-forwarded-for", b"10.0.0.1"),
        (b"x-forwarded-proto", b"https"),
        (b"forwarded", b"for=10.0.0.1"),
        (b"x-real-ip", b"10.0.0.1"),
    ]
    passed = up(fields)
    assert b"10.0.0.1" not in b"".join(value for _, value in passed)
    assert dict(passed)[b"x-forwarded-proto"] == b"http"
    trusted = Caller(
        client_ip="10.0.0.1", secure=False, host=b"gw.test", trusted=True, peer_ip="192.0.2.1"
    )
    quoted = dict(up(fields, trusted))
    assert quoted[b"x-forwarded-for"] == b"10.0.0.1, 192.0.2.1"
    by_unix = Caller(client_ip="10.0.0.1", secure=False, host=b"gw.test", trusted=True)
    assert dict(up(fields, by_unix))[b"x-forwarded-for"] == b"10.0.0.1"
    assert quoted[b"x-forwarded-proto"] == b"https"
    assert quoted[b"forwarded"] == b"for=10.0.0.1"


def test_backends_fields_replace_the_clients() -> None:
    """What the operator configured for a backend wins."""
    passed = up([(b"x-org", b"client")], backend=[(b"X-Org", b"backend")])
    assert [value for name, value in passed if name.lower() == b"x-org"] == [b"backend"]


@pytest.mark.parametrize("trusted", [False, True])
def test_backends_fields_replace_what_is_said_of_the_client(*, trusted: bool) -> None:
    """No field stands there twice, whoever said it; but for Via, by which loops are seen."""
    names = (b"X-Forwarded-Host", b"X-Forwarded-For", b"X-Forwarded-Proto", b"Accept-Encoding")
    caller = Caller(
        client_ip="192.0.2.1", secure=True, host=b"gw", trusted=trusted, peer_ip="192.0.2.9"
    )
    theirs = [(name.lower(), b"theirs") for name in (*names, b"Forwarded")]
    ours = [(name, b"ours") for name in (*names, b"Forwarded")]
    assert up(theirs, caller, ours) == [(b"via", b"1.1 llmproxy-1"), *ours]


def test_loop() -> None:
    """A request that carries our own name has been here before."""
    RULES.check_loop([(b"via", b"1.1 llmproxy-2")])
    with pytest.raises(LoopDetected):
        RULES.check_loop([(b"x", b"y"), (b"via", b"1.1 a, 1.1 llmproxy-1")])


def test_downstream() -> None:
    """The answer's fields pass but for those of one hop; Via names us."""
    fields = [
        (b"server", b"uvicorn"),
        (b"connection", b"close, x-hop"),
        (b"x-hop", b"1"),
        (b"keep-alive", b"timeout=5"),
        (b"transfer-encoding", b"chunked"),
        (b"content-length", b"5"),
        (b"x-request-id", b"theirs"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"access-control-allow-origin", b"*"),
    ]
    kept = RULES.downstream(fields, drop_cors=False)
    assert kept == [
        (b"server", b"uvicorn"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"access-control-allow-origin", b"*"),
        (b"via", b"1.1 llmproxy-1"),
    ]
    assert (b"access-control-allow-origin", b"*") not in RULES.downstream(fields, drop_cors=True)
