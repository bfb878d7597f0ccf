"""A data path between a fake client and fake backends, in memory, on a clock of the test's."""

from __future__ import annotations

from twisted.internet.task import Clock
from zope.interface import implementer

from llmproxy.errors import GatewayError
from llmproxy.interfaces import IReporter
from llmproxy.proxy.admission import Admission
from llmproxy.proxy.budget import ByteBudget
from llmproxy.proxy.exchange import DataPath, Exchange
from llmproxy.proxy.tries import RetryRules
from llmproxy.timeouts import Timeouts
from llmproxy.values import UsageRecord
from llmproxy.wire.backoff import Backoff
from llmproxy.wire.fields import FieldRules
from llmproxy.wire.retry_budget import RetryBudget
from tests.proxy.fakes import (
    FakeAuthenticator,
    FakeBody,
    FakeLimiter,
    FakeReporter,
    FakeRequest,
    FakeRouter,
)


@implementer(IReporter)
class Rig:
    """The parts of a data path, joined.

    Each record is seen to be reported before its client is shown the end of the answer.
    """

    def __init__(self, router: FakeRouter | None = None, backoff: Backoff | None = None) -> None:
        self.clock = Clock()
        self.router = router or FakeRouter()
        self.authenticator = FakeAuthenticator()
        self.reporter = FakeReporter()
        self.requests: list[FakeRequest] = []
        self.budget = ByteBudget(10_000)
        self.limiter = FakeLimiter()
        self.retry_budget = RetryBudget(0.2)
        self.words = ""
        self.draining = False
        self.late = False
        rules = FieldRules(
            pseudonym=b"llmproxy-test",
            credential_names=frozenset((b"authorization", b"x-api-key")),
        )
        self.path = DataPath(
            admission=Admission(
                authenticator=self.authenticator,
                read_credential=lambda header, _: (
                    header(b"authorization").removeprefix(b"Bearer ").decode()
                ),
                router=self.router,
                rules=rules,
                budget=self.budget,
                max_body_bytes=1000,
                is_draining=lambda: self.draining,
                is_late=lambda: self.late,
                limiter=self.limiter,
                restate=lambda error: self.restate(error),
            ),
            router=self.router,
            rules=rules,
            retries=RetryRules(backoff or Backoff(), self.retry_budget),
            reporters=[self.reporter, self],
            clock=self.clock,
            timeouts=Timeouts(self.clock),
            now=lambda: 1_700_000_000.0 + self.clock.seconds(),
            random_bytes=bytes,
            make_body=FakeBody,
        )

    def restate(self, error: GatewayError) -> GatewayError:
        """Put the operator's words in."""
        return error.restated(None, self.words) if self.words else error

    def report(self, record: UsageRecord) -> None:
        """See that an answer that was recorded is not over for its client."""
        told = [one for one in self.requests if one.finished or one.broken_off]
        assert len(told) < len(self.reporter.records)

    def begin(self, request: FakeRequest) -> Exchange:
        """Start an exchange."""
        self.requests.append(request)
        return self.path.begin(request)

    def conclusion(self) -> UsageRecord:
        """Give the one record, and see that nothing is left of the exchange."""
        assert len(self.reporter.records) == 1
        assert self.path.running == set()
        assert self.router.in_flight == 0
        charged = self.reporter.records[0].usage.total_tokens
        assert all(grant.settled == charged for grant in self.limiter.grants)
        assert not self.router.leases or charged == sum(
            lease.used_tokens for lease in self.router.leases
        )
        assert self.budget.taken_bytes == 0
        assert self.clock.getDelayedCalls() == []
        return self.reporter.records[0]
