"""Tests of `llmproxy.limits.redis_outage`."""

from __future__ import annotations

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import provider

from llmproxy.errors import RedisReplyError, StoreUnavailable
from llmproxy.limits.redis_outage import RedisOutage


class RedisOutageTests(SynchronousTestCase):
    """When it is told, and to whom."""

    def setUp(self) -> None:
        """Listen to what is logged."""
        self.logged: list[str] = []

        @provider(ILogObserver)
        def note(event: LogEvent) -> None:
            self.logged.append(formatEvent(event))

        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)

    def test_told_once(self) -> None:
        """One line when it begins, one when it is over; every failure is counted."""
        back: list[int] = []
        outage = RedisOutage(lambda: back.append(len(self.logged)))
        outage.succeeded()
        assert (self.logged, back, outage.lasts) == ([], [], False)
        for _ in range(3):
            outage.failed(StoreUnavailable("no connection"))
        assert repr(outage) == "<RedisOutage lasts=True failures=3>"
        assert self.logged == ["limits cannot be counted in redis: no connection"]
        outage.succeeded()
        outage.succeeded()
        assert back == [2]
        assert self.logged[1:] == ["limits are counted in redis again"]
        outage.failed(StoreUnavailable("again"))
        assert len(self.logged) == 3
        assert outage.failures == 4

    def test_full_or_a_replica(self) -> None:
        """Where only reading succeeds, the outage lasts: it is not over at every refusal."""
        back: list[int] = []
        outage = RedisOutage(lambda: back.append(1))
        for _ in range(3):
            outage.failed(StoreUnavailable("it answers OOM"))
            outage.succeeded(wrote=False)
        assert (len(self.logged), back, outage.lasts) == (1, [], True)
        outage.succeeded()
        assert (len(self.logged), back, outage.lasts) == (2, [1], False)

    def test_errors_of_one_key(self) -> None:
        """What one key in Redis is in the way of is no outage of all, and told once."""
        back: list[int] = []
        outage = RedisOutage(lambda: back.append(1))
        for _ in range(3):
            outage.failed(RedisReplyError("WRONGTYPE"))
            outage.succeeded()
        assert (len(self.logged), back, outage.failures) == (1, [], 3)
        outage.failed(RedisReplyError("ERR other"))
        assert (len(self.logged), outage.lasts) == (2, False)
