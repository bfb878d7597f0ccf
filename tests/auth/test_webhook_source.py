"""Tests of `llmproxy.auth.webhook_source`, over a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.client import Agent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from llmproxy.auth.digests import DefaultIds
from llmproxy.auth.webhook_source import LIMIT_BYTES, WebhookSource
from llmproxy.backends.bounded_body import read_bounded
from llmproxy.errors import MalformedRecord, StoreUnavailable
from llmproxy.interfaces import IKeySource
from llmproxy.key_records import KeyRecord
from tests.auth import sources_contract
from tests.auth.fakes import DIGESTS, outcome
from tests.stores.reactor_case import ReactorTestCase, reactor

Answer = tuple[int, bytes]


class Service(Resource):
    """A service that answers as the test says, and notes what it was sent.

    Attributes:
        sent: What came: the headers and the decoded body.
        redirected: How many requests came to the place that a redirect names.
    """

    isLeaf = True

    def __init__(self, answer: Callable[[str], Answer | None]) -> None:
        super().__init__()
        self._answer = answer
        self.sent: list[tuple[Request, Any]] = []
        self.redirected = 0

    def render(self, request: Request) -> bytes | int:
        """Answer; None: never."""
        if request.path == b"/elsewhere":
            self.redirected += 1
            return b'{"status": "active"}'
        assert request.content is not None
        body = json.loads(request.content.read())
        self.sent.append((request, body))
        answer = self._answer(body["api_key"])
        if answer is None:
            request.notifyFinish().addErrback(lambda _: None)
            return NOT_DONE_YET
        request.setResponseCode(answer[0])
        request.setHeader(b"location", b"/elsewhere")
        request.setHeader(b"set-cookie", b"session=of-one-key")
        return answer[1]


class WebhookCase(ReactorTestCase):
    """Has a service on a loopback port."""

    def serve(self, answer: Callable[[str], Answer | None]) -> None:
        """Start it."""
        self.service = Service(answer)
        port = reactor.listenTCP(0, Site(self.service), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.url = f"http://127.0.0.1:{port.getHost().port}/keys?from=gateway"

    def make_source(self, **options: Any) -> IKeySource:
        """Make the source."""
        settings: dict[str, Any] = {
            "url": self.url,
            "headers": {"X-Token": "canary"},
            "timeout_s": 10.0,
            "new_client": lambda: HTTPClient(Agent(reactor)),
            "read_body": read_bounded,
            "clock": reactor,
            "now": lambda: sources_contract.NOW_S,
            "ids": DefaultIds("iam", DIGESTS),
            **options,
        }
        return WebhookSource("iam", **settings)


class ContractTests(WebhookCase, sources_contract.SourceContract):
    """The suite over a service that answers with the fields of a record."""

    keeps_nul = True

    def setUp(self) -> None:
        """Begin without keys."""
        self.held: dict[str, bytes] = {}
        self.serve(lambda key: (200, self.held[key]) if key in self.held else (404, b"{}"))

    async def put(self, key: str, record: KeyRecord) -> None:
        """Hold it."""
        quota = record.quota
        self.held[key] = json.dumps(
            {
                "id": record.id,
                "name": record.name,
                "user_id": record.user_id,
                "status": record.status,
                "allowed_models": record.allowed_models,
                "allowed_ips": record.allowed_ips,
                "denied_ips": record.denied_ips,
                "starts_at": record.starts_at_s,
                "expires_at": record.expires_at_s,
                "total_quota": quota and quota.total,
                "used_quota": quota and quota.used_before,
                "quota_reset_period": quota and quota.period,
                "rate_limit": record.own_limits and attrs.asdict(record.own_limits),
                "metadata": record.metadata,
            }
        ).encode()


class AnswerTests(WebhookCase):
    """What single answers mean."""

    async def found(self, status: int, body: bytes) -> KeyRecord | None:
        """Give what a source makes of an answer."""
        self.serve(lambda _: (status, body))
        return await self.make_source().find("sk-one")

    async def test_what_is_sent(self) -> None:
        """The key and the time, with the configured headers, to the URL as it is."""
        await self.found(200, b'{"user_id": "ann"}')
        ((request, body),) = self.service.sent
        assert body == {"api_key": "sk-one", "timestamp": int(sources_contract.NOW_S)}
        assert (request.method, request.uri) == (b"POST", b"/keys?from=gateway")
        assert request.getHeader("x-token") == "canary"
        assert request.getHeader("content-type") == "application/json"

    async def test_no_cookies(self) -> None:
        """What came with one key's answer does not go with the next question."""
        self.serve(lambda _: (200, b'{"user_id": "ann"}'))
        source = self.make_source()
        await source.find("sk-one")
        await source.find("sk-two")
        assert [request.getHeader("cookie") for request, _ in self.service.sent] == [None, None]

    async def test_go_form(self) -> None:
        """A code of 0 is a good key, without a status of its own; any other is none."""
        good = await self.found(200, b'{"code": 0, "message": "ok", "user_id": "ann"}')
        assert good is not None
        assert (good.user_id, good.status) == ("ann", "active")
        bare = await self.found(200, b'{"code": 0}')
        assert bare is not None
        assert bare.status == "active"
        bad = await self.found(200, b'{"code": 1001, "message": "no such key", "user_id": "ann"}')
        assert bad is not None
        assert bad.status == "disabled"
        both = await self.found(200, b'{"code": 0, "status": "disabled"}')
        assert both is not None
        assert both.status == "disabled"

    async def test_statuses_that_say_something(self) -> None:
        """Unknown, disabled, spent; whatever the body."""
        for status in (401, 404):
            assert await self.found(status, b"<html>") is None
        disabled, spent = await self.found(403, b""), await self.found(402, b"")
        assert disabled is not None
        assert spent is not None
        assert (disabled.status, spent.status) == ("disabled", "quota_exceeded")

    async def test_statuses_that_say_nothing(self) -> None:
        """Anything else is an outage; redirects are not followed."""
        for status in (201, 204, 301, 302, 307, 308, 400, 405, 429, 500, 503):
            self.serve(lambda _, status=status: (status, b'{"status": "active"}'))  # type: ignore[misc]
            await self.assertFailure(self.make_source().find("sk-one"), StoreUnavailable)
            assert self.service.redirected == 0

    async def test_bodies_that_say_nothing(self) -> None:
        """Only an object with a key's fields is a record."""
        for body in (
            b"",
            b"ok",
            b"[]",
            b"true",
            b"{}",
            b'{"valid": true}',
            b"\xff",
            b'{"code": "0"}',
        ):
            self.serve(lambda _, body=body: (200, body))  # type: ignore[misc]
            await self.assertFailure(self.make_source().find("sk-one"), MalformedRecord)

    async def test_long_body(self) -> None:
        """Too long an answer is not read to its end."""
        longest = b'{"name": "n"}'.ljust(LIMIT_BYTES)
        assert await self.found(200, longest) is not None
        self.serve(lambda _: (200, longest + b" "))
        await self.assertFailure(self.make_source().find("sk-one"), StoreUnavailable)

    async def test_service_that_is_not_there(self) -> None:
        """The reason is told, and nothing of the question."""
        self.url = "http://127.0.0.1:1/"
        error = await self.assertFailure(self.make_source().find("sk-one"), StoreUnavailable)
        assert "sk-one" not in str(error)
        assert "canary" not in str(error)
        assert str(error)

    async def test_service_that_hangs(self) -> None:
        """The question ends with its time, and with it the connection."""
        self.serve(lambda _: None)
        clock = Clock()
        asked = self.make_source(clock=clock, timeout_s=5.0).find("sk-one")
        await self.until(lambda: bool(self.service.sent), "the question")
        clock.advance(5.0)
        error = await self.assertFailure(asked, StoreUnavailable)
        assert "no answer within 5 s" in str(error)

    async def test_cancelling(self) -> None:
        """Cancelling ends the question."""
        self.serve(lambda _: None)
        asked = self.make_source().find("sk-one")
        await self.until(lambda: bool(self.service.sent), "the question")
        gone: list[Any] = []
        self.service.sent[0][0].notifyFinish().addErrback(gone.append)
        asked.addErrback(lambda _: None)
        asked.cancel()
        await self.until(lambda: bool(gone), "the end of the connection")


def test_cancelled_before_it_was_sent() -> None:
    """A client that never answers is let go, and no timer stays."""

    class Silent:
        """Never answers."""

        def request(self, method: str, url: str, **arguments: Any) -> Deferred[Any]:
            """Let it wait."""
            return Deferred()

    clock = Clock()
    source = WebhookSource(
        "iam",
        url="http://192.0.2.1/",
        headers={},
        timeout_s=1.0,
        new_client=Silent,
        read_body=read_bounded,
        clock=clock,
        now=lambda: 0.0,
        ids=DefaultIds("iam", DIGESTS),
    )
    asked = source.find("sk-one")
    asked.addErrback(lambda _: None)
    asked.cancel()
    assert clock.getDelayedCalls() == []
    waiting = source.find("sk-one")
    clock.advance(1.0)
    assert outcome(waiting) is StoreUnavailable
