"""The daemon's end, with a clock and fakes."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from llmproxy.lifecycle import POLL_S, Lifecycle


class SlowListeners:
    """Listeners that take their time to close."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        self.closed: Deferred[None] = Deferred()

    async def close(self) -> None:
        """Note it, and wait."""
        self._calls.append("close")
        await self.closed


class Drained(SynchronousTestCase):
    """Every order of events."""

    def setUp(self) -> None:
        """Make a daemon with two running requests."""
        self.clock = Clock()
        self.calls: list[str] = []
        self.running = {"one", "two"}
        self.listeners = SlowListeners(self.calls)
        self.lifecycle = Lifecycle(
            self.clock,
            drain_timeout_s=600,
            listeners=self.listeners,
            running=self.running,
            close_idle=lambda: self.calls.append("idle"),
            abort_all=lambda: self.calls.append("abort"),
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
        self.assertFalse(self.lifecycle.is_draining())
        self.assertEqual(repr(self.lifecycle), "<Lifecycle draining=False running=2>")

    def test_it_waits_for_what_runs(self) -> None:
        """And ends soon after the last has ended, cutting what connections are left."""
        drained = self.drain()
        self.assertTrue(self.lifecycle.is_draining())
        self.assertEqual(repr(self.lifecycle), "<Lifecycle draining=True running=2>")
        self.clock.pump([1.0] * 100)
        self.running.remove("one")
        self.clock.pump([1.0] * 100)
        self.assertNoResult(drained)
        self.assertEqual(self.calls, ["close", "idle"])
        self.running.remove("two")
        self.clock.pump([POLL_S, 0])
        self.successResultOf(drained)
        self.assertEqual(self.calls, ["close", "idle", "abort"])

    def test_it_turns_away_before_the_listeners_are_closed(self) -> None:
        """Connections are closed only when no new ones can come."""
        drained = self.drain(listening=True)
        self.assertTrue(self.lifecycle.is_draining())
        self.clock.pump([1.0] * 10)
        self.assertEqual(self.calls, ["close"])
        self.listeners.closed.callback(None)
        self.assertEqual(self.calls, ["close", "idle"])
        self.running.clear()
        self.clock.pump([POLL_S, 0])
        self.successResultOf(drained)

    def test_with_nothing_running(self) -> None:
        """It is over in the next turn, for the cut connections to be told."""
        self.running.clear()
        drained = self.drain()
        self.assertNoResult(drained)
        self.assertEqual(self.calls, ["close", "idle", "abort"])
        self.clock.advance(0)
        self.successResultOf(drained)

    def test_time_is_up(self) -> None:
        """What still runs then is cut."""
        drained = self.drain()
        self.clock.pump([1.0] * 599)
        self.assertEqual(self.calls, ["close", "idle"])
        self.clock.pump([1.0, POLL_S, 0])
        self.successResultOf(drained)
        self.assertEqual(self.calls, ["close", "idle", "abort"])

    def test_hurry(self) -> None:
        """Told again, it waits no longer."""
        drained = self.drain()
        self.clock.advance(1)
        self.lifecycle.hurry()
        self.clock.pump([POLL_S, 0])
        self.successResultOf(drained)
        self.assertEqual(self.calls, ["close", "idle", "abort"])
