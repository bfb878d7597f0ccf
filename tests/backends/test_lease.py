"""Tests of `llmproxy.backends.lease`."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from llmproxy.backends.lease import Lease, LeaseReleasedTwice
from llmproxy.backends.state import BackendState
from llmproxy.interfaces import IBackendLease
from llmproxy.values import ModelRoute
from tests.backends.made import Progress, backend, make_state

ROUTE = ModelRoute("m", "m")


class Leasing:
    """A backend, and leases of it on a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.state: BackendState = make_state(backend("a"))

    def lease(self) -> Lease:
        """Give one."""
        return Lease(self.state, ROUTE, self.clock, self.clock.seconds())

    def break_it(self) -> None:
        """Have the breaker open, and go half-open."""
        for _ in range(2):
            lease = self.lease()
            lease.report("bad")
            lease.release()
        assert not self.state.breaker.is_closed
        self.clock.advance(30.0)


def test_counted_until_it_is_released() -> None:
    """Once each."""
    leasing = Leasing()
    leases = [leasing.lease() for _ in range(3)]
    assert verifyObject(IBackendLease, leases[0])
    assert leasing.state.in_flight == 3
    for lease in leases:
        lease.release()
    assert leasing.state.in_flight == 0


def test_released_twice_is_a_bug() -> None:
    """A second release is refused, and changes nothing."""
    leasing = Leasing()
    lease, _ = leasing.lease(), leasing.lease()
    lease.release()
    with pytest.raises(LeaseReleasedTwice, match="'a'"):
        lease.release()
    assert leasing.state.in_flight == 1


def test_what_was_used_is_settled_before_there_is_room() -> None:
    """So whoever is given the room is chosen by it."""
    leasing = Leasing()
    lease = leasing.lease()
    told: list[object] = []
    lease.settle = told.append
    leasing.state.on_room = lambda: told.append("room")
    lease.release(7)
    assert told == [7, "room"]


def test_identity_and_client() -> None:
    """The lease has what an attempt needs, and keeps it."""
    leasing = Leasing()
    lease = leasing.lease()
    identity, client = leasing.state.identity, leasing.state.client
    leasing.state.identity = backend("b")
    assert lease.backend is identity
    assert lease.client is client
    assert lease.route is ROUTE
    assert repr(lease) == "<lease of a>"
    lease.release()
    assert repr(lease) == "<lease of a (released)>"


def test_first_byte_is_latency() -> None:
    """From when the lease was given until the answer began."""
    leasing = Leasing()
    leasing.clock.advance(5.0)
    lease = leasing.lease()
    leasing.clock.advance(0.25)
    lease.answering(Progress(5.25, 5.25))
    assert leasing.state.latency_s(5.25) == 0.25
    lease.release()


def test_answers_are_looked_at_until_released() -> None:
    """When the last piece came is known of running answers, and of those that are over."""
    leasing = Leasing()
    assert leasing.state.last_piece_s() == float("-inf")
    first, second = leasing.lease(), leasing.lease()
    progress = Progress(1.0, 1.0)
    first.answering(progress)
    second.answering(Progress(2.0, 3.0))
    assert leasing.state.last_piece_s() == 3.0
    progress.last_piece_s = 7.0
    assert leasing.state.last_piece_s() == 7.0
    first.release()
    progress.last_piece_s = 9.0
    assert leasing.state.last_piece_s() == 7.0
    second.release()
    assert leasing.state.last_piece_s() == 7.0
    assert leasing.state.answers == {}


def test_a_probe_that_is_let_go_makes_room() -> None:
    """Cancelled in half-open, it gives the probe back; the next lease is the probe."""
    leasing = Leasing()
    leasing.break_it()
    probe, other = leasing.lease(), leasing.lease()
    assert leasing.state.breaker.probe is probe
    other.release()
    assert leasing.state.breaker.probe is probe
    probe.release()
    assert leasing.state.breaker.probe is None
    again = leasing.lease()
    again.report("good")
    again.release()
    assert leasing.state.breaker.is_closed
