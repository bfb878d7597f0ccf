"""The exchange in memory: every way to its one conclusion."""

from __future__ import annotations

import gc
import inspect
import json
import sys

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss

from llmproxy.errors import (
    BadResponse,
    ClientGone,
    ConnectFailed,
    ConnectionDied,
    GatewayError,
    KeyDisabled,
    ReusedConnectionDied,
)
from llmproxy.proxy.exchange import MOST_NAMES, OTHER_NAMES
from llmproxy.proxy.plain_meter import PlainMeter
from llmproxy.values import Backend, ModelRoute, StreamAlert, TriedBackend, Usage
from llmproxy.wire.backoff import Backoff
from tests.proxy.fakes import FakeBody, FakeRequest, FakeResponse, FakeRouter, Sent, stream_response
from tests.proxy.rig import Rig

ONE = Backend(name="one", url=b"http://one.test/prefix", host=b"one.test")
TWO = Backend(name="two", url=b"http://two.test", host=b"two.test")

CHAT = (
    b'{"id":"x","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
)


def sent_to(rig: Rig, name: str = "one") -> Sent:
    """Give the last request that reached a backend."""
    return rig.router.upstreams[name].sent[-1]


def error_of(request: FakeRequest) -> dict[str, object]:
    """Give the error that a request was answered with."""
    error = json.loads(request.output)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


def test_plain_answer() -> None:
    """A plain answer passes with its status, fields and bytes, and is metered."""
    rig, request = Rig(), FakeRequest()
    exchange = rig.begin(request)
    rig.clock.advance(0.5)
    response = FakeResponse(
        headers={b"Content-Type": b"application/json", b"X-Engine": b"e", b"Connection": b"x-hop"}
        | {b"X-Hop": b"1"},
        length=len(CHAT),
    )
    sent_to(rig).answer.callback(response)
    assert exchange.state == "relaying"
    assert not request.head_sent
    rig.clock.advance(0.25)
    response.piece(CHAT)
    response.end()
    assert request.finished
    assert request.status == 200
    assert request.output == CHAT
    assert request.headers[b"x-engine"] == b"e"
    assert request.headers[b"content-length"] == b"%d" % len(CHAT)
    assert b"x-hop" not in request.headers
    record = rig.conclusion()
    assert record.outcome == "ok"
    assert record.usage_source == "exact"
    assert record.usage.total_tokens == 5
    assert record.finish_reason == "stop"
    assert (record.key_id, record.user_id, record.backend) == ("key-1", "u1", "one")
    assert record.first_byte_ms == pytest.approx(750)
    assert record.bytes_out == len(CHAT)
    assert repr(exchange).startswith("<Exchange req-1 concluded")


@pytest.mark.parametrize("kept", [True, False])
def test_bodies_in_records(kept: bool) -> None:
    """Where they are wanted, and then they count against the budget until the end."""
    rig = Rig()
    rig.path = attrs.evolve(rig.path, keeps_bodies=kept)
    request = FakeRequest()
    rig.begin(request)
    response = FakeResponse(length=len(CHAT))
    sent_to(rig).answer.callback(response)
    assert rig.budget.taken_bytes == (len(b'{"model": "m"}') if kept else 0)
    response.piece(CHAT)
    response.end()
    assert rig.conclusion().request_body == (b'{"model": "m"}' if kept else None)


def test_request_goes_up_without_the_clients_key() -> None:
    """The client's credentials stay here; target, body and other fields pass."""
    router = FakeRouter(attrs.evolve(ONE, headers=((b"Authorization", b"Bearer backend"),)))
    rig = Rig(router)
    request = FakeRequest(headers=[(b"x-api-key", b"sk-good"), (b"x-custom", b"1"), (b"te", b"x")])
    request.uri = b"/v1/chat/completions?a=%20b"
    rig.begin(request)
    sent = sent_to(rig)
    assert sent.url == b"http://one.test/prefix/v1/chat/completions?a=%20b"
    assert sent.body == b'{"model": "m"}'
    fields = {name.lower(): value for name, value in sent.headers}
    assert fields[b"authorization"] == b"Bearer backend"
    assert b"x-api-key" not in fields
    assert b"te" not in fields
    assert fields[b"x-custom"] == b"1"
    assert fields[b"x-request-id"] == b"req-1"
    assert fields[b"via"] == b"1.1 llmproxy-test"
    assert fields[b"x-forwarded-for"] == b"192.0.2.1"
    assert "sk-good" not in repr(sent.headers)
    request.leave()


def test_stream_without_usage_wish() -> None:
    """Usage is asked for in the client's place, and its chunk withheld."""
    rig = Rig()
    request = FakeRequest(b'{"model":"m","stream":true}')
    rig.begin(request)
    assert json.loads(sent_to(rig).body)["stream_options"] == {"include_usage": True}
    response = stream_response()
    sent_to(rig).answer.callback(response)
    assert request.head_sent, "the client learns at once that the stream is open"
    assert request.headers[b"x-accel-buffering"] == b"no"
    first = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
    response.piece(first)
    assert request.output == first
    response.piece(usage)
    assert request.output == first
    response.piece(b"data: [DONE]\n\n")
    response.end()
    assert request.output == first + b"data: [DONE]\n\n"
    assert rig.conclusion().usage_source == "exact"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (
            b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
            b"/v1/completions",
        ),
        (b'{"model":"m","stream":true}', b"/v1/responses"),
        (b'{"model":"m"}', b"/v1/chat/completions"),
    ],
)
def test_body_stays_as_it_was(body: bytes, path: bytes) -> None:
    """Where nothing needs to be asked for, every byte goes up, and every event comes down."""
    rig = Rig()
    request = FakeRequest(body, path=path)
    rig.begin(request)
    assert sent_to(rig).body == body
    response = stream_response()
    sent_to(rig).answer.callback(response)
    chunk = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
    response.piece(chunk)
    response.end()
    assert request.output == chunk
    rig.conclusion()


def test_backend_that_refuses_the_option() -> None:
    """``inject_usage: false`` leaves the body alone."""
    rig = Rig(FakeRouter(attrs.evolve(ONE, inject_usage=False)))
    request = FakeRequest(b'{"model":"m","stream":true}')
    rig.begin(request)
    assert sent_to(rig).body == b'{"model":"m","stream":true}'
    request.leave()


def test_alias_is_rewritten() -> None:
    """An alias goes up under the name that the backend knows; the record names the model."""
    rig = Rig()
    rig.router.model_route = ModelRoute(model_id="m", upstream_model="org/m-v2")
    request = FakeRequest(b'{ "model" : "alias", "x": 1.50 }')
    rig.begin(request)
    assert sent_to(rig).body == b'{ "model" : "org/m-v2", "x": 1.50 }'
    request.leave()
    record = rig.conclusion()
    assert (record.model, record.upstream_model) == ("m", "org/m-v2")


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (FakeRequest(key="sk-bad"), 401, "invalid_api_key"),
        (FakeRequest(b"{"), 400, "invalid_json"),
        (FakeRequest(b"[]"), 400, "invalid_body"),
        (FakeRequest(b"{}"), 400, "invalid_body"),
        (FakeRequest(b'{"model":"nope"}'), 404, "model_not_found"),
        (
            FakeRequest(headers=[(b"content-encoding", b"gzip")]),
            415,
            "unsupported_content_encoding",
        ),
        (FakeRequest(headers=[(b"via", b"1.1 a, 1.1 llmproxy-test")]), 508, "loop_detected"),
    ],
)
def test_refused(request_: FakeRequest, status: int, code: str) -> None:
    """What may not pass is answered, recorded as rejected, and never reaches a backend."""
    rig = Rig()
    rig.begin(request_)
    assert request_.status == status
    assert error_of(request_)["code"] == code
    assert request_.finished
    record = rig.conclusion()
    assert (record.outcome, record.status, record.error_code) == ("rejected", status, code)
    assert rig.router.leases == []
    assert record.key_id == ("" if status in (401, 508) else "key-1")


def test_fields_of_a_head_that_repeats() -> None:
    """They are encoded once, and anew for another backend of that name, or under other rules."""
    rig, first = Rig(FakeRouter(ONE)), FakeRequest(headers=[(b"x-secret", b"canary")])

    def names_sent() -> list[bytes]:
        request = FakeRequest(headers=[(b"x-secret", b"canary")])
        request.repeats = first.repeats
        exchange = rig.begin(request)
        names = [name.lower() for name, _ in sent_to(rig).headers]
        exchange.cut(KeyDisabled())
        return names

    assert b"x-secret" in names_sent()
    (made,) = first.repeats.values()
    assert b"x-secret" in names_sent()
    assert first.repeats["one"] is made
    rig.router.backends = (attrs.evolve(ONE, headers=((b"X-Other", b"1"),)),)
    assert b"x-other" in names_sent()
    secret = rig.path.rules.credential_names | {b"x-secret"}
    rig.path = attrs.evolve(rig.path, rules=attrs.evolve(rig.path.rules, credential_names=secret))
    assert b"x-secret" not in names_sent()


def test_draining() -> None:
    """A draining daemon takes nothing new."""
    rig, request = Rig(), FakeRequest()
    rig.draining = True
    rig.begin(request)
    assert request.status == 503
    assert request.closes
    assert request.headers[b"retry-after"] == b"1"
    assert rig.conclusion().error_code == "draining"


@pytest.mark.parametrize("error", [ConnectFailed(), ReusedConnectionDied()])
def test_retryable_failure_goes_to_another_try(error: GatewayError) -> None:
    """What provably was not accepted is tried again at once."""
    rig, request = Rig(FakeRouter(ONE, TWO)), FakeRequest()
    rig.begin(request)
    sent_to(rig).answer.errback(error)
    again = "two" if isinstance(error, ConnectFailed) else "one"
    sent = sent_to(rig, again)
    assert sent.body == b'{"model": "m"}'
    sent.answer.callback(FakeResponse(length=2))
    response_body(rig, request)
    record = rig.conclusion()
    assert record.attempts == 2
    assert record.backend == again
    assert record.tried == (TriedBackend("one", error.code),)


def response_body(rig: Rig, request: FakeRequest) -> None:
    """Let the answer that is being relayed end well."""
    relay = request.producer
    relay.dataReceived(b"{}")
    relay.connectionLost(Failure(ResponseDone()))
    assert request.finished


@pytest.mark.parametrize("error", [ConnectionDied(), BadResponse()])
def test_accepted_request_is_not_sent_twice(error: GatewayError) -> None:
    """A request that the backend may have begun to work on is never sent again."""
    rig, request = Rig(FakeRouter(ONE, TWO)), FakeRequest()
    rig.begin(request)
    sent_to(rig).answer.errback(error)
    assert request.status == 502
    assert error_of(request)["code"] == error.code
    assert rig.router.upstreams["two"].sent == []
    assert rig.conclusion().outcome == "upstream_error"


def test_all_backends_refuse() -> None:
    """After all were tried there is a wait and another round, up to max_retries."""
    rig = Rig(FakeRouter(ONE, TWO), Backoff(max_retries=2, initial_wait_s=0.1))
    request = FakeRequest()
    rig.begin(request)
    sent_to(rig, "one").answer.errback(ConnectFailed())
    sent_to(rig, "two").answer.errback(ConnectFailed())
    assert len(rig.router.leases) == 2
    rig.clock.advance(0.1)
    assert len(rig.router.leases) == 3
    sent_to(rig, "one").answer.errback(ConnectFailed())
    assert request.status == 502
    assert error_of(request)["code"] == "connect_failed"
    record = rig.conclusion()
    assert record.attempts == 3
    assert [tried.backend for tried in record.tried] == ["one", "two", "one"]


def test_no_retries_when_switched_off() -> None:
    """``retry.enabled: false`` means one try."""
    rig = Rig(FakeRouter(ONE, TWO), Backoff(max_retries=0))
    request = FakeRequest()
    rig.begin(request)
    sent_to(rig).answer.errback(ConnectFailed())
    assert request.status == 502
    assert rig.conclusion().attempts == 1


def test_client_leaves_while_its_body_is_read() -> None:
    """Nothing was sent, nothing is left."""
    rig, request = Rig(), FakeRequest()
    body: Deferred[bytes] = Deferred()
    request.body = body
    rig.begin(request)
    body.errback(ClientGone())
    record = rig.conclusion()
    assert (record.outcome, record.status) == ("client_abort", 499)


def test_client_leaves_before_the_head() -> None:
    """The backend's request is cancelled at once."""
    rig, request = Rig(), FakeRequest()
    rig.begin(request)
    request.leave()
    assert sent_to(rig).cancelled
    assert rig.conclusion().outcome == "client_abort"
    assert request.written == []


def test_client_leaves_in_the_retry_wait() -> None:
    """The wait ends with the client."""
    rig, request = Rig(), FakeRequest()
    rig.begin(request)
    sent_to(rig).answer.errback(ConnectFailed())
    assert rig.clock.getDelayedCalls()
    request.leave()
    assert rig.conclusion().outcome == "client_abort"


def test_client_leaves_mid_stream() -> None:
    """The backend's connection is cut, and what was streamed is recorded as partial."""
    rig = Rig()
    request = FakeRequest(b'{"model":"m","stream":true}')
    rig.begin(request)
    response = stream_response()
    sent_to(rig).answer.callback(response)
    response.piece(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
    request.leave()
    assert response.transport.stopped
    response.end(ResponseFailed([]))
    record = rig.conclusion()
    assert (record.outcome, record.status) == ("client_abort", 499)
    assert record.usage_source == "partial"
    assert record.usage.completion_tokens == 1


def test_cut_stream_is_shown_as_cut() -> None:
    """An error event, then the connection is broken off; no invented end."""
    rig = Rig()
    request = FakeRequest(b'{"model":"m","stream":true}')
    rig.begin(request)
    response = stream_response()
    sent_to(rig).answer.callback(response)
    response.piece(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
    response.end(ResponseFailed([]))
    assert request.broken_off
    last = request.output.split(b"\n\n")[-2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["type"] == "server_error"
    assert b"[DONE]" not in request.output
    record = rig.conclusion()
    assert (record.outcome, record.error_code) == ("truncated", "connection_lost")


def test_a_stream_is_announced_without_its_length() -> None:
    """Cut, it ends with an error event, which the backend did not count."""
    rig = Rig()
    request = FakeRequest(b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}')
    rig.begin(request)
    response = stream_response()
    response.length = 1000
    sent_to(rig).answer.callback(response)
    response.piece(b'data: {"choi')
    response.end(ResponseFailed([]))
    assert b"content-length" not in request.headers
    assert request.broken_off
    assert b"connection_lost" in request.output


def test_plain_answer_cut_before_its_first_byte() -> None:
    """Nothing was sent yet: a clean 502, with nothing of the backend's head in it."""
    rig, request = Rig(), FakeRequest()
    rig.begin(request)
    response = FakeResponse(headers={b"X-Engine": b"e"}, length=100)
    sent_to(rig).answer.callback(response)
    response.end(ResponseFailed([]))
    assert request.status == 502
    assert b"x-engine" not in request.headers
    assert error_of(request)["code"] == "bad_response"
    assert rig.conclusion().outcome == "upstream_error"


def test_plain_answer_cut_midway() -> None:
    """Something was sent: the connection is broken off."""
    rig, request = Rig(), FakeRequest()
    rig.begin(request)
    response = FakeResponse(length=100)
    sent_to(rig).answer.callback(response)
    response.piece(b"{")
    response.end(ResponseFailed([]))
    assert request.broken_off
    assert request.output == b"{"
    assert rig.conclusion().outcome == "truncated"


@pytest.mark.parametrize(("status", "outcome"), [(400, "rejected"), (500, "upstream_error")])
def test_backends_own_errors_pass_unchanged(status: int, outcome: str) -> None:
    """Status, body and Retry-After are the backend's; there is no second try."""
    rig, request = Rig(FakeRouter(ONE, TWO)), FakeRequest()
    rig.begin(request)
    response = FakeResponse(status, {b"Retry-After": b"7"}, length=4)
    sent_to(rig).answer.callback(response)
    response.piece(b"oops")
    response.end()
    assert (request.status, request.output) == (status, b"oops")
    assert request.headers[b"retry-after"] == b"7"
    assert rig.conclusion().outcome == outcome


def test_error_event_of_the_backend() -> None:
    """A stream that says it failed is not recorded as ok, whatever its status."""
    rig = Rig()
    request = FakeRequest(b'{"model":"m","stream":true}')
    rig.begin(request)
    response = stream_response()
    sent_to(rig).answer.callback(response)
    response.piece(b'data: {"error":{"message":"engine died"}}\n\n')
    response.end()
    assert request.finished
    assert rig.conclusion().outcome == "upstream_error"


def test_client_that_leaves_at_done() -> None:
    """Many clients close when they have read ``[DONE]``: they have all that there was to have."""
    rig = Rig()
    request = FakeRequest(b'{"model":"m","stream":true}')
    rig.begin(request)
    response = stream_response()
    sent_to(rig).answer.callback(response)
    response.piece(b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n')
    response.piece(b"data: [DONE]\n\n")
    request.leave()
    record = rig.conclusion()
    assert (record.outcome, record.status, record.finish_reason) == ("ok", 200, "stop")


def test_first_byte_timeout() -> None:
    """Prefill that takes too long is a 504, and never tried again."""
    rig = Rig(FakeRouter(attrs.evolve(ONE, first_byte_timeout_s=30.0), TWO))
    request = FakeRequest()
    rig.begin(request)
    rig.clock.advance(30)
    assert sent_to(rig).cancelled
    assert request.status == 504
    assert error_of(request)["code"] == "first_byte_timeout"
    record = rig.conclusion()
    assert (record.outcome, record.attempts) == ("timeout", 1)


def test_fault_of_our_own() -> None:
    """A bug is a logged 500 that tells nothing of its inside, and gives everything back."""
    rig, request = Rig(), FakeRequest()

    def broken(*_: object) -> object:
        raise RuntimeError("secret inside")

    rig.router.acquire = broken  # type: ignore[method-assign, assignment]
    rig.begin(request)
    assert request.status == 500
    assert b"secret" not in request.output
    assert rig.conclusion().error_code == "internal_error"


def test_meter_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is whole, everything is given back, and there is a record that counts nothing."""

    def broken(*_: object) -> object:
        raise RecursionError

    monkeypatch.setattr(PlainMeter, "reading", broken)
    rig, request = Rig(), FakeRequest()
    with capturedLogs() as events:
        rig.begin(request)
        response = FakeResponse(length=len(CHAT))
        sent_to(rig).answer.callback(response)
        response.piece(CHAT)
        response.end()
    assert (request.finished, request.output) == (True, CHAT)
    record = rig.conclusion()
    assert (record.outcome, record.usage_source) == ("ok", "none")
    assert [event["request_id"] for event in events if "log_failure" in event] == ["req-1"]


def test_session_is_recorded() -> None:
    """OpenCode's session and its parent are in the record."""
    rig = Rig()
    request = FakeRequest(
        b"{", headers=[(b"x-session-id", b"ses_1"), (b"x-parent-session-id", b"ses_0")]
    )
    rig.begin(request)
    record = rig.conclusion()
    assert (record.session_id, record.parent_session_id) == ("ses_1", "ses_0")


def test_compressed_stream_is_left_alone() -> None:
    """A backend that compresses unasked: nothing is withheld, and nothing broken."""
    rig = Rig()
    request = FakeRequest(b'{"model":"m","stream":true}')
    rig.begin(request)
    response = stream_response(content_encoding=b"gzip")
    sent_to(rig).answer.callback(response)
    chunk = b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
    response.piece(chunk + b"\x1f\x8b")
    response.end(PotentialDataLoss())
    assert request.output == chunk + b"\x1f\x8b"
    assert rig.conclusion().outcome == "ok"


def test_long_stream_does_not_hold_its_prompt() -> None:
    """Once the answer has begun, nothing refers to the request's body any more."""
    rig = Rig()
    body = b'{"model":"m","stream":true,"x":"%s"}' % (b"y" * 500)
    request = FakeRequest(body)
    request.body = b""
    reading: Deferred[bytes] = Deferred()
    request.body = reading
    rig.begin(request)
    rig.budget.take(len(body))
    reading.callback(body)
    response = stream_response()
    sent = sent_to(rig)
    sent.answer.callback(response)
    sent.body = b""
    del reading
    request.body = b""
    assert rig.budget.taken_bytes == 0
    holders = [one for one in gc.get_referrers(body) if one is not sys._getframe()]
    assert [one for one in holders if not inspect.isframe(one)] == []
    request.leave()


class Body(bytes):
    """A body that tells when it is gone."""

    gone: list[bool]

    def __del__(self) -> None:
        self.gone.append(True)


@pytest.mark.parametrize("ends", ["well", "refused", "left"])
def test_no_error_keeps_the_body(ends: str) -> None:
    """An error knows the frames that it came through; none of them outlives the exchange."""
    rig, request = Rig(FakeRouter(ONE, TWO), Backoff(max_retries=1)), FakeRequest()
    body = Body(b'{"model": "m"}')
    gone: list[bool] = []
    body.gone = gone
    request.body = body
    gc.disable()  # reference cycles would be found in the end, and much too late
    try:
        rig.begin(request)
        sent_to(rig).answer.errback(ConnectFailed())
        if ends == "well":
            sent_to(rig, "two").answer.callback(FakeResponse(length=2))
            response_body(rig, request)
        elif ends == "refused":
            sent_to(rig, "two").answer.errback(ConnectFailed())
        else:
            request.leave()
        assert rig.conclusion().attempts == 2
        request.body = b""
        for upstream in rig.router.upstreams.values():
            upstream.sent.clear()
        del body
        assert gone == [True]
    finally:
        gc.enable()


@pytest.mark.parametrize(("ends", "tokens"), [("well", 5), ("leaves", 8), ("refused", 0)])
def test_what_the_limits_get_back(ends: str, tokens: int) -> None:
    """The real usage of an answer, the estimate of what was not counted, nothing for a failure."""
    rig = Rig()
    request = FakeRequest(b'{"model":"m","stream":true}' if ends == "leaves" else b'{"model": "m"}')
    rig.begin(request)
    if ends == "well":
        response = FakeResponse(headers={b"Content-Type": b"application/json"}, length=len(CHAT))
        sent_to(rig).answer.callback(response)
        response.piece(CHAT)
        response.end()
    elif ends == "leaves":
        sent_to(rig).answer.callback(response := stream_response())
        response.piece(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
        request.leave()  # the prompt by its size, 7, and one event
    else:
        sent_to(rig).answer.errback(ConnectionDied())
    rig.conclusion()
    assert [grant.settled for grant in rig.limiter.grants] == [tokens]


@pytest.mark.parametrize(
    ("path", "last"),
    [
        (b"/v1/chat/completions", b"data: [DONE]\n\n"),
        (b"/v1/responses", b'data: {"type":"response.completed","response":{}}\n\n'),
        (b"/v1/messages", b'data: {"type":"message_stop"}\n\n'),
    ],
)
def test_client_leaves_at_the_last_word(path: bytes, last: bytes) -> None:
    """Whoever has had all that the stream had to say has left at its end, not before."""
    rig, request = Rig(), FakeRequest(b'{"model":"m","stream":true}', path=path)
    rig.begin(request)
    response = stream_response()
    sent_to(rig).answer.callback(response)
    response.piece(last)
    request.leave()
    record = rig.conclusion()
    assert (record.outcome, record.status, record.usage_source) == ("ok", 200, "estimated")


def test_a_backend_that_counts_nothing() -> None:
    """The record says what is charged, and that it is an estimate."""
    rig, request = Rig(), FakeRequest()
    rig.begin(request)
    body = b'{"choices":[{"message":{"content":"Hello, you"}}]}'
    response = FakeResponse(headers={b"Content-Type": b"application/json"}, length=len(body))
    sent_to(rig).answer.callback(response)
    response.piece(body)
    response.end()
    record = rig.conclusion()
    assert (record.usage_source, record.usage) == ("estimated", Usage(4, 3, 7))


def test_names_are_cut() -> None:
    """Those of models that do not exist, and all that a backend makes up: a record is small."""
    rig = Rig()
    rig.begin(FakeRequest(json.dumps({"model": "none" * 1000}).encode()))
    assert len(rig.conclusion().model) == 256
    rig, request = Rig(), FakeRequest()
    rig.begin(request)
    calls = [{"function": {"name": f"{n}" + "f" * 1000}} for n in range(200)]
    choice = {"message": {"tool_calls": calls * 2}, "finish_reason": "stop" * 1000}
    body = json.dumps({"choices": [choice]}).encode()
    response = FakeResponse(headers={b"Content-Type": b"application/json"}, length=len(body))
    sent_to(rig).answer.callback(response)
    response.piece(body)
    response.end()
    record = rig.conclusion()
    assert len(record.finish_reason) == 256
    assert (len(record.tool_calls), sum(record.tool_calls.values())) == (MOST_NAMES + 1, 400)
    assert max(map(len, record.tool_calls)) == 256
    assert record.tool_calls[OTHER_NAMES] == 2 * (200 - MOST_NAMES)


def test_an_answer_of_our_own_costs_nothing() -> None:
    """A backend that dies before the first byte of a plain answer: 502, and no bill."""
    rig, request = Rig(), FakeRequest()
    rig.begin(request)
    response = FakeResponse(headers={b"Content-Type": b"application/json"}, length=10)
    sent_to(rig).answer.callback(response)
    response.end(ResponseFailed([]))
    record = rig.conclusion()
    assert (record.status, record.usage_source, record.usage.total_tokens) == (502, "none", 0)


@pytest.mark.parametrize(
    ("piece", "status", "tokens"),
    [
        (b"", 200, 7),
        (b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\n', 200, 7 + 1),
        (b"", 503, 0),
    ],
)
def test_what_who_leaves_early_is_charged(piece: bytes, status: int, tokens: int) -> None:
    """The server has begun to work on the prompt: it counts, and what came is in the record too."""
    rig, request = Rig(), FakeRequest(b'{"model":"m","stream":true}')
    rig.begin(request)
    response = stream_response()
    response.code = status
    sent_to(rig).answer.callback(response)
    if piece:
        response.piece(piece)
    request.leave()
    assert rig.conclusion().status == 499
    assert [grant.settled for grant in rig.limiter.grants] == [tokens]


@pytest.mark.parametrize("ends", ["left", "late", "cut", "unsent", "plain", "lost"])
def test_what_is_charged_for_a_prompt_whose_head_had_not_come(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as with a head: a server may send it before the prefill or behind it."""
    body = b'{"model":"m","stream":%b}' % (b"false" if ends == "plain" else b"true")
    rig, request = Rig(), FakeRequest(body)
    monkeypatch.setattr(FakeBody, "has_begun", ends != "unsent")
    exchange = rig.begin(request)
    if ends == "late":
        rig.clock.advance(300)
    elif ends == "cut":
        exchange.cut(KeyDisabled())
    elif ends == "lost":
        sent_to(rig).answer.errback(ConnectionDied())
    else:
        request.leave()
    record = rig.conclusion()
    charged = ends in ("left", "late", "cut")
    assert (record.usage_source, record.usage.prompt_tokens, record.usage.completion_tokens) == (
        ("partial", 7, 0) if charged else ("none", 0, 0)
    )


def test_client_leaves_while_the_limits_are_asked() -> None:
    """The question is cancelled with everything else."""
    rig, request = Rig(), FakeRequest()
    rig.limiter.delay = Deferred()
    rig.begin(request)
    request.leave()
    assert rig.limiter.cancelled
    assert rig.conclusion().outcome == "client_abort"


@pytest.mark.parametrize("phase", ["attempting", "relaying", "relayed"])
def test_cut_by_the_operator(phase: str) -> None:
    """The client is told why, as an answer or as the stream's last event; the backend is let go."""
    rig, request = Rig(), FakeRequest(b'{"model":"m","stream":true}')
    exchange = rig.begin(request)
    assert exchange.key_id == "key-1"
    response = stream_response() if phase == "relayed" else FakeResponse()
    if phase != "attempting":
        sent_to(rig).answer.callback(response)
    if phase == "relayed":
        response.piece(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
    exchange.cut(KeyDisabled())
    exchange.cut(KeyDisabled())
    if phase == "relayed":
        assert request.broken_off
        last = json.loads(request.output.split(b"\n\n")[-2].removeprefix(b"data: "))["error"]
        assert (last["code"], request.status) == ("key_disabled", 200)
    else:
        assert (error_of(request)["code"], request.status) == ("key_disabled", 403)
        assert request.finished
    assert sent_to(rig).cancelled if phase == "attempting" else response.transport.stopped
    record = rig.conclusion()
    assert (record.outcome, record.error_code) == ("rejected", "key_disabled")


def test_what_a_watch_sees_of_a_stream() -> None:
    """From its first piece on, how long it has lasted and been silent; and whose it is."""
    rig = Rig()
    request = FakeRequest(b'{"model":"m","stream":true}', headers=[(b"x-session-id", b"s1")])
    exchange = rig.begin(request)
    rig.clock.advance(2)
    assert exchange.stream_age(rig.clock.seconds()) is None
    response = stream_response()
    sent_to(rig).answer.callback(response)
    rig.clock.advance(3)
    assert exchange.stream_age(rig.clock.seconds()) is None
    response.piece(b'data: {"choices":[]}\n\n')
    rig.clock.advance(1)
    assert exchange.stream_age(rig.clock.seconds()) == (6.0, 1.0)
    assert exchange.stream_alert("stalled_stream", 6.0, 1.0) == StreamAlert(
        kind="stalled_stream",
        time=1_700_000_006.0,
        request_id="req-1",
        key_id="key-1",
        key_name="tester",
        user_id="u1",
        model="m",
        backend="one",
        session_id="s1",
        duration_s=6.0,
        silent_s=1.0,
    )
    request.leave()


def test_a_plain_answer_is_no_stream() -> None:
    """However long it takes."""
    rig, request = Rig(), FakeRequest()
    exchange = rig.begin(request)
    sent_to(rig).answer.callback(FakeResponse(length=2))
    assert exchange.stream_age(1000.0) is None
    response_body(rig, request)
