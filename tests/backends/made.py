"""Backends for tests: identities, states and directories, and what they are told."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from llmproxy.backends.directory import BackendDirectory
from llmproxy.backends.membership import Membership
from llmproxy.backends.queue import BackendQueue
from llmproxy.backends.state import BackendState
from llmproxy.balancing.round_robin import RoundRobin
from llmproxy.config.model import Model
from llmproxy.interfaces import IProgress, IStrategy, IUpstreamClient, IUpstreamResponse
from llmproxy.values import Backend
from llmproxy.vitals.breaker import Breaker, BreakerSettings
from llmproxy.vitals.slow_start import SlowStart

BREAKER = BreakerSettings(failures=2, window_s=60.0, open_for_s=30.0)
SLOW_START_S = 10.0


@implementer(IUpstreamClient)
class Client:
    """Stands for the client of one backend; nothing is sent here."""

    def request(
        self,
        method: str,
        url: bytes,
        *,
        headers: object = None,
        data: object = None,
        unbuffered: bool = True,
    ) -> Deferred[IUpstreamResponse]:
        """Send nothing."""
        raise AssertionError("the directory sends nothing")


@implementer(IProgress)
@attrs.define(eq=False)
class Progress:
    """How an answer goes on, as the test says."""

    first_piece_s: float | None
    last_piece_s: float


def backend(name: str, *models: str, weight: int = 1, secret: bytes = b"") -> Backend:
    """Make an identity with these globs."""
    headers = ((b"Authorization", secret),) if secret else ()
    return Backend(
        name=name,
        url=b"http://x.test",
        host=b"x.test",
        weight=weight,
        models=models,
        headers=headers,
    )


def make_state(identity: Backend) -> BackendState:
    """Make the state of a backend whose breaker opens at the second failure."""
    return BackendState(identity, Client(), Breaker(BREAKER), SlowStart(SLOW_START_S))


def make_directory(
    *backends: Backend,
    clock: Clock,
    models: Sequence[Model] = (),
    strategy: IStrategy | None = None,
    max_ejected_percent: float = 50.0,
    max_waiting: int = 10,
    max_wait_s: float = 60.0,
    fallback: Sequence[str] = (),
) -> BackendDirectory:
    """Make a directory that goes round, of backends like those of `make_state`."""
    return BackendDirectory(
        Membership(
            backends=[(one, Client()) for one in backends],
            strategy=strategy or RoundRobin(),
            breaker=BREAKER,
            max_ejected_percent=max_ejected_percent,
            slow_start_s=SLOW_START_S,
            models=models,
            fallback=fallback,
        ),
        clock=clock,
        queue=BackendQueue(max_waiting, max_wait_s, clock),
        created=7,
    )


def no_affinity() -> bytes:
    """Stand for a prompt that nobody may look at."""
    raise AssertionError("nobody goes by the conversation here")
