"""Tests of `llmproxy.usage.webhook_sink`, over real receivers on loopback ports."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from standardwebhooks.webhooks import Webhook
from twisted.internet.defer import CancelledError
from twisted.internet.protocol import Factory, Protocol
from twisted.web.client import Agent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from llmproxy.backends.bounded_body import read_bounded
from llmproxy.backends.reasons import reason_of
from llmproxy.deliveries import Batch
from llmproxy.errors import DeliveryFailed, ReceiverGone
from llmproxy.usage.webhook_sink import WebhookSink
from llmproxy.wire.usage_record import encode_alert, encode_record
from tests.stores.reactor_case import ReactorTestCase, reactor
from tests.usage.rig import alert, record

KEYS = (b"k" * 24, b"p" * 24)
BATCH = Batch("msg_1", "usage", tuple(encode_record(record(name)) for name in "abc"))

Answer = tuple[int, dict[bytes, bytes], bytes]


class Receiver(Resource):
    """Answers as the test says.

    Attributes:
        came: The requests and their bodies.
        answer: Gives the answer to each; None: never.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.came: list[tuple[Request, bytes]] = []
        self.answer: Callable[[int], Answer | None] = lambda _: (204, {}, b"")

    def render(self, request: Request) -> bytes | int:
        """Answer."""
        assert request.content is not None
        self.came.append((request, request.content.read()))
        answer = self.answer(len(self.came))
        if answer is None:
            request.notifyFinish().addErrback(lambda _: None)
            return NOT_DONE_YET
        request.setResponseCode(answer[0])
        for name, value in answer[1].items():
            request.setHeader(name, value)
        return answer[2]


class WebhookSinkTests(ReactorTestCase):
    """What is sent, and what follows from each answer."""

    def setUp(self) -> None:
        """Listen."""
        self.receiver = Receiver()
        self.port = reactor.listenTCP(0, Site(self.receiver), interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.now_s = float(int(reactor.seconds()))

    def sink(self, **options: Any) -> WebhookSink:
        """Make it."""
        settings: dict[str, Any] = {
            "url": f"http://127.0.0.1:{self.port.getHost().port}/usage?from=gateway",
            "headers": {"X-Token": "canary", "User-Agent": "billing-feed"},
            "keys": KEYS,
            "message_format": "batch",
            "timeout_s": 10.0,
            "agent": Agent(reactor),
            "read_body": read_bounded,
            "reason_of": reason_of,
            "clock": reactor,
            "now": lambda: self.now_s,
            **options,
        }
        return WebhookSink(**settings)

    def headers(self, number: int) -> dict[str, str]:
        """Give the fields of a request that came."""
        fields = self.receiver.came[number][0].requestHeaders.getAllRawHeaders()
        return {name.decode().lower(): values[0].decode() for name, values in fields}

    async def failure(self, sink: WebhookSink, batch: Batch = BATCH) -> DeliveryFailed:
        """Deliver in vain; say why."""
        try:
            await sink.deliver(batch)
        except DeliveryFailed as error:
            return error
        raise AssertionError("it was delivered")

    async def test_what_is_sent(self) -> None:
        """A message that verifies with either secret, and nothing that is not wanted."""
        await self.sink().deliver(BATCH)
        ((request, body),) = self.receiver.came
        assert (request.method, request.uri) == (b"POST", b"/usage?from=gateway")
        headers = self.headers(0)
        for key in KEYS:
            sent = Webhook("whsec_" + b64encode(key).decode()).verify(body, headers)
            assert sent["type"] == "usage.batch"
            assert [one["id"] for one in sent["data"]["records"]] == ["a", "b", "c"]
        assert headers["webhook-id"] == "msg_1"
        assert headers["webhook-signature"].count("v1,") == 2
        assert headers["content-type"] == "application/json"
        assert (headers["x-token"], headers["user-agent"]) == ("canary", "billing-feed")
        assert headers["content-length"] == str(len(body))
        assert not {"cookie", "accept-encoding", "transfer-encoding"} & set(headers)

    async def test_without_a_secret(self) -> None:
        """There is an id and a time, and no signature."""
        await self.sink(keys=(), headers={}).deliver(BATCH)
        headers = self.headers(0)
        assert "webhook-signature" not in headers
        assert headers["webhook-timestamp"] == str(int(self.now_s))
        assert headers["user-agent"].startswith("llmproxy/")

    async def test_the_same_message_at_every_try(self) -> None:
        """The same id and bytes; the time is that of the try."""
        self.receiver.answer = lambda count: (500 if count == 1 else 200, {}, b"")
        sink = self.sink()
        assert str(await self.failure(sink)) == "it answered 500"
        self.now_s += 100
        await sink.deliver(BATCH)
        assert self.receiver.came[0][1] == self.receiver.came[1][1]
        first, second = self.headers(0), self.headers(1)
        assert first["webhook-id"] == second["webhook-id"]
        assert int(second["webhook-timestamp"]) == int(first["webhook-timestamp"]) + 100
        assert first["webhook-signature"] != second["webhook-signature"]

    async def test_single_records(self) -> None:
        """One after the other, each under an id of its own; those that were taken come once."""
        self.receiver.answer = lambda count: (500 if count == 2 else 200, {}, b"")
        sink = self.sink(message_format="single")
        assert sink.kinds == {"usage"}
        await self.failure(sink)
        await sink.deliver(BATCH)
        assert [json.loads(body)["id"] for _, body in self.receiver.came] == ["a", "b", "b", "c"]
        ids = [self.headers(n)["webhook-id"] for n in range(4)]
        assert ids == ["msg_1_0", "msg_1_1", "msg_1_1", "msg_1_2"]
        secret = "whsec_" + b64encode(KEYS[0]).decode()
        Webhook(secret).verify(self.receiver.came[3][1], self.headers(3))
        await sink.deliver(Batch("msg_2", "usage", BATCH.events))
        assert len(self.receiver.came) == 7

    async def test_alerts(self) -> None:
        """A message for each."""
        sink = self.sink()
        assert sink.kinds == {"usage", "alert"}
        await sink.deliver(Batch("msg_9", "alert", (encode_alert(alert("x")),)))
        assert json.loads(self.receiver.came[0][1])["data"]["request_id"] == "x"

    async def test_any_2xx_is_enough(self) -> None:
        """Whatever the body is, as long as it may be, and however it ends."""
        self.receiver.answer = lambda count: (200 + count, {}, b"x" * (1 << 20))
        sink = self.sink()
        for _ in range(3):
            await sink.deliver(BATCH)
        assert len(self.receiver.came) == 3

    async def test_who_is_gone(self) -> None:
        """410 says so."""
        self.receiver.answer = lambda _: (410, {}, b"")
        with self.assertRaises(ReceiverGone):
            await self.sink().deliver(BATCH)

    async def test_who_has_too_much_to_do(self) -> None:
        """Seconds or a date; nonsense and other statuses say nothing."""
        self.now_s = 1_800_000_000.0
        for status, value, expected in (
            (429, b"120", 120.0),
            (503, b" 7 ", 7.0),
            (503, b"Fri, 15 Jan 2027 08:01:00 GMT", 60.0),
            (503, b"Fri, 15 Jan 2027 08:01:00 -0000", 60.0),
            (503, b"Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
            (429, b"9" * 50, 999_999_999.0),
            (429, b"soon", None),
            (429, b"Fri, 31 Dec 99999999999 23:59:59 GMT", None),
            (429, b"Fri, 31 Dec 1999 23:59:59 +9999999999999", None),
            (429, b"-5", None),
            (500, b"120", None),
        ):
            self.receiver.answer = lambda _, s=status, v=value: (s, {b"retry-after": v}, b"")  # type: ignore[misc]
            error = await self.failure(self.sink())
            assert (str(error), error.retry_after_s) == (f"it answered {status}", expected), value
        self.receiver.answer = lambda _: (429, {}, b"")
        assert (await self.failure(self.sink())).retry_after_s is None

    async def test_no_redirect_is_followed(self) -> None:
        """Records go where the operator said, and nowhere else; no cookie is kept."""
        fields = {b"location": b"/elsewhere", b"set-cookie": b"a=b"}
        for status in (301, 302, 303, 307, 308):
            self.receiver.answer = lambda _, s=status: (s, fields, b"")  # type: ignore[misc]
            assert str(await self.failure(self.sink())) == f"it answered {status}"
        assert len(self.receiver.came) == 5
        assert all("cookie" not in self.headers(n) for n in range(5))

    async def test_who_does_not_answer(self) -> None:
        """It has its time."""
        self.receiver.answer = lambda _: None
        assert str(await self.failure(self.sink(timeout_s=0.05))) == "no answer within 0.05 s"

    async def test_an_answer_whose_body_does_not_end(self) -> None:
        """The status has said it all."""
        self.serve_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", closes=False)
        await self.sink(timeout_s=0.1).deliver(BATCH)
        self.serve_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await self.sink().deliver(BATCH)

    async def test_who_cuts_connections(self) -> None:
        """Before an answer, or in the middle of its head; or answers with something else."""
        for answer in (b"", b"HTTP/1.1 200", b"SSH-2.0-OpenSSH_9.6\r\n"):
            self.serve_bytes(answer)
            assert str(await self.failure(self.sink()))

    async def test_who_is_down(self) -> None:
        """The reason is for people."""
        sink = self.sink()
        await self.port.stopListening()
        assert "refused" in str(await self.failure(sink))

    async def test_cancelling(self) -> None:
        """The connection is closed; it is no failure of the receiver's."""
        self.receiver.answer = lambda _: None
        delivering = self.sink().deliver(BATCH)
        await self.until(lambda: bool(self.receiver.came))
        gone = self.receiver.came[0][0].notifyFinish()
        delivering.cancel()
        with self.assertRaises(CancelledError):
            await delivering
        with self.assertRaises(Exception):  # noqa: B017 - the connection was lost, whyever
            await gone

    def serve_bytes(self, answer: bytes, *, closes: bool = True) -> None:
        """Listen instead with something that answers these bytes."""

        class Raw(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(answer)
                if closes:
                    self.transport.loseConnection()

        self.port = reactor.listenTCP(0, Factory.forProtocol(Raw), interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
