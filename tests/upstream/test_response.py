"""Tests of `llmproxy.upstream.response`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import treq
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse
from zope.interface.verify import verifyObject

from tests.upstream.memory import Line, Rig
from tests.upstream.receiver import Receiver

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Make a pool; after the test, nothing of it may be left."""
    rig = Rig()
    yield rig
    rig.finish()


def transport_of(receiver: Receiver) -> Any:
    """Give what a receiver holds of its connection."""
    return receiver.transport


def receiving(rig: Rig, octets: bytes = HEAD) -> tuple[Line, Receiver]:
    """Send a request, and receive the body of an answer that begins so."""
    line = rig.line()
    asked = line.ask()
    line.say(octets)
    return line, asked.receive()


def test_head(rig: Rig) -> None:
    """All of the head is there, and the interfaces are kept."""
    line = rig.line()
    asked = line.ask()
    line.say(
        b"HTTP/1.0 418 I am\x20a \xe4 pot\r\nA: 1\r\nB:2\r\na:\t3 \r\nContent-Length: 7\r\n\r\n"
    )
    response = asked.response
    assert verifyObject(IResponse, response)
    assert (response.version, response.code) == ((b"HTTP", 1, 0), 418)
    assert (response.phrase, response.length) == (b"I am a \xe4 pot", 7)
    assert response.headers.getRawHeaders(b"a") == [b"1", b"3"]
    assert repr(response) == "<UpstreamResponse 418 open>"
    receiver = asked.receive()
    assert verifyObject(IPushProducer, transport_of(receiver))
    line.say(b"1234567")
    assert repr(response) == "<UpstreamResponse 418 ended>"


def test_unknown_length(rig: Rig) -> None:
    """A chunked body has none."""
    line = rig.line()
    asked = line.ask()
    line.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert asked.response.length is UNKNOWN_LENGTH
    asked.response.setPreviousResponse(None)
    assert asked.response.previousResponse is None


def test_pause_and_resume(rig: Rig) -> None:
    """The receiver paces the connection."""
    line, receiver = receiving(rig)
    transport_of(receiver).pauseProducing()
    assert line.transport.paused
    transport_of(receiver).resumeProducing()
    assert not line.transport.paused
    line.connection.abort()


@pytest.mark.parametrize("how", ["stopProducing", "loseConnection", "abortConnection"])
def test_cut(rig: Rig, how: str) -> None:
    """However the receiver says that it has enough, the connection is cut at once."""
    line, receiver = receiving(rig, HEAD + b"hel")
    getattr(transport_of(receiver), how)()
    assert line.transport.aborted
    line.say(b"lo")  # what the transport had still in hand
    rig.turn()
    assert (receiver.body, receiver.end) == (b"hel", "ResponseFailed")
    getattr(transport_of(receiver), how)()


def test_after_the_end_nothing_is_reached(rig: Rig) -> None:
    """The connection serves another request: what the first receiver still holds is dead."""
    line, receiver = receiving(rig, HEAD + b"0123456789")
    assert receiver.end == "ResponseDone"
    second = line.ask()
    line.say(HEAD)
    other = second.receive()
    transport = transport_of(receiver)
    transport.pauseProducing()
    assert not line.transport.paused
    transport_of(other).pauseProducing()
    transport.resumeProducing()
    assert line.transport.paused
    transport.stopProducing()
    transport.loseConnection()
    transport.abortConnection()
    assert not line.transport.disconnecting
    line.connection.abort()


def test_nobody_receives_yet(rig: Rig) -> None:
    """Until somebody does, no more is read."""
    line = rig.line()
    asked = line.ask()
    line.say(HEAD + b"01")
    assert line.transport.paused
    line.say(b"23")  # what the transport had still in hand
    receiver = asked.receive()
    assert receiver.pieces == [b"0123"]
    assert not line.transport.paused
    line.say(b"456789")
    assert (receiver.pieces, receiver.end) == ([b"0123", b"456789"], "ResponseDone")


def test_delivered_late(rig: Rig) -> None:
    """A body that is wholly here is delivered with its end, though the connection is long gone."""
    line = rig.line()
    asked = line.ask()
    line.say(HEAD + b"0123456789")
    line.transport.lose(ConnectionDone())
    receiver = asked.receive()
    assert (receiver.pieces, receiver.end) == ([b"0123456789"], "ResponseDone")


def test_broken_off_before_it_was_received(rig: Rig) -> None:
    """What came is delivered, and that it is not all."""
    line = rig.line()
    asked = line.ask()
    line.say(HEAD + b"01234")
    line.transport.lose(ConnectionDone())
    receiver = asked.receive()
    assert (receiver.pieces, receiver.end) == ([b"01234"], "ResponseFailed")


def test_receiver_that_pauses_at_the_first_piece(rig: Rig) -> None:
    """It stays paused: what was held back is all that it gets."""
    line = rig.line()
    asked = line.ask()
    line.say(HEAD + b"01")
    receiver = asked.receive(Receiver(lambda it: transport_of(it).pauseProducing()))
    assert receiver.pieces == [b"01"]
    assert line.transport.paused
    transport_of(receiver).resumeProducing()
    assert not line.transport.paused
    line.connection.abort()


def test_receiver_that_is_paused_from_the_start(rig: Rig) -> None:
    """A client that takes nothing holds the backend before the first byte of the body."""

    class Paused(Receiver):
        def connectionMade(self) -> None:
            transport_of(self).pauseProducing()

    line = rig.line()
    asked = line.ask()
    line.say(HEAD)
    asked.receive(Paused())
    assert line.transport.paused
    line.connection.abort()


def test_receiver_that_stops_at_the_first_piece(rig: Rig) -> None:
    """Stopped while it is given what was held back, it is told the end later, once."""
    line = rig.line()
    asked = line.ask()
    line.say(HEAD + b"01")
    receiver = asked.receive(Receiver(lambda it: transport_of(it).stopProducing()))
    assert line.transport.aborted
    rig.turn()
    assert (receiver.pieces, receiver.end) == ([b"01"], "ResponseFailed")


def test_only_one_receiver(rig: Rig) -> None:
    """A body is delivered once."""
    line = rig.line()
    asked = line.ask()
    line.say(HEAD)
    asked.receive()
    with pytest.raises(AssertionError):
        asked.receive()
    line.connection.abort()


def test_treq_reads_it(rig: Rig) -> None:
    """The functions of treq take our responses."""
    line = rig.line()
    asked = line.ask()
    line.say(HEAD + b"[1,2,3")
    contents: list[bytes] = []
    treq.content(asked.response).addCallback(contents.append)
    line.say(b",4] ")
    assert contents == [b"[1,2,3,4] "]
