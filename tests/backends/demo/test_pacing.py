"""Tests of the pace of the demo model's streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from llmproxy.backends.demo.pacing import Pacer


class FakeRequest:
    """Records what is sent."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.state = "open"
        self.finished: Deferred[None] = Deferred()

    def write(self, data: bytes) -> None:
        """Record a piece."""
        assert self.state == "open"
        self.written.append(data)

    def finish(self) -> None:
        """Record the end."""
        assert self.state == "open"
        self.state = "finished"
        self.finished.callback(None)

    def loseConnection(self) -> None:
        """Lose the connection at once."""
        self.leave("closed")

    def leave(self, state: str = "gone") -> None:
        """Be a client that leaves."""
        self.state = state
        self.finished.errback(Failure(ConnectionDone()))

    def notifyFinish(self) -> Deferred[None]:
        """Tell of the end."""
        return self.finished


def words(*texts: bytes) -> Iterator[Sequence[bytes]]:
    """Make beats of one event each."""
    return iter([[text] for text in texts])


class PacerTests(TestCase):
    """One stream, on a clock in the test's hand."""

    def setUp(self) -> None:
        """Make a pacer."""
        self.clock = Clock()
        self.pacer = Pacer(self.clock, 0.5)
        self.request = FakeRequest()

    def test_one_beat_at_each_interval(self) -> None:
        """The first at once, then one after each interval, then the end; no timer is left."""
        self.pacer.send(self.request, iter([[b"a"], [b"b", b"c"], [b"d"]]))
        self.assertEqual(self.request.written, [b"a"])
        self.clock.advance(0.4)
        self.assertEqual(self.request.written, [b"a"])
        self.clock.advance(0.1)
        self.assertEqual(self.request.written, [b"a", b"b", b"c"])
        self.clock.advance(0.5)
        self.assertEqual((self.request.written[-1], self.request.state), (b"d", "open"))
        self.assertEqual(self.pacer.running, 1)
        self.clock.advance(0.5)
        self.assertEqual(self.request.state, "finished")
        self.assertEqual((self.pacer.running, self.clock.getDelayedCalls()), (0, []))

    def test_a_client_that_leaves_ends_the_stream(self) -> None:
        """Nothing more is written, and no timer is left."""
        self.pacer.send(self.request, words(b"a", b"b"))
        self.request.leave()
        self.assertEqual((self.pacer.running, self.clock.getDelayedCalls()), (0, []))
        self.clock.advance(5)
        self.assertEqual(self.request.written, [b"a"])

    def test_without_an_interval_streams_still_take_turns(self) -> None:
        """Each beat waits for a turn of the reactor."""
        pacer = Pacer(self.clock, 0)
        other = FakeRequest()
        pacer.send(self.request, words(b"a", b"b"))
        pacer.send(other, words(b"1", b"2"))
        self.assertEqual((self.request.written, other.written), ([b"a"], [b"1"]))
        self.clock.advance(0)
        self.assertEqual((self.request.written, other.written), ([b"a", b"b"], [b"1", b"2"]))
        self.clock.advance(0)
        self.assertEqual((self.request.state, other.state), ("finished", "finished"))
        self.assertEqual((pacer.running, self.clock.getDelayedCalls()), (0, []))

    def test_a_late_reactor_skips_no_word(self) -> None:
        """Words that are late come one by one, none is lost."""
        self.pacer.send(self.request, words(b"a", b"b", b"c"))
        self.clock.advance(10)
        self.assertEqual(self.request.written, [b"a", b"b"])
        self.clock.pump([0.5, 0.5])
        self.assertEqual(self.request.written, [b"a", b"b", b"c"])
        self.assertEqual(self.request.state, "finished")

    def test_an_error_is_logged_and_closes_the_connection(self) -> None:
        """The stream does not look complete, and does not hang."""

        def failing() -> Iterator[Sequence[bytes]]:
            yield [b"a"]
            raise ZeroDivisionError

        self.pacer.send(self.request, failing())
        self.clock.advance(0.5)
        self.assertEqual(self.request.state, "closed")
        self.assertEqual((self.pacer.running, self.clock.getDelayedCalls()), (0, []))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
