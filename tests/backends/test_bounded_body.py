"""Tests of `llmproxy.backends.bounded_body`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.web.client import Response, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from llmproxy.backends.bounded_body import BodyTooLong, read_bounded
from tests.backends.fake_agent import FakeTransport, ready


def answered() -> tuple[Response, FakeTransport]:
    """Make an answer whose body is still to come."""
    transport = FakeTransport()
    response = Response((b"HTTP", 1, 1), 200, b"OK", Headers(), transport)
    return response, transport


@given(st.lists(st.binary(min_size=1, max_size=5), max_size=6), st.integers(0, 6))
def test_any_chunking_gives_the_body(pieces: list[bytes], early: int) -> None:
    """Pieces before and after the reading begins add up to the body."""
    response, _ = answered()
    for piece in pieces[:early]:
        response._bodyDataReceived(piece)
    body = read_bounded(response, 30)
    for piece in pieces[early:]:
        response._bodyDataReceived(piece)
    response._bodyDataFinished()
    assert ready(body) == b"".join(pieces)


def test_body_that_was_all_there() -> None:
    """A body that came whole before anybody asked is given at once."""
    response, _ = answered()
    response._bodyDataReceived(b"abc")
    response._bodyDataFinished()
    assert ready(read_bounded(response, 3)) == b"abc"


def test_limit() -> None:
    """One byte over the limit fails, and closes the connection; what still comes is ignored."""
    response, transport = answered()
    body = read_bounded(response, 4)
    response._bodyDataReceived(b"1234")
    assert not transport.closed
    response._bodyDataReceived(b"5")
    assert transport.closed
    response._bodyDataReceived(b"6")
    response._bodyDataFinished(Failure(ConnectionLost()))
    failure = ready(body)
    assert isinstance(failure, Failure)
    assert failure.type is BodyTooLong


@pytest.mark.parametrize("error", [ConnectionLost(), ResponseFailed([Failure(ConnectionLost())])])
def test_cut_short(error: Exception) -> None:
    """A body that breaks off is no body."""
    response, _ = answered()
    body = read_bounded(response, 10)
    response._bodyDataReceived(b"1")
    response._bodyDataFinished(Failure(error))
    failure = ready(body)
    assert isinstance(failure, Failure)
    assert failure.value is error


def test_ends_with_the_connection() -> None:
    """Without a length the connection's end is the body's end."""
    response, _ = answered()
    body = read_bounded(response, 10)
    response._bodyDataReceived(b"1")
    response._bodyDataFinished(Failure(PotentialDataLoss()))
    assert ready(body) == b"1"


def test_cancelling_closes_the_connection() -> None:
    """Who does not want the body any more does not leave it running."""
    response, transport = answered()
    body = read_bounded(response, 10)
    body.cancel()
    assert transport.closed
    response._bodyDataReceived(b"1")
    response._bodyDataFinished(Failure(ConnectionLost()))
    failure = ready(body)
    assert isinstance(failure, Failure)
    assert failure.type is CancelledError
