"""The watch over streams, on a clock of the test's."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from llmproxy.interfaces import IAlerts
from llmproxy.proxy.stream_watch import StreamWatch
from llmproxy.values import AlertKind, StreamAlert
from tests.proxy.fakes import FakeRequest, FakeResponse, stream_response
from tests.proxy.rig import Rig
from tests.proxy.test_exchange import sent_to

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


@implementer(IAlerts)
class FakeAlerts:
    """Keeps the alerts.

    Attributes:
        taken: All of them.
    """

    def __init__(self) -> None:
        self.taken: list[StreamAlert] = []

    def alert(self, alert: StreamAlert) -> None:
        """Keep it."""
        self.taken.append(alert)


class Bench:
    """A watch over the exchanges of a data path.

    Attributes:
        rig: The data path.
        watch: What looks.
        alerts: What it said.
    """

    def __init__(self, *, long_s: float = 100.0, stalled_s: float = 20.0) -> None:
        self.rig = Rig()
        self.taker = FakeAlerts()
        self.watch = StreamWatch(
            self.rig.path.running,
            long_s=long_s,
            stalled_s=stalled_s,
            alerts=[self.taker],
            clock=self.rig.clock,
        )
        self.watch.startService()

    def stream(self) -> tuple[FakeRequest, FakeResponse]:
        """Begin a stream, with a first piece."""
        request = FakeRequest(b'{"model":"m","stream":true}')
        request.started_s = self.rig.clock.seconds()
        self.rig.begin(request)
        response = stream_response()
        sent_to(self.rig).answer.callback(response)
        response.piece(EVENT)
        return request, response

    def wait(self, seconds: int) -> None:
        """Let time pass, second by second."""
        self.rig.clock.pump([1] * seconds)

    def told(self) -> list[tuple[AlertKind, int, int]]:
        """Give what was said since: of each alert the kind, the duration and the silence."""
        taken, self.taker.taken = self.taker.taken, []
        return [(one.kind, round(one.duration_s), round(one.silent_s)) for one in taken]


def test_other_limits() -> None:
    """Hold from then on, for what runs as well; what was told of is told of no more."""
    bench = Bench(stalled_s=0.0, long_s=0.0)
    bench.stream()
    bench.wait(30)
    assert bench.told() == []
    bench.watch.watch_for(100.0, 20.0)
    bench.wait(2)
    assert bench.told() == [("stalled_stream", 32, 32)]
    bench.watch.watch_for(35.0, 20.0)
    bench.wait(8)
    ((kind, duration_s, _),) = bench.told()
    assert (kind, 35 < duration_s <= 40) == ("long_stream", True)
    bench.watch.stopService()
    timers = bench.rig.clock.getDelayedCalls()
    bench.watch.watch_for(1.0, 1.0)
    assert bench.rig.clock.getDelayedCalls() == timers


def test_a_silent_stream_is_told_of_once() -> None:
    """Also when it speaks again and falls silent again."""
    bench = Bench()
    request, response = bench.stream()
    bench.wait(10)
    response.piece(EVENT)
    bench.wait(20)
    assert bench.told() == []
    bench.wait(2)
    assert bench.told() == [("stalled_stream", 32, 22)]
    response.piece(EVENT)
    bench.wait(40)
    assert bench.told() == []
    assert bench.watch.told == {("stalled_stream", "one"): 1}
    request.leave()


def test_a_long_stream_is_told_of_once() -> None:
    """However lively it is."""
    bench = Bench()
    request, response = bench.stream()
    for _ in range(30):
        bench.wait(10)
        response.piece(EVENT)
    assert bench.told() == [("long_stream", 102, 2)]
    assert bench.watch.told == {("long_stream", "one"): 1}
    request.leave()


def test_a_slow_client_is_no_stalled_stream() -> None:
    """While it takes nothing, nothing is asked of the backend."""
    bench = Bench()
    request, response = bench.stream()
    response.piece(EVENT)
    request.producer.pauseProducing()
    bench.wait(60)
    assert bench.told() == []
    request.producer.resumeProducing()
    bench.wait(22)
    assert [kind for kind, _, _ in bench.told()] == ["stalled_stream"]
    request.leave()


def test_only_streams_are_watched() -> None:
    """Not what waits for its answer's head, and no plain answer."""
    bench = Bench()
    waiting, plain = FakeRequest(b'{"model":"m","stream":true}'), FakeRequest()
    bench.rig.begin(waiting)
    bench.rig.begin(plain)
    sent_to(bench.rig).answer.callback(FakeResponse(length=2))
    bench.wait(150)
    assert bench.told() == []
    for request in (waiting, plain):
        request.leave()


def test_each_stream_by_itself() -> None:
    """Those that have ended are forgotten; a new one is a new one."""
    bench = Bench()
    first, _ = bench.stream()
    bench.wait(22)
    assert len(bench.told()) == 1
    first.leave()
    second, _ = bench.stream()
    third, _ = bench.stream()
    bench.wait(24)
    assert len(bench.told()) == 2
    assert repr(bench.watch) == "<StreamWatch {'long_stream': 0, 'stalled_stream': 2}>"
    assert bench.watch.told == {("stalled_stream", "one"): 3}
    second.leave()
    third.leave()


@pytest.mark.parametrize(
    ("long_s", "stalled_s", "kinds"),
    [(0, 5, {"stalled_stream"}), (5, 0, {"long_stream"}), (0, 0, set())],
)
def test_each_can_be_left_out(long_s: float, stalled_s: float, kinds: set[str]) -> None:
    """With both left out nothing is done at all."""
    bench = Bench(long_s=long_s, stalled_s=stalled_s)
    request, _ = bench.stream()
    bench.wait(20)
    assert {kind for kind, _, _ in bench.told()} == kinds
    request.leave()
    bench.watch.stopService()
    assert bench.rig.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("stalled_s", "interval_s"), [(0.5, 1.0), (10.0, 1.0), (60.0, 6.0), (3600.0, 10.0)]
)
def test_how_often_it_looks(stalled_s: float, interval_s: float) -> None:
    """A tenth of what is watched for, and neither all the time nor hardly ever."""
    clock = Clock()
    watch = StreamWatch([], long_s=0, stalled_s=stalled_s, alerts=[], clock=clock)
    watch.startService()
    (call,) = clock.getDelayedCalls()
    assert call.getTime() == interval_s
    watch.stopService()


def test_an_alert_is_in_the_log() -> None:
    """One line, with what is needed to find the request."""
    lines: list[Any] = []

    @implementer(ILogObserver)
    def observe(event: Any) -> None:
        lines.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        bench = Bench()
        request, _ = bench.stream()
        bench.wait(30)
        request.leave()
    finally:
        globalLogPublisher.removeObserver(observe)
    (line,) = (line for line in lines if line.get("kind") == "stalled_stream")
    assert line["log_format"].format(**line) == (
        "stalled_stream: request req-1 to m at one lasts for 22 s and is silent for 22 s"
    )


class FailingTests(SynchronousTestCase):
    """What trial's log of errors is needed for."""

    def test_it_goes_on_when_a_look_fails(self) -> None:
        """The next one comes all the same."""
        bench = Bench()
        request, _ = bench.stream()
        broken: Any = object()
        bench.rig.path.running.add(broken)
        bench.wait(4)
        assert len(self.flushLoggedErrors(AttributeError)) == 2
        bench.rig.path.running.discard(broken)
        bench.wait(20)
        assert [kind for kind, _, _ in bench.told()] == ["stalled_stream"]
        request.leave()
