"""Admission: the order of its checks, and what is known when one fails."""

from __future__ import annotations

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from llmproxy.errors import (
    Draining,
    GatewayError,
    InvalidApiKey,
    InvalidJson,
    LoopDetected,
    ModelNotFound,
    Overloaded,
    QuotaExceeded,
    UnsupportedEncoding,
)
from llmproxy.proxy.admission import Admitted
from llmproxy.values import Demand, ModelRoute
from tests.proxy.fakes import FakeRequest
from tests.proxy.rig import Rig


def admit(rig: Rig, request: FakeRequest) -> tuple[Admitted, BaseException | None]:
    """Run an admission to its end."""
    admitted = Admitted()
    results: list[object] = []
    running = Deferred.fromCoroutine(rig.path.admission.admit(request, admitted))
    running.addBoth(results.append)
    (result,) = results
    return admitted, result.value if isinstance(result, Failure) else None


def test_lets_in() -> None:
    """A good request ends with all that is known of it, its body counted."""
    rig = Rig()
    admitted, error = admit(rig, FakeRequest(b'{"model":"alias","stream":true}'))
    assert error is None
    assert admitted.principal.key_name == "tester"
    assert admitted.facts is not None
    assert admitted.facts.stream
    assert admitted.route is rig.router.model_route
    assert rig.budget.taken_bytes == admitted.body_bytes == 31
    rig.path.admission.release(admitted)
    rig.path.admission.release(admitted)
    assert rig.budget.taken_bytes == 0
    assert admitted.body_bytes == 31


@pytest.mark.parametrize(
    ("request_", "error", "reads_body"),
    [
        (FakeRequest(b"{", headers=[(b"via", b"1.1 llmproxy-test")]), LoopDetected, False),
        (FakeRequest(b"{", key="sk-bad"), InvalidApiKey, False),
        (FakeRequest(b"{", headers=[(b"content-encoding", b"br")]), UnsupportedEncoding, False),
        (FakeRequest(b"{"), InvalidJson, True),
        (FakeRequest(b'{"model":"x"}'), ModelNotFound, True),
    ],
)
def test_refuses(request_: FakeRequest, error: type[GatewayError], reads_body: bool) -> None:
    """Each check comes before what costs more, and no body is read for a stranger."""
    rig = Rig()
    admitted, refusal = admit(rig, request_)
    assert type(refusal) is error
    assert bool(admitted.body) is reads_body


def test_draining_comes_first() -> None:
    """A draining daemon asks nobody who they are."""
    rig = Rig()
    rig.draining = True
    _, refusal = admit(rig, FakeRequest())
    assert type(refusal) is Draining
    assert rig.authenticator.asked == []


@pytest.mark.parametrize("why", ["late", "surplus"])
def test_overload_comes_first(why: str) -> None:
    """A gateway with too much to do does nothing for what it turns away."""
    rig, request = Rig(), FakeRequest()
    rig.late = why == "late"
    request.surplus = why == "surplus"
    _, refusal = admit(rig, request)
    assert type(refusal) is Overloaded
    assert (refusal.status, refusal.close, refusal.retry_after_s) == (503, True, 1)
    assert rig.authenticator.asked == []


def test_limits_are_asked_last() -> None:
    """They hear who, which model, and the prompt's estimate with the longest answer."""
    rig = Rig()
    rig.router.model_route = ModelRoute("m", "m", context=16, output=100)
    body = b'{"model": "alias", "max_tokens": 1000, "prompt": "%b"}' % (b"x" * 100)
    admitted, refusal = admit(rig, FakeRequest(body))
    assert refusal is None
    (grant,) = rig.limiter.grants
    assert admitted.grant is grant
    assert grant.demand == Demand(admitted.principal, "m", 116)


@pytest.mark.parametrize("path", [b"/v1/embeddings", b"/v1/rerank", b"/v1/score", b"/tokenize"])
def test_nothing_is_reserved_for_answers_that_nobody_generates(path: bytes) -> None:
    """Or a few embeddings at once would use a whole minute's tokens up."""
    rig = Rig()
    admit(rig, FakeRequest(b'{"model": "m", "max_tokens": 1000}', path=path))
    (grant,) = rig.limiter.grants
    assert grant.demand.tokens == 9


def test_what_the_limits_refuse() -> None:
    """It is the answer, and what became known stays known."""
    rig = Rig()
    rig.limiter.refusal = QuotaExceeded()
    admitted, refusal = admit(rig, FakeRequest())
    assert refusal is rig.limiter.refusal
    assert admitted.grant is None
    assert admitted.route is not None


@pytest.mark.parametrize("request_", [FakeRequest(key="sk-bad"), FakeRequest(b'{"model":"x"}')])
def test_the_operators_own_words(request_: FakeRequest) -> None:
    """They stand in every refusal, the status and the class stay."""
    rig = Rig()
    rig.words = "Ask the platform team."
    _, refusal = admit(rig, request_)
    assert isinstance(refusal, (InvalidApiKey, ModelNotFound))
    assert str(refusal) == "Ask the platform team."
    failures: list[Failure] = []
    rig.path.admission.identify(FakeRequest(key="sk-bad")).addErrback(failures.append)
    assert str(failures[0].value) == "Ask the platform team."


def test_body_is_not_shown() -> None:
    """A prompt is in no repr."""
    rig = Rig()
    admitted, _ = admit(rig, FakeRequest(b'{"model":"m","prompt":"secret"}'))
    assert "secret" not in repr(admitted)


def test_a_certificate_is_asked_about_like_a_key() -> None:
    """What is read of it, and of the header, goes to the authenticator."""
    rig = Rig()
    request = FakeRequest(key="")
    request.certificate_subject = "CN=alice"
    reads = attrs.evolve(
        rig.path.admission,
        read_credential=lambda header, subject: f"{header(b'authorization').decode()}|{subject}",
    )
    reads.identify(request).addErrback(lambda failure: failure.trap(InvalidApiKey))
    assert rig.authenticator.asked == [("Bearer |CN=alice", "192.0.2.1")]
