"""Tests of `llmproxy.health.checker`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any, cast

import pytest
from treq.client import HTTPClient
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectBindError, ConnectionRefusedError
from twisted.internet.error import TimeoutError as ConnectTimedOut
from twisted.internet.task import Clock, deferLater
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from llmproxy.config.model import HealthCheck
from llmproxy.config.setting import Duration
from llmproxy.health.checker import LIMIT_BYTES, HealthChecker, is_loading
from llmproxy.health.thresholds import Health
from llmproxy.interfaces import IBackendActivity, IHealthSink
from llmproxy.values import Backend
from tests.backends.fake_agent import Asked, FakeAgent, respond

reactor: Any = global_reactor

LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'


@pytest.mark.parametrize(
    ("body", "loading"),
    [
        (LOADING, True),
        (b'{"error":{"message":"loading model tiny"}}', True),
        (b'{"error":{"message":"busy"}}', False),
        (b'{"error":{"message":3}}', False),
        (b'{"error":"Loading model"}', False),
        (b'["Loading model"]', False),
        (b"Loading model", False),
        (b'"\xff', False),
        (b"[" * 60_000, False),
        (b"", False),
    ],
)
def test_is_loading(body: bytes, loading: bool) -> None:
    """Only llama.cpp's own words count."""
    assert is_loading(body) is loading


@implementer(IHealthSink)
class Sink:
    """Keeps the verdicts."""

    def __init__(self) -> None:
        self.verdicts: list[tuple[str, str]] = []
        self.reasons: list[str] = []

    def set_health(self, name: str, state: str, reason: str) -> None:
        """Keep one."""
        self.verdicts.append((name, state))
        self.reasons.append(reason)


@implementer(IBackendActivity)
class Activity:
    """Says when the last pieces came.

    Attributes:
        last_s: By backend.
    """

    def __init__(self) -> None:
        self.last_s: dict[str, float] = {}

    def last_piece_s(self, name: str) -> float:
        """Give it."""
        return self.last_s.get(name, float("-inf"))


class Never(Random):
    """No chance at all: every delay is the shortest."""

    def uniform(self, a: float, b: float) -> float:
        """Give the lower end."""
        return a


def backend(name: str = "a") -> Backend:
    """Make an identity."""
    return Backend(
        name=name,
        url=f"http://{name}.test/up".encode(),
        host=b"virtual.test",
        headers=((b"Authorization", b"Bearer up"),),
    )


class HealthCheckerTests(TestCase):
    """Backends are asked in time, and what follows from the answers is told."""

    def setUp(self) -> None:
        """Make a clock, an agent, a sink, and a place for what is logged."""
        self.clock = Clock()
        self.agent = FakeAgent()
        self.sink = Sink()
        self.activity = Activity()
        self.logged: list[str] = []
        self.observer = cast(ILogObserver, self.keep)
        globalLogPublisher.addObserver(self.observer)
        self.addCleanup(globalLogPublisher.removeObserver, self.observer)

    def keep(self, event: LogEvent) -> None:
        """Keep the levels of what the checker logs."""
        if "checker" in str(event.get("log_namespace")):
            self.logged.append(event["log_level"].name)

    def begin(
        self,
        *backends: Backend,
        rule: Callable[[Asked], None] | None = None,
        random: Random | None = None,
        known: dict[str, tuple[Health, str]] | None = None,
        **settings: Any,
    ) -> HealthChecker:
        """Start a checker; without chance unless the test brings some."""
        self.agent.rule = rule
        checker = HealthChecker(
            backends or (backend(),),
            HealthCheck(**settings),
            client_for=lambda one: self.agent.client(),
            sink=self.sink,
            activity=self.activity,
            is_ours=lambda error: isinstance(error, ConnectBindError),
            clock=self.clock,
            random=random or Never(),
            known=known,
        )
        checker.startService()

        def end() -> None:
            if checker.running:
                self.end(checker)
            self.assertEqual(self.clock.getDelayedCalls(), [])

        self.addCleanup(end)
        return checker

    def end(self, checker: HealthChecker) -> None:
        """Stop the checker, which must be done at once."""
        done: list[Any] = []
        checker.stopService().addCallback(done.append)
        self.assertEqual(len(done), 1)

    def rounds(self, count: int) -> None:
        """Let so many further rounds come."""
        for _ in range(count):
            self.clock.advance(10.0)
            self.clock.advance(0)

    def test_what_was_known_before(self) -> None:
        """It is where the checks go on from: nothing is told but what changes."""
        self.begin(
            backend("a"),
            backend("b"),
            rule=respond(200),
            known={"a": ("down", "no answer")},
            healthy_threshold=2,
        )
        self.assertEqual(self.sink.verdicts, [])
        self.rounds(1)
        self.assertEqual(self.sink.verdicts, [("a", "up")])

    def test_question(self) -> None:
        """The configured path is asked for below the prefix, with the backend's own fields."""
        self.begin(path="ping", method="HEAD")
        (asked,) = self.agent.asked
        self.assertEqual((asked.method, asked.url), (b"HEAD", b"http://a.test/up/ping"))
        self.assertEqual(asked.headers.getRawHeaders("Host"), ["virtual.test"])
        self.assertEqual(asked.headers.getRawHeaders("Authorization"), ["Bearer up"])

    def test_default_question(self) -> None:
        """By default that is GET /health."""
        self.begin()
        (asked,) = self.agent.asked
        self.assertEqual((asked.method, asked.url), (b"GET", b"http://a.test/up/health"))

    def test_healthy(self) -> None:
        """A backend that passes is asked on and on, and nothing is said."""
        checker = self.begin(rule=respond(200, b"ok"))
        self.rounds(3)
        self.assertEqual(len(self.agent.asked), 4)
        self.assertEqual((self.sink.verdicts, self.logged), ([], []))
        self.assertEqual(repr(checker), "<HealthChecker a: up>")

    def test_down_and_up(self) -> None:
        """Three failures in a row take a backend out, two passes bring it back."""
        self.begin(rule=respond(500))
        self.rounds(1)
        self.assertEqual(self.sink.verdicts, [])
        self.rounds(1)
        self.assertEqual(self.sink.verdicts, [("a", "down")])
        self.assertEqual(self.sink.reasons, ["it answered 500, not 200"])
        self.rounds(2)
        self.agent.rule = respond(200)
        self.rounds(1)
        self.assertEqual(self.sink.verdicts, [("a", "down")])
        self.rounds(1)
        self.assertEqual(self.sink.verdicts, [("a", "down"), ("a", "up")])
        self.assertEqual(self.sink.reasons[1], "")
        self.assertEqual(self.logged, ["warn", "info"])

    def test_new_reason_while_down(self) -> None:
        """The sink learns why a backend is down now; the log is not filled with it."""
        self.begin(rule=respond(500), unhealthy_threshold=1)
        self.agent.rule = lambda asked: asked.fail(ConnectionRefusedError())
        self.rounds(2)
        self.assertEqual(self.sink.verdicts, [("a", "down")] * 2)
        self.assertIn("refused", self.sink.reasons[1])
        self.assertEqual(self.logged, ["warn"])

    def test_expected_status(self) -> None:
        """What is expected can be something else than 200."""
        self.begin(rule=respond(204), expected_status=204, unhealthy_threshold=1)
        self.assertEqual(self.sink.verdicts, [])
        self.agent.rule = respond(200)
        self.rounds(1)
        self.assertEqual(self.sink.verdicts, [("a", "down")])

    def test_redirect_is_an_answer(self) -> None:
        """A redirect is not followed: the backend's key goes nowhere else."""
        self.begin(rule=respond(302), unhealthy_threshold=1)
        self.assertEqual(len(self.agent.asked), 1)
        self.assertEqual(self.sink.reasons, ["it answered 302, not 200"])

    def test_timeout(self) -> None:
        """No answer in time is a failure, and the connection is given up."""
        self.begin(unhealthy_threshold=1)
        self.clock.advance(4.9)
        self.assertEqual(self.sink.verdicts, [])
        self.clock.advance(0.1)
        self.assertTrue(self.agent.asked[0].cancelled)
        self.assertEqual(self.sink.reasons, ["no answer within 5 s"])

    def test_timeout_while_streams_move(self) -> None:
        """A backend that is too busy to answer is not condemned, however long that lasts."""
        self.begin(unhealthy_threshold=1)
        for _ in range(20):
            self.activity.last_s["a"] = self.clock.seconds()
            self.clock.pump([5.0, 5.0, 0.0])
        self.assertEqual(len(self.agent.asked), 21)
        self.assertTrue(all(asked.cancelled for asked in self.agent.asked[:-1]))
        self.assertEqual((self.sink.verdicts, self.logged), ([], ["debug"] * 20))

    def test_connect_timeout_while_streams_move(self) -> None:
        """Nor is one that is too busy to take the connection."""
        self.activity.last_s["a"] = 0.0
        self.begin(rule=lambda asked: asked.fail(ConnectTimedOut()), unhealthy_threshold=1)
        self.assertEqual((self.sink.verdicts, self.logged), ([], ["debug"]))
        self.rounds(2)
        self.assertEqual(self.sink.verdicts, [("a", "down")])

    def test_failures_of_ours(self) -> None:
        """A check that we lacked something for says nothing of the backend."""
        self.begin(rule=lambda asked: asked.fail(ConnectBindError(24)), unhealthy_threshold=1)
        self.rounds(3)
        self.assertEqual((self.sink.verdicts, self.logged), ([], []))

    def test_timeout_while_streams_stall(self) -> None:
        """Pieces that came before the last turn do not count, nor those of another backend."""
        self.begin(unhealthy_threshold=1)
        self.activity.last_s.update(a=-5.1, b=5.0)
        self.clock.advance(5.0)
        self.assertEqual(self.sink.verdicts, [("a", "down")])

    def test_other_failures_while_streams_move(self) -> None:
        """Who refuses, or says that it is not well, is believed."""
        self.activity.last_s["a"] = 0.0
        self.begin(rule=respond(500), unhealthy_threshold=1)
        self.assertEqual(self.sink.verdicts, [("a", "down")])

    def test_timeouts_do_not_bring_it_back(self) -> None:
        """A backend that is down stays so while it does not answer, whatever still moves."""
        self.begin(rule=respond(500), unhealthy_threshold=1)
        self.agent.rule = None
        self.activity.last_s["a"] = 1000.0
        self.rounds(5)
        self.assertEqual(self.sink.verdicts, [("a", "down")])

    def test_timeout_inside_the_body(self) -> None:
        """An answer that does not end is not one."""
        self.begin(unhealthy_threshold=1)
        self.agent.asked[0].begin(200, b"o")
        self.clock.advance(5.0)
        self.assertTrue(self.agent.asked[0].transport.closed)
        self.assertEqual(self.sink.reasons, ["no answer within 5 s"])

    def test_long_body(self) -> None:
        """A body is read only so far; the status counts all the same."""
        self.begin(unhealthy_threshold=1, healthy_threshold=1)
        self.agent.asked[0].begin(200, b"x" * (LIMIT_BYTES + 1))
        self.assertTrue(self.agent.asked[0].transport.closed)
        self.clock.advance(5.0)
        self.assertEqual(self.sink.verdicts, [])

    def test_loading(self) -> None:
        """A backend that loads its model is that at once, for as long as it takes, then up."""
        checker = self.begin(rule=respond(503, LOADING))
        self.assertEqual(self.sink.verdicts, [("a", "loading")])
        self.assertEqual(repr(checker), "<HealthChecker a: loading>")
        self.rounds(9)
        self.assertEqual(self.sink.verdicts, [("a", "loading")])
        self.agent.rule = respond(200)
        self.rounds(1)
        self.assertEqual(self.sink.verdicts, [("a", "loading"), ("a", "up")])
        self.assertEqual(self.logged, ["info", "info"])

    def test_other_503_is_a_failure(self) -> None:
        """Only who says that it loads is loading."""
        self.begin(rule=respond(503, b"busy"), unhealthy_threshold=1)
        self.assertEqual(self.sink.verdicts, [("a", "down")])

    def test_each_for_itself(self) -> None:
        """One backend's failures are not another's, nor its silence."""

        def rule(asked: Asked) -> None:
            if asked.url.startswith(b"http://b"):
                asked.answer(500)

        self.begin(backend("a"), backend("b"), rule=rule, unhealthy_threshold=1)
        self.assertEqual(self.sink.verdicts, [("b", "down")])

    def test_never_overlaps(self) -> None:
        """A check that takes longer than the interval is the only one of its backend."""
        self.begin(interval=1.0, timeout=3.5)
        self.clock.pump([0.5] * 6)
        self.assertEqual(len(self.agent.asked), 1)
        self.clock.pump([0.5] * 3)
        self.assertEqual(len(self.agent.asked), 2)

    def test_failing_sink_does_not_end_the_checks(self) -> None:
        """A bug in whoever takes the verdicts is logged, and the next check comes."""
        self.sink.verdicts = ()  # type: ignore[assignment]
        globalLogPublisher.removeObserver(self.observer)
        self.begin(rule=respond(500), unhealthy_threshold=1)
        self.rounds(1)
        globalLogPublisher.addObserver(self.observer)
        self.assertEqual(len(self.agent.asked), 2)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_stop_cancels(self) -> None:
        """Stopping gives the checks up, and they do not count."""
        checker = self.begin(backend("a"), backend("b"), unhealthy_threshold=1)
        self.agent.asked[1].begin(200, b"o")
        self.end(checker)
        self.assertTrue(self.agent.asked[0].cancelled)
        self.assertTrue(self.agent.asked[1].transport.closed)
        self.assertEqual((self.sink.verdicts, self.logged), ([], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_while_waiting(self) -> None:
        """Also a check that waits for its moment is given up."""
        checker = self.begin(rule=respond(200), random=Random(1))
        self.clock.advance(1.0)
        self.clock.advance(9.0)
        self.end(checker)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_jitter(self) -> None:
        """First checks come within a second, later ones at the interval, give or take a tenth."""
        times: dict[bytes, list[float]] = {}

        def rule(asked: Asked) -> None:
            times.setdefault(asked.url, []).append(self.clock.seconds())
            asked.answer(200)

        backends = [backend(f"b{i}") for i in range(10)]
        self.begin(*backends, rule=rule, random=Random(1))
        self.clock.pump([0.05] * 2000)
        firsts = [seen[0] for seen in times.values()]
        self.assertEqual(len(firsts), 10)
        self.assertLess(max(firsts), 1.1)
        self.assertGreater(max(firsts) - min(firsts), 0.3)
        gaps = [later - earlier for seen in times.values() for earlier, later in pairwise(seen)]
        self.assertGreater(len(gaps), 80)
        self.assertGreaterEqual(min(gaps), 8.89)
        self.assertLessEqual(max(gaps), 11.11)
        self.assertGreater(max(gaps) - min(gaps), 1.0)

    def test_short_interval(self) -> None:
        """With an interval below a second the first check comes within it."""
        self.begin(rule=respond(200), random=Random(3), interval=0.1)
        self.clock.pump([0.01] * 11)
        self.assertGreaterEqual(len(self.agent.asked), 1)


class HangingResource(Resource):
    """Begins an answer and does not end it."""

    isLeaf = True

    def render_GET(self, request: Request) -> int:
        """Begin."""
        request.write(b"o")
        return NOT_DONE_YET


class RealConnectionTests(TestCase):
    """Twisted's own agent and server, on loopback."""

    async def checked(self, resource: Resource | None, **settings: Any) -> tuple[str, str]:
        """Serve the resource, or nothing, until the checker's first verdict; give it."""
        port = reactor.listenTCP(0, Site(resource or Resource()), interface="127.0.0.1")
        url = f"http://127.0.0.1:{port.getHost().port}"
        if resource is None:
            await port.stopListening()
        verdict: Deferred[tuple[str, str]] = Deferred()

        @implementer(IHealthSink)
        class First:
            def set_health(self, name: str, state: str, reason: str) -> None:
                if not verdict.called:
                    verdict.callback((state, reason))

        client = HTTPClient(Agent(reactor))
        checker = HealthChecker(
            [Backend(name="a", url=url.encode(), host=b"a.test")],
            HealthCheck(unhealthy_threshold=2, interval=Duration(0.02), **settings),
            client_for=lambda one: client,
            sink=First(),
            activity=Activity(),
            is_ours=lambda _: False,
            clock=reactor,
            random=Random(1),
        )
        checker.startService()
        try:
            return await verdict
        finally:
            await checker.stopService()
            await deferLater(reactor, 0.02)  # the last connection's end
            if resource is not None:
                await port.stopListening()

    async def test_refused(self) -> None:
        """Nobody listens."""
        state, reason = await self.checked(None)
        self.assertEqual(state, "down")
        self.assertIn("refused", reason)

    async def test_hanging(self) -> None:
        """An answer that does not end is given up, and leaves no connection open."""
        self.assertEqual(
            await self.checked(HangingResource(), timeout=Duration(0.05)),
            ("down", "no answer within 0.05 s"),
        )

    async def test_loading(self) -> None:
        """llama-server's answer while it loads."""

        class Loading(Resource):
            isLeaf = True

            def render_GET(self, request: Request) -> bytes:
                request.setResponseCode(503)
                return LOADING

        self.assertEqual(await self.checked(Loading()), ("loading", "it is loading its model"))
