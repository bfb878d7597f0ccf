"""Tests of `llmproxy.upstream.body`."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from socket import socket
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer
from zope.interface.verify import verifyObject

from llmproxy.upstream.body import SLICE_BYTES, BytesBody


@implementer(IConsumer)
class PullingConsumer:
    """Asks for more when it is told to, as a transport does once it is rid of what it had."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.producer: Any = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Take a pull producer and ask it at once, as TCP does."""
        assert self.producer is None
        assert not streaming
        self.producer = producer
        producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """Let go of it."""
        assert self.producer is not None
        self.producer = None

    def write(self, data: bytes) -> None:
        """Keep a write."""
        self.writes.append(data)


def begin(body: BytesBody) -> tuple[PullingConsumer, Deferred[None], list[Any]]:
    """Start a body, and see how it ends."""
    consumer = PullingConsumer()
    results: list[Any] = []
    done = body.startProducing(consumer)
    done.addBoth(results.append)
    return consumer, done, results


def test_provides_its_interface() -> None:
    """It is an `IBodyProducer` of a known length."""
    body = BytesBody(b"abc")
    assert verifyObject(IBodyProducer, body)
    assert body.length == 3


@pytest.mark.parametrize("size", [0, 1, SLICE_BYTES])
def test_small_body_is_one_write(size: int) -> None:
    """What fits into a slice is written at once, the very object, with no producer."""
    octets = bytes(size)
    consumer, _, results = begin(BytesBody(octets))
    assert consumer.writes == [octets]
    assert consumer.writes[0] is octets
    assert (results, consumer.producer) == ([None], None)


@given(st.integers(SLICE_BYTES + 1, SLICE_BYTES * 4), st.integers(0, 255))
def test_large_body_is_pulled(size: int, first: int) -> None:
    """Each time the consumer has nothing left it gets one more slice; then the body is done."""
    octets = bytes([first]) + bytes(range(256)) * (size // 256) + b"!" * (size % 256)
    consumer, _, results = begin(BytesBody(octets))
    assert len(consumer.writes) == 1
    slices = -(-len(octets) // SLICE_BYTES)
    for number in range(2, slices + 1):
        consumer.producer.resumeProducing()
        assert len(consumer.writes) == number
    assert results == []  # the last slice is written, but may still be with the consumer
    consumer.producer.resumeProducing()
    assert b"".join(consumer.writes) == octets
    assert max(map(len, consumer.writes)) == SLICE_BYTES
    assert (results, consumer.producer) == ([None], None)


def test_stopped_by_the_consumer() -> None:
    """A transport that dies asks for no more; nobody is told that the body went up."""
    consumer, _, results = begin(BytesBody(bytes(SLICE_BYTES * 3)))
    producer = consumer.producer
    producer.stopProducing()
    producer.resumeProducing()
    assert (len(consumer.writes), results, consumer.producer) == (1, [], None)


def test_stopped_twice() -> None:
    """The connection and its transport may both stop it."""
    body = BytesBody(bytes(SLICE_BYTES * 3))
    consumer, _, results = begin(body)
    body.stopProducing()
    body.stopProducing()
    assert (results, consumer.producer) == ([], None)


def test_cancelled() -> None:
    """Cancelling stops the writing."""
    consumer, done, results = begin(BytesBody(bytes(SLICE_BYTES * 3)))
    done.cancel()
    assert consumer.producer is None
    (failure,) = results
    assert isinstance(failure, Failure)
    assert failure.check(CancelledError)


def test_pause_and_resume_do_nothing() -> None:
    """Slices are pulled: nothing comes of its own accord."""
    body = BytesBody(bytes(SLICE_BYTES * 3))
    consumer, _, _ = begin(body)
    body.pauseProducing()
    body.resumeProducing()
    assert len(consumer.writes) == 1


class Handle:
    """A socket that takes so many bytes, or fails."""

    def __init__(self, takes: int | OSError) -> None:
        self._takes = takes
        self.sent = b""

    def sendmsg(self, buffers: Sequence[bytes]) -> int:
        """Take as many as it takes."""
        if isinstance(self._takes, OSError):
            raise self._takes
        self.sent = b"".join(buffers)[: self._takes]
        return len(self.sent)


@pytest.mark.parametrize("size", [0, 4, SLICE_BYTES, SLICE_BYTES * 2])
def test_sent_at_once(size: int) -> None:
    """What the kernel takes whole is all: nothing is left for a consumer."""
    handle, body = Handle(1 << 30), BytesBody(b"b" * size)
    assert body.send_now(cast(socket, handle), b"head") == b""
    assert (body.is_sent, handle.sent) == (True, b"head" + b"b" * size)


@pytest.mark.parametrize("size", [0, 4, SLICE_BYTES * 2])
@pytest.mark.parametrize(
    "takes", [0, 3, 4, 5, 7, BlockingIOError(), BrokenPipeError(), OSError(errno.ENOBUFS, "")]
)
def test_what_the_kernel_did_not_take(takes: int | OSError, size: int) -> None:
    """The rest goes to the consumer, in order, and is followed until it is through."""
    handle, body = Handle(takes), BytesBody(b"b" * size)
    head_left = body.send_now(cast(socket, handle), b"head")
    if isinstance(takes, int) and takes >= 4 + size:
        assert (body.is_sent, head_left) == (True, b"")
        return
    assert not (body.is_sent and not head_left)
    consumer, _, results = begin(body)
    assert results == (
        [] if size else [None]
    )  # a next request must not overtake what the consumer holds
    while consumer.producer is not None:
        consumer.producer.resumeProducing()
    assert handle.sent + head_left + b"".join(consumer.writes) == b"head" + b"b" * size
    assert results == [None]
