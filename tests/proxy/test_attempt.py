"""One try: what goes up, and the clocks until the head."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from llmproxy.errors import ConnectFailed, FirstByteTimeout, GatewayTimeout
from llmproxy.proxy.attempt import Answering, Attempt, Outbound
from llmproxy.timeouts import Timeouts
from llmproxy.values import Backend, ModelRoute
from tests.proxy.fakes import FakeLease, FakeResponse, FakeUpstream


class Trying:
    """An attempt under way."""

    def __init__(self, outbound: Outbound | None = None, **backend: Any) -> None:
        self.clock = Clock()
        self.upstream = FakeUpstream()
        identity = Backend(name="one", url=b"http://one.test", host=b"one.test", **backend)
        self.attempt = Attempt(
            self.clock,
            Timeouts(self.clock),
            FakeLease(identity, self.upstream, ModelRoute("m", "m")),
            outbound or Outbound(method="POST", target=b"/v1/x", body=b'{"model":"m"}'),
            b"x: 1\r\n",
            lambda body: body,
        )
        self.run = Deferred.fromCoroutine(self.attempt.head())
        self.results: list[Any] = []
        self.run.addBoth(self.results.append)

    @property
    def result(self) -> Any:
        """What it came to; no timer may be left then."""
        assert self.clock.getDelayedCalls() == []
        (result,) = self.results
        return result.value if isinstance(result, Failure) else result

    def answer(self) -> Answering:
        """Let the backend answer; give what the attempt makes of it."""
        self.upstream.sent[0].answer.callback(FakeResponse())
        assert isinstance(self.result, Answering)
        return self.result


def test_sends_what_it_was_given() -> None:
    """URL, fields and body go out as they are."""
    trying = Trying()
    (sent,) = trying.upstream.sent
    assert (sent.method, sent.url) == ("POST", b"http://one.test/v1/x")
    assert sent.headers == [(b"x", b"1")]
    assert sent.body == b'{"model":"m"}'
    assert trying.answer().response.code == 200


def test_edits_the_body_where_it_must() -> None:
    """The model's name and the wish for usage are put in; all else stays."""
    outbound = Outbound(
        method="POST", target=b"/", body=b'{"model":"a","n":1.0}', model="b", wants_usage=True
    )
    trying = Trying(outbound)
    body = json.loads(trying.upstream.sent[0].body)
    assert body == {"model": "b", "n": 1.0, "stream_options": {"include_usage": True}}
    assert trying.answer().injected_usage


def test_backend_may_refuse_to_be_asked_for_usage() -> None:
    """``inject_usage: false`` wins."""
    body = b'{"model":"a"}'
    trying = Trying(
        Outbound(method="POST", target=b"/", body=body, wants_usage=True), inject_usage=False
    )
    assert trying.upstream.sent[0].body is body
    assert not trying.answer().injected_usage


@pytest.mark.parametrize(
    ("backend", "override", "after_s", "error"),
    [
        ({"first_byte_timeout_s": 30.0}, None, 30, FirstByteTimeout),
        ({"first_byte_timeout_s": 30.0}, 60.0, 60, FirstByteTimeout),
        ({"first_byte_timeout_s": 30.0}, 10.0, 10, FirstByteTimeout),
        ({"first_byte_timeout_s": 30.0, "timeout_s": 20.0}, None, 20, GatewayTimeout),
        ({"first_byte_timeout_s": 0.0, "timeout_s": 20.0}, None, 20, GatewayTimeout),
    ],
)
def test_clocks(
    backend: dict[str, float], override: float | None, after_s: float, error: type[Exception]
) -> None:
    """The model's own first-byte time outweighs the backend's; the total time ends both."""
    outbound = Outbound(method="POST", target=b"/", body=b"{}", first_byte_timeout_s=override)
    trying = Trying(outbound, **backend)
    trying.clock.advance(after_s - 0.1)
    assert trying.results == []
    trying.clock.advance(0.1)
    assert type(trying.result) is error
    assert trying.upstream.sent[0].cancelled


def test_no_clock() -> None:
    """Zero means none."""
    trying = Trying(first_byte_timeout_s=0.0)
    assert trying.clock.getDelayedCalls() == []
    assert trying.answer().deadline_s is None


def test_deadline() -> None:
    """The total time runs from the attempt's begin, over the head and on into the body."""
    trying = Trying(timeout_s=20.0)
    trying.clock.advance(5)
    assert trying.answer().deadline_s == 20


def test_failure_passes_as_it_is() -> None:
    """The class of a failure is the retry policy: it is not changed here."""
    trying = Trying()
    trying.upstream.sent[0].answer.errback(ConnectFailed())
    assert isinstance(trying.result, ConnectFailed)


def test_cancel() -> None:
    """Cancelling aborts the backend's connection and is no timeout."""
    trying = Trying()
    trying.run.cancel()
    assert isinstance(trying.result, CancelledError)
    assert trying.upstream.sent[0].cancelled
