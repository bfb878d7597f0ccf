"""Tests of `llmproxy.proxy.evidence`, and of what leases are told."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest
from twisted.web.client import ResponseFailed

from llmproxy import errors
from llmproxy.errors import (
    ConnectFailed,
    ConnectionDied,
    GatewayError,
    KeyDisabled,
    ReusedConnectionDied,
)
from llmproxy.proxy.evidence import evidence_of
from llmproxy.values import Backend, Evidence
from llmproxy.wire.backoff import Backoff
from tests.proxy.fakes import FakeRequest, FakeResponse, FakeRouter, Sent, stream_response
from tests.proxy.rig import Rig


@pytest.mark.parametrize("status", [200, 204, 302])
def test_good(status: int) -> None:
    """An answer that is no error."""
    assert evidence_of(status, False) == "good"
    assert evidence_of(status, True) == "good"


@pytest.mark.parametrize("status", [500, 502, 504, 599])
def test_bad(status: int) -> None:
    """A 5xx, whatever it says of coming again."""
    assert evidence_of(status, False) == "bad"
    assert evidence_of(status, True) == "bad"


@pytest.mark.parametrize("status", [*range(400, 500), 501, 505])
def test_about_the_request(status: int) -> None:
    """What is wrong with a request says nothing of the backend."""
    assert evidence_of(status, False) == "none"


def test_busy_is_not_broken() -> None:
    """A 503 that says when to come again is of a backend that is busy; without, it is not."""
    assert evidence_of(503, True) == "none"
    assert evidence_of(503, False) == "bad"
    assert evidence_of(429, True) == "none"


def all_errors(kind: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    """List the classes of errors."""
    yield kind
    for below in kind.__subclasses__():
        yield from all_errors(below)


def test_errors_that_blame_the_backend() -> None:
    """No connection, an answer that breaks off or is none, silence; and nothing else."""
    blaming = {kind.__name__ for kind in all_errors() if kind.blames_backend}
    assert blaming == {
        "ConnectFailed",
        "TlsFailed",
        "ConnectionDied",
        "BadResponse",
        "FirstByteTimeout",
        "StallTimeout",
    }
    assert not errors.RelayBroken("code", "words").blames_backend


EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
ONE = Backend(name="one", url=b"http://one.test", host=b"one.test", stall_timeout_s=30.0)
TWO = Backend(name="two", url=b"http://two.test", host=b"two.test")


class Told:
    """One request to a backend, and what its leases are told."""

    def __init__(self, *, stream: bool = True, timeout_s: float = 0.0) -> None:
        one = attrs.evolve(ONE, timeout_s=timeout_s)
        self.rig = Rig(FakeRouter(one, TWO), Backoff(max_retries=1))
        self.request = FakeRequest(b'{"model":"m","stream":true}' if stream else b'{"model":"m"}')
        self.exchange = self.rig.begin(self.request)

    def sent(self, name: str = "one") -> Sent:
        """Give the last request that reached a backend."""
        return self.rig.router.upstreams[name].sent[-1]

    def answer(self, response: FakeResponse) -> FakeResponse:
        """Let the backend answer."""
        self.sent().answer.callback(response)
        return response

    def evidence(self) -> list[Evidence | None]:
        """Give what each lease was told, now that all is over."""
        self.rig.conclusion()
        return [lease.evidence for lease in self.rig.router.leases]


def test_whole_stream() -> None:
    """Is good; its first byte and its progress are known while it comes."""
    told = Told()
    response = told.answer(stream_response())
    (lease,) = told.rig.router.leases
    assert lease.progress is None
    told.rig.clock.advance(1.0)
    response.piece(EVENT)
    told.rig.clock.advance(2.0)
    response.piece(EVENT)
    assert lease.progress is not None
    assert (lease.progress.first_piece_s, lease.progress.last_piece_s) == (1.0, 3.0)
    response.end()
    assert told.evidence() == ["good"]


@pytest.mark.parametrize(
    ("status", "headers", "evidence"),
    [
        (200, {}, "good"),
        (400, {}, "none"),
        (429, {b"Retry-After": b"1"}, "none"),
        (500, {}, "bad"),
        (503, {}, "bad"),
        (503, {b"Retry-After": b"1"}, "none"),
    ],
)
def test_answers(status: int, headers: dict[bytes, bytes], evidence: Evidence) -> None:
    """By their status, once they are whole."""
    told = Told(stream=False)
    told.rig.router.full.add("two")  # else it would be asked instead of a busy one
    response = told.answer(FakeResponse(status, headers, length=2))
    response.piece(b"{}")
    assert told.rig.router.leases[0].evidence is None
    response.end()
    assert told.evidence() == [evidence]


@pytest.mark.parametrize("stream", [True, False])
def test_cut_off(stream: bool) -> None:
    """An answer that breaks off is bad, whether the client saw its beginning or not."""
    told = Told(stream=stream)
    response = told.answer(stream_response() if stream else FakeResponse(length=10))
    response.end(ResponseFailed([]))
    assert told.evidence() == ["bad"]


@pytest.mark.parametrize("stream", [True, False])
def test_silence(stream: bool) -> None:
    """So is one that stalls."""
    told = Told(stream=stream)
    response = told.answer(stream_response() if stream else FakeResponse(length=10))
    response.piece(EVENT)
    told.rig.clock.advance(30.0)
    assert told.evidence() == ["bad"]


def test_too_long_is_not_silent() -> None:
    """The backend's total time is a limit of ours."""
    told = Told(timeout_s=20.0)
    response = told.answer(stream_response())
    for _ in range(4):
        response.piece(EVENT)
        told.rig.clock.advance(5.0)
    assert told.request.broken_off
    assert told.evidence() == [None]


@pytest.mark.parametrize(
    ("error", "evidence"),
    [(ConnectFailed(), "bad"), (ConnectionDied(), "bad"), (ReusedConnectionDied(), None)],
)
def test_no_answer(error: GatewayError, evidence: Evidence | None) -> None:
    """No connection, or one that dies; but not one that was kept too long."""
    told = Told()
    told.sent().answer.errback(error)
    if error.retryable:
        told.request.leave()
    assert told.evidence()[0] == evidence


def test_each_attempt_for_itself() -> None:
    """The first backend could not be reached, the second answers well."""
    told = Told()
    told.sent().answer.errback(ConnectFailed())
    response = stream_response()
    told.sent("two").answer.callback(response)
    response.piece(EVENT)
    response.end()
    assert told.evidence() == ["bad", "good"]


def test_first_byte_timeout() -> None:
    """No answer in all that time is bad."""
    told = Told()
    told.rig.clock.advance(300.0)
    assert told.request.status == 504
    assert told.evidence() == ["bad"]


@pytest.mark.parametrize("phase", ["head", "stream"])
def test_who_leaves_has_seen_nothing(phase: str) -> None:
    """Whatever the client's reason was."""
    told = Told()
    if phase == "stream":
        told.answer(stream_response()).piece(EVENT)
    told.request.leave()
    assert told.evidence() == [None]


def test_who_leaves_at_done_has_seen_all() -> None:
    """Many clients close there: else no probe of theirs would ever be good."""
    told = Told()
    response = told.answer(stream_response())
    response.piece(EVENT + b"data: [DONE]\n\n")
    told.request.leave()
    assert told.evidence() == ["good"]


def test_who_leaves_an_error_has_seen_it() -> None:
    """The head of a 500 is enough."""
    told = Told()
    told.answer(FakeResponse(500))
    told.request.leave()
    assert told.evidence() == ["bad"]


def test_cut_by_the_operator() -> None:
    """A key that was taken back says nothing of the backend."""
    told = Told()
    told.answer(stream_response()).piece(EVENT)
    told.exchange.cut(KeyDisabled())
    assert told.evidence() == [None]


def test_the_conversation_is_given_unread() -> None:
    """The router gets what the strategy may ask for: the client's word, else the prompt's."""
    told = Told()
    (affinity,) = told.rig.router.affinities
    assert affinity().startswith(b"key-1\0")
    told.request.leave()
    rig = Rig()
    rig.begin(named := FakeRequest(headers=[(b"x-session-id", b"ses_1")]))
    assert rig.router.affinities[0]() == b"ses_1"
    named.leave()
