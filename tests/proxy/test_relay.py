"""The relay: pieces, ends, clocks and backpressure, in memory."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from zope.interface.verify import verifyObject

from llmproxy.errors import BadResponse, FirstByteTimeout, GatewayError, KeyDisabled, RelayBroken
from llmproxy.interfaces import IProgress
from llmproxy.proxy.meter import make_meter
from llmproxy.proxy.relay import Relay
from llmproxy.wire.withhold import UsageWithholder
from tests.proxy.fakes import FakeBodyTransport, FakeRequest

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'


class Relaying:
    """A relay that has its body, and what became of it."""

    def __init__(
        self,
        *,
        is_stream: bool = True,
        withholder: UsageWithholder | None = None,
        first_byte_by_s: float | None = 300.0,
        stall_timeout_s: float = 120.0,
        deadline_s: float | None = None,
        length_bytes: int | None = None,
    ) -> None:
        self.clock = Clock()
        self.request = FakeRequest()
        self.request.begin(200, b"", ())
        self.firsts: list[Relay] = []
        self.relay = Relay(
            self.request,
            meter=make_meter(
                b"/v1/chat/completions", status=200, stream=is_stream, prompt_tokens=1
            ),
            withholder=withholder,
            clock=self.clock,
            is_stream=is_stream,
            first_byte_by_s=first_byte_by_s,
            stall_timeout_s=stall_timeout_s,
            deadline_s=deadline_s,
            length_bytes=length_bytes,
            on_first_piece=self.firsts.append,
        )
        self.ends: list[object] = []
        self.output_at_end: bytes | None = None
        self.relay.finished.addBoth(self._ended)
        self.transport = FakeBodyTransport()
        self.relay.makeConnection(self.transport)
        self.relay.watch()

    def _ended(self, end: object) -> None:
        """See that the client knows nothing of the end, then tell it."""
        assert not self.request.finished
        assert not self.request.broken_off
        self.output_at_end = self.request.output
        self.ends.append(end)
        if end is None or (isinstance(end, Failure) and end.check(RelayBroken)):
            self.relay.close()

    def piece(self, data: bytes) -> None:
        """A piece comes."""
        self.relay.dataReceived(data)

    def end(self, reason: Exception | None = None) -> None:
        """The body ends."""
        self.relay.connectionLost(Failure(reason or ResponseDone()))

    def failed_with(self, kind: type[Exception]) -> Exception:
        """Give the error that it ended with."""
        (failure,) = self.ends
        assert isinstance(failure, Failure)
        assert isinstance(failure.value, kind)
        assert self.clock.getDelayedCalls() == []
        return failure.value


def test_one_piece_is_one_write() -> None:
    """Each piece is written as the very object that came, at once."""
    relaying = Relaying()
    pieces = [EVENT, EVENT[:10], EVENT[10:] + EVENT]
    for number, piece in enumerate(pieces):
        relaying.piece(piece)
        assert relaying.request.written[number] is piece
    relaying.end()
    assert relaying.ends == [None]
    assert relaying.request.finished
    assert relaying.clock.getDelayedCalls() == []
    assert relaying.relay.bytes_out == sum(map(len, pieces))


def test_body_ended_by_close_is_complete() -> None:
    """HTTP/1.0's way to end a body is an end."""
    relaying = Relaying(is_stream=False)
    relaying.piece(b"{}")
    relaying.end(PotentialDataLoss())
    assert relaying.request.finished


@pytest.mark.parametrize("last", [b"", b"data: [DONE]", b"data: [DONE]\n", b": ping\n\n"])
def test_stream_ended_by_close_is_complete(last: bytes) -> None:
    """At an event's end, or with the last word."""
    for event in (EVENT, b""):
        relaying = Relaying()
        if event + last:
            relaying.piece(event + last)
        relaying.end(PotentialDataLoss())
        assert relaying.ends == [None]
        assert relaying.request.output == event + last


@pytest.mark.parametrize("withheld", [False, True])
@pytest.mark.parametrize("torn", [b'data: {"choices":[', EVENT[:-1], b"data: [DO", b"d"])
def test_stream_closed_in_an_event_is_cut(torn: bytes, *, withheld: bool) -> None:
    """An orderly close that no server makes there: it died."""
    relaying = Relaying(withholder=UsageWithholder() if withheld else None)
    relaying.piece(EVENT + torn)
    relaying.end(PotentialDataLoss())
    broken = relaying.failed_with(RelayBroken)
    assert isinstance(broken, RelayBroken)
    assert (broken.code, broken.blames_backend) == ("connection_lost", True)
    last = relaying.request.output.split(b"\n\n")[-2]
    assert last.lstrip().startswith(b'data: {"error"')
    assert relaying.request.broken_off


@pytest.mark.parametrize(
    "pieces", [[b"12345"], [b"12", b"345"], [b"1", b"2", b"3", b"4", b"5"]], ids=len
)
def test_the_piece_that_completes_a_known_length_is_the_end(pieces: list[bytes]) -> None:
    """It goes out with `close`, all before it at once; the count has it already."""
    relaying = Relaying(is_stream=False, length_bytes=5)
    for piece in pieces:
        relaying.piece(piece)
    assert relaying.request.output == b"".join(pieces[:-1])
    assert relaying.relay.bytes_out == 5
    relaying.end()
    assert relaying.output_at_end == b"".join(pieces[:-1])
    assert relaying.request.output == b"12345"
    assert relaying.request.finished


def test_a_known_length_that_is_not_reached() -> None:
    """What came has gone out, and the break is shown."""
    relaying = Relaying(is_stream=False, length_bytes=5)
    relaying.piece(b"1234")
    relaying.end(ResponseFailed([]))
    relaying.failed_with(RelayBroken)
    assert relaying.request.output == b"1234"
    assert relaying.request.broken_off


@pytest.mark.parametrize("chunks", [[EVENT], [EVENT, EVENT[:20]], [EVENT + b": comment"], []])
def test_cut_stream_ends_with_a_readable_error_event(chunks: list[bytes]) -> None:
    """However it was torn, the last event is the error, and nothing follows."""
    relaying = Relaying()
    for chunk in chunks:
        relaying.piece(chunk)
    relaying.end(ResponseFailed([]))
    events = relaying.request.output.split(b"\n\n")
    assert events[-1] == b""
    error = json.loads(events[-2].removeprefix(b"data: "))["error"]
    assert error["type"] == "server_error"
    assert relaying.request.broken_off
    broken = relaying.failed_with(RelayBroken)
    assert isinstance(broken, RelayBroken)
    assert not broken.timeout


def test_cut_while_the_usage_chunk_is_held() -> None:
    """What was held of a torn event is dropped: the client never saw its beginning."""
    relaying = Relaying(withholder=UsageWithholder())
    relaying.piece(EVENT)
    relaying.piece(b'data: {"choices":[],"usa')
    assert relaying.request.output == EVENT
    relaying.end(ResponseFailed([]))
    assert relaying.request.output.startswith(EVENT + b'data: {"error"')


def test_ten_minutes_with_one_event_every_twenty_seconds() -> None:
    """A slow stream lives as long as it moves, on one timer."""
    relaying = Relaying(stall_timeout_s=30)
    for _ in range(30):
        relaying.clock.advance(20)
        relaying.piece(EVENT)
        assert len(relaying.clock.getDelayedCalls()) == 1
    relaying.end()
    assert relaying.request.output == EVENT * 30
    assert relaying.ends == [None]


def test_stalled_stream_ends_as_said() -> None:
    """Silence for stall_timeout: the backend is cut, the client gets an error event."""
    relaying = Relaying(stall_timeout_s=30)
    relaying.clock.advance(20)
    relaying.piece(EVENT)
    for _ in range(29):
        relaying.clock.advance(1)
    assert relaying.ends == []
    relaying.clock.advance(1)
    assert relaying.transport.stopped
    broken = relaying.failed_with(RelayBroken)
    assert isinstance(broken, RelayBroken)
    assert (broken.code, broken.timeout) == ("stall_timeout", True)
    relaying.end(ResponseFailed([]))  # the cut connection's own end changes nothing
    assert relaying.request.output.count(b'"error"') == 1


@pytest.mark.parametrize("first_byte_by_s", [None, 300.0, 7.0])
def test_silence_behind_an_early_head_is_the_prefill(first_byte_by_s: float | None) -> None:
    """The clock of the first byte goes on; that of silence begins with it, at any moment."""
    relaying = Relaying(first_byte_by_s=first_byte_by_s, stall_timeout_s=2)
    waits_s = (first_byte_by_s or 1000.0) - 1.5
    relaying.clock.pump([0.5] * int(waits_s * 2))
    assert relaying.ends == []
    relaying.piece(EVENT)
    relaying.clock.pump([0.5] * 3)
    assert relaying.ends == []
    relaying.clock.advance(0.5)
    broken = relaying.failed_with(RelayBroken)
    assert isinstance(broken, RelayBroken)
    assert broken.code == "stall_timeout"


def test_nothing_behind_an_early_head() -> None:
    """A stream ends with an error event, and its backend is to blame."""
    relaying = Relaying(first_byte_by_s=30.0, stall_timeout_s=0)
    relaying.clock.advance(29)
    assert relaying.ends == []
    relaying.clock.advance(1)
    assert relaying.transport.stopped
    broken = relaying.failed_with(RelayBroken)
    assert isinstance(broken, RelayBroken)
    assert (broken.code, broken.timeout, broken.blames_backend) == (
        "first_byte_timeout",
        True,
        True,
    )
    assert relaying.request.output.startswith(b'data: {"error"')


def test_plain_answer_without_a_first_byte() -> None:
    """Nothing was sent: a 504 can still be answered."""
    relaying = Relaying(is_stream=False, first_byte_by_s=30.0)
    relaying.clock.advance(30)
    relaying.failed_with(FirstByteTimeout)
    assert not relaying.request.head_sent


def test_total_time() -> None:
    """The backend's total time ends a stream that still moves."""
    relaying = Relaying(deadline_s=50)
    for _ in range(5):
        relaying.clock.advance(9)
        relaying.piece(EVENT)
    assert relaying.ends == []
    relaying.clock.advance(5)
    broken = relaying.failed_with(RelayBroken)
    assert isinstance(broken, RelayBroken)
    assert broken.code == "timeout"


def test_no_clock_at_all() -> None:
    """With all clocks off there is no timer."""
    relaying = Relaying(first_byte_by_s=None, stall_timeout_s=0)
    assert relaying.clock.getDelayedCalls() == []
    relaying.end()
    assert relaying.request.finished


def test_slow_client_pauses_the_backend() -> None:
    """The client's transport pauses the body, and time paused is no stall."""
    relaying = Relaying(stall_timeout_s=30)
    relaying.piece(EVENT)
    relaying.request.producer.pauseProducing()
    assert relaying.transport.paused
    relaying.clock.pump([10] * 20)
    assert relaying.ends == []
    relaying.request.producer.resumeProducing()
    assert not relaying.transport.paused
    relaying.clock.pump([10, 10])
    assert relaying.ends == []
    relaying.clock.advance(10)
    relaying.failed_with(RelayBroken)


def test_client_leaves() -> None:
    """Cancelling cuts the backend's connection and detaches all."""
    relaying = Relaying()
    relaying.piece(EVENT)
    relaying.relay.finished.cancel()
    assert relaying.transport.stopped
    assert relaying.request.producer is None
    assert relaying.clock.getDelayedCalls() == []
    relaying.piece(EVENT)
    assert relaying.request.output == EVENT


def test_plain_answer_cut_early() -> None:
    """A plain answer that breaks off before its first byte can still be answered with an error."""
    relaying = Relaying(is_stream=False)
    relaying.end(ResponseFailed([]))
    relaying.failed_with(BadResponse)
    assert "ended" in repr(relaying.relay)


def test_first_piece_is_told_once() -> None:
    """When it has come, and before it is written."""
    relaying = Relaying()
    assert relaying.firsts == []
    assert relaying.relay.first_piece_s is None
    relaying.clock.advance(1.0)
    for _ in range(3):
        relaying.piece(EVENT)
        assert relaying.firsts == [relaying.relay]
    assert relaying.relay.first_piece_s == 1.0
    assert verifyObject(IProgress, relaying.relay)


def test_a_piece_after_the_end_is_not_told() -> None:
    """Whoever listened has gone."""
    relaying = Relaying()
    relaying.relay.cut_short(KeyDisabled())
    relaying.piece(EVENT)
    assert relaying.firsts == []


def test_last_piece_is_the_backends() -> None:
    """A client that takes again is no sign of the backend; its silence begins anew all the same."""
    relaying = Relaying(stall_timeout_s=30)
    relaying.piece(EVENT)
    relaying.relay.pauseProducing()
    relaying.clock.advance(50.0)
    relaying.relay.resumeProducing()
    relaying.clock.advance(29.0)
    assert relaying.relay.last_piece_s == 0.0
    assert relaying.ends == []
    relaying.clock.advance(2.0)
    broken = relaying.failed_with(RelayBroken)
    assert isinstance(broken, RelayBroken)
    assert broken.code == "stall_timeout"


@pytest.mark.parametrize(
    ("end", "blames"),
    [
        (lambda relaying: relaying.end(ResponseFailed([])), True),
        (lambda relaying: relaying.clock.advance(300.0), True),
        (lambda relaying: relaying.relay.cut_short(KeyDisabled()), False),
    ],
)
@pytest.mark.parametrize("is_stream", [True, False])
def test_whose_fault(end: Callable[[Relaying], None], blames: bool, is_stream: bool) -> None:
    """A cut or silent answer is evidence against the backend, whether it was shown or not."""
    relaying = Relaying(is_stream=is_stream)
    end(relaying)
    error = relaying.failed_with(Exception)
    assert isinstance(error, RelayBroken | GatewayError)
    assert error.blames_backend is blames


def test_the_total_time_is_not_the_backends_fault() -> None:
    """An answer that is long is not one that stalls."""
    relaying = Relaying(deadline_s=10.0)
    relaying.piece(EVENT)
    relaying.clock.advance(10.0)
    broken = relaying.failed_with(RelayBroken)
    assert isinstance(broken, RelayBroken)
    assert broken.timeout
    assert not broken.blames_backend


def test_how_long_it_is_silent() -> None:
    """Since the last piece; while the client takes nothing, the backend is not to blame."""
    relaying = Relaying()
    relay, clock = relaying.relay, relaying.clock
    assert relay.is_stream
    clock.advance(3)
    assert relay.silent_s(clock.seconds()) == 3
    relaying.piece(EVENT)
    clock.advance(2)
    assert relay.silent_s(clock.seconds()) == 2
    relay.pauseProducing()
    clock.advance(5)
    assert relay.silent_s(clock.seconds()) == 0
    relay.resumeProducing()
    clock.advance(1)
    assert relay.silent_s(clock.seconds()) == 1
    relaying.end()
