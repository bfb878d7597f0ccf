"""Tests of `llmproxy.rounds`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import TestCase

from llmproxy.rounds import Rounds


class RoundsTests(TestCase):
    """Rounds come in time, one at a time, and are ended well."""

    def setUp(self) -> None:
        """Make a clock, and rounds that take as long as the test wants."""
        self.clock = Clock()
        self.begun: list[float] = []
        self.ended: list[str] = []
        self.hold: Callable[[], Deferred[None] | None] = lambda: None
        self.rounds = Rounds(self.run_once, clock=self.clock, interval_s=10.0, log=Logger())

    async def run_once(self) -> None:
        """Do one round."""
        self.begun.append(self.clock.seconds())
        held = self.hold()
        try:
            if held is not None:
                await held
        finally:
            self.ended.append("over")

    def stop(self) -> list[Any]:
        """Stop; the list has one entry when that is done."""
        done: list[Any] = []
        self.rounds.stop().addCallback(done.append)
        return done

    def test_every_interval(self) -> None:
        """The first round comes at once, the others at the interval."""
        self.rounds.start()
        self.clock.pump([5.0] * 5)
        self.assertEqual(self.begun, [0.0, 10.0, 20.0])
        self.assertEqual(self.stop(), [None])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_first_later(self) -> None:
        """The first round can be put off, and the others follow from there."""
        self.rounds.start(3.0)
        self.clock.pump([1.0] * 14)
        self.assertEqual(self.begun, [3.0, 13.0])
        self.stop()

    def test_stop_before_the_first(self) -> None:
        """Stopped early, nothing ever runs."""
        self.rounds.start(3.0)
        self.assertEqual(self.stop(), [None])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.begun, [])

    def test_stop_without_start(self) -> None:
        """Stopping what was never begun is done at once."""
        self.assertEqual(self.stop(), [None])

    def test_never_overlaps(self) -> None:
        """A long round delays the next one to its next turn."""
        holds: list[Deferred[None]] = []

        def hold() -> Deferred[None]:
            holds.append(Deferred())
            return holds[-1]

        self.hold = hold
        self.rounds.start()
        self.clock.pump([1.0] * 25)
        self.assertEqual(self.begun, [0.0])
        holds[0].callback(None)
        self.clock.pump([1.0] * 5)
        self.assertEqual(self.begun, [0.0, 30.0])
        self.assertEqual(self.stop(), [None])

    def test_failing_round_is_logged_and_the_next_one_comes(self) -> None:
        """A bug in one round does not end the rounds."""

        def fail_once() -> None:
            self.hold = lambda: None
            raise ZeroDivisionError

        self.hold = fail_once
        self.rounds.start()
        self.clock.advance(10.0)
        self.assertEqual(self.begun, [0.0, 10.0])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.stop()

    def test_stop_cancels_the_running_round(self) -> None:
        """A round that waits is cancelled, and stopping waits for its end; nothing is logged."""
        self.hold = Deferred
        self.rounds.start()
        self.assertEqual(self.ended, [])
        self.assertEqual(self.stop(), [None])
        self.assertEqual(self.ended, ["over"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_start_again(self) -> None:
        """Rounds that were stopped can begin anew."""
        self.rounds.start()
        self.stop()
        self.clock.advance(4.0)
        self.rounds.start()
        self.clock.advance(10.0)
        self.assertEqual(self.begun, [0.0, 4.0, 14.0])
        self.stop()

    def test_repr_shows_the_state(self) -> None:
        """The state is for people to see."""
        self.assertEqual(repr(self.rounds), "<Rounds every 10 s, stopped>")
        self.hold = Deferred
        self.rounds.start(1.0)
        self.assertEqual(repr(self.rounds), "<Rounds every 10 s, waiting>")
        self.clock.advance(1.0)
        self.assertEqual(repr(self.rounds), "<Rounds every 10 s, running>")
        self.stop()
        self.assertEqual(repr(self.rounds), "<Rounds every 10 s, stopped>")
