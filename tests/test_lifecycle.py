"""The daemon's end, with a clock and fakes."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from llmproxy.errors import Draining, GatewayError
from llmproxy.lifecycle import FIRST_REQUEST_S, LAST_WORDS_S, LAST_WRITES_S, POLL_S, Lifecycle


class SlowListeners:
    """Listeners that take their time to close."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        self.closed: Deferred[None] = Deferred()

    async def close(self) -> None:
        """Note it, and wait."""
        self._calls.append("close")
        await self.closed


class FakeRequest:
    """A request that runs until it is cut, and then has something to tell its client."""

    def __init__(self, running: set[FakeRequest], connections: FakeConnections) -> None:
        self._running = running
        self._connections = connections
        self.cut_by: GatewayError | None = None

    def cut(self, error: GatewayError) -> None:
        """End."""
        self.cut_by = error
        self._running.remove(self)
        self._connections.delivering += 1


class FakeConnections:
    """The connections of clients; notes what is asked of them."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        self.expects_requests = False
        self.delivering = 0

    def keep_no_more(self) -> None:
        """Note it."""
        self._calls.append("keep no more")

    def close_idle(self, *, unused: bool = True) -> None:
        """Note it."""
        self._calls.append("idle" if unused else "idle but unused")

    def abort_all(self) -> None:
        """Note it."""
        self._calls.append("abort")


ENDED = ["keep no more", "close", "idle but unused", "idle", "abort"]


class Drained(SynchronousTestCase):
    """Every order of events."""

    def setUp(self) -> None:
        """Make a daemon with two running requests."""
        self.clock = Clock()
        self.calls: list[str] = []
        self.listeners = SlowListeners(self.calls)
        self.connections = FakeConnections(self.calls)
        self.running: set[FakeRequest] = set()
        self.requests = [FakeRequest(self.running, self.connections) for _ in range(2)]
        self.running.update(self.requests)
        self.lifecycle = Lifecycle(
            self.clock,
            drain_delay_s=0,
            drain_timeout_s=600,
            listeners=self.listeners,
            running=self.running,
            connections=self.connections,
        )

    def tearDown(self) -> None:
        """Nothing is left to be called."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def drain(self, *, listening: bool = False) -> Deferred[None]:
        """Begin to drain."""
        if not listening:
            self.listeners.closed.callback(None)
        return Deferred.fromCoroutine(self.lifecycle.drain())

    def test_before(self) -> None:
        """Nothing is turned away."""
        self.assertFalse(self.lifecycle.is_leaving())
        self.assertFalse(self.lifecycle.is_draining())
        self.assertEqual(repr(self.lifecycle), "<Lifecycle leaving=False draining=False running=2>")

    def test_it_waits_for_what_runs(self) -> None:
        """And ends soon after the last has ended, cutting what connections are left."""
        drained = self.drain()
        self.assertTrue(self.lifecycle.is_draining())
        self.assertEqual(repr(self.lifecycle), "<Lifecycle leaving=True draining=True running=2>")
        self.clock.pump([1.0] * 100)
        self.running.remove(self.requests[0])
        self.clock.pump([1.0] * 100)
        self.assertNoResult(drained)
        self.assertEqual(self.calls, ENDED[:-1])
        self.running.remove(self.requests[1])
        self.clock.pump([POLL_S, 0])
        self.successResultOf(drained)
        self.assertEqual(self.calls, ENDED)

    def test_it_takes_requests_until_load_balancers_know(self) -> None:
        """For the delay it says that it leaves, and only then the listeners close."""
        self.lifecycle.drain_delay_s = 3
        drained = self.drain()
        self.assertTrue(self.lifecycle.is_leaving())
        self.assertFalse(self.lifecycle.is_draining())
        self.clock.pump([POLL_S] * 59)
        self.assertEqual(self.calls, ["keep no more"])
        self.assertFalse(self.lifecycle.is_draining())
        self.clock.pump([POLL_S] * 2)
        self.assertEqual(self.calls, ENDED[:-1])
        self.assertTrue(self.lifecycle.is_draining())
        self.running.clear()
        self.clock.pump([POLL_S, 0])
        self.successResultOf(drained)

    def test_it_turns_nobody_away_before_the_listeners_are_closed(self) -> None:
        """Connections are closed only when no new ones can come."""
        drained = self.drain(listening=True)
        self.assertTrue(self.lifecycle.is_leaving())
        self.clock.pump([1.0] * 10)
        self.assertEqual(self.calls, ["keep no more", "close"])
        self.assertFalse(self.lifecycle.is_draining())
        self.listeners.closed.callback(None)
        self.assertEqual(self.calls, ENDED[:-1])
        self.running.clear()
        self.clock.pump([POLL_S, 0])
        self.successResultOf(drained)

    def test_who_has_just_connected_may_ask(self) -> None:
        """Nobody else takes that request; it is waited for, and not for long."""
        self.running.clear()
        self.connections.expects_requests = True
        drained = self.drain()
        self.clock.pump([POLL_S] * 5)
        self.assertEqual(self.calls, ENDED[:3])
        self.assertFalse(self.lifecycle.is_draining())
        self.connections.expects_requests = False
        self.clock.pump([POLL_S, 0])
        self.successResultOf(drained)
        self.assertEqual(self.calls, ENDED)

    def test_who_never_asks_is_not_waited_for(self) -> None:
        """A second after the listeners have closed, requests are turned away."""
        self.running.clear()
        self.connections.expects_requests = True
        drained = self.drain()
        self.clock.pump([FIRST_REQUEST_S - POLL_S / 2])
        self.assertFalse(self.lifecycle.is_draining())
        self.clock.pump([POLL_S, 0])
        self.assertTrue(self.lifecycle.is_draining())
        self.successResultOf(drained)

    def test_with_nothing_running(self) -> None:
        """Idle connections have a turn to close, and those that are cut one to be told."""
        self.running.clear()
        drained = self.drain()
        self.assertNoResult(drained)
        self.assertEqual(self.calls, ENDED[:-1])
        self.clock.advance(0)
        self.assertEqual(self.calls, ENDED)
        self.successResultOf(drained)

    def test_answers_are_delivered(self) -> None:
        """Requests are over before slow clients have taken what they were answered."""
        self.running.clear()
        self.connections.delivering = 2
        drained = self.drain()
        self.clock.pump([1.0] * 100)
        self.assertEqual(self.calls, ENDED[:-1])
        self.connections.delivering = 0
        self.clock.pump([POLL_S, 0])
        self.successResultOf(drained)
        self.assertEqual(self.calls, ENDED)

    def test_clients_that_take_too_long(self) -> None:
        """They have the same time as what runs, and are cut then."""
        self.connections.delivering = 1
        drained = self.drain()
        self.clock.pump([1.0] * 300)
        self.running.clear()
        self.clock.pump([1.0] * 299)
        self.assertNoResult(drained)
        self.clock.pump([1.0, POLL_S, LAST_WORDS_S, 0])
        self.successResultOf(drained)
        self.assertEqual(self.calls, ENDED)

    def test_time_is_up(self) -> None:
        """What still runs then is cut: its clients are told, and have a moment to take that."""
        drained = self.drain()
        self.clock.pump([1.0] * 599)
        self.assertEqual([one.cut_by for one in self.requests], [None, None])
        self.clock.pump([1.0, 0])
        self.assertEqual([type(one.cut_by) for one in self.requests], [Draining, Draining])
        self.assertEqual(self.calls, ENDED[:-1])
        self.connections.delivering = 0
        self.clock.pump([POLL_S, 0])
        self.successResultOf(drained)
        self.assertEqual(self.calls, ENDED)

    def test_hurry(self) -> None:
        """Told again, it waits no longer, wherever it is, but for a moment for last words."""
        self.lifecycle.drain_delay_s = 60
        drained = self.drain()
        self.clock.advance(1)
        self.assertEqual(self.calls, ENDED[:1])
        self.lifecycle.hurry()
        self.clock.pump([POLL_S, 0])
        self.assertEqual([type(one.cut_by) for one in self.requests], [Draining, Draining])
        self.assertEqual(self.calls, ENDED[:-1])
        self.clock.pump([LAST_WORDS_S, 0])
        self.successResultOf(drained)
        self.assertEqual(self.calls, ENDED)

    def test_how_long_it_may_take(self) -> None:
        """All that it may wait for, and the stores' time."""
        self.lifecycle.drain_delay_s = 5
        self.assertEqual(self.lifecycle.longest_s, 5 + FIRST_REQUEST_S + 600 + LAST_WRITES_S)
