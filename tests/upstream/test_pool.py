"""Tests of `llmproxy.upstream.pool`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost

from llmproxy.upstream.pool import IDLE_S
from tests.upstream.memory import Rig

OK = b"HTTP/1.1 200 OK\r\n"
PLAIN = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Make a pool; after the test, nothing of it may be left."""
    rig = Rig()
    yield rig
    rig.finish()


def test_nothing_to_take(rig: Rig) -> None:
    """A new pool is empty, and sets no timer."""
    assert rig.pool.take() is None
    assert rig.pool.counts == (0, 0)
    assert rig.clock.getDelayedCalls() == []


def test_last_in_first_out(rig: Rig) -> None:
    """The connection that was idle for the shortest time is the likeliest to be alive."""
    lines = [rig.idle_line() for _ in range(3)]
    assert rig.pool.counts == (3, 3)
    taken = [rig.pool.take() for _ in range(4)]
    assert taken == [*(line.connection for line in reversed(lines)), None]
    assert rig.pool.counts == (0, 3)
    for line in lines:
        line.connection.abort()


def test_busy_connection_is_not_idle(rig: Rig) -> None:
    """It comes to the pool when its answer is complete, not before."""
    line = rig.line()
    asked = line.ask()
    line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
    asked.receive()
    assert rig.pool.counts == (0, 1)
    line.say(b"b")
    assert rig.pool.counts == (1, 1)


def test_expired_ones_are_not_given(rig: Rig) -> None:
    """What was idle for too long is closed instead."""
    old = rig.idle_line()
    rig.clock.advance(IDLE_S - 1)
    young = rig.idle_line()
    rig.clock.rightNow += 1  # the time has come, the sweep has not
    assert rig.pool.take() is young.connection
    assert rig.pool.take() is None
    assert old.transport.disconnecting
    assert not young.transport.disconnecting
    young.connection.abort()


def test_those_at_their_end_are_not_given(rig: Rig) -> None:
    """A connection that is about to hear of its end is closed, and the next is looked at."""
    alive, ending = rig.idle_line(), rig.idle_line()
    ending.transport.loseConnection()
    assert rig.pool.take() is alive.connection
    assert rig.pool.take() is None
    rig.turn()
    alive.connection.abort()


def test_expired_ones_are_closed_untouched(rig: Rig) -> None:
    """Nobody has to ask; and when all are gone, so is the timer."""
    first = rig.idle_line()
    rig.clock.advance(IDLE_S / 2)
    second = rig.idle_line()
    rig.clock.advance(IDLE_S / 2)
    assert first.transport.disconnecting
    assert rig.pool.counts == (1, 1)
    rig.clock.advance(IDLE_S)
    assert second.transport.disconnecting
    rig.turn()
    assert rig.pool.counts == (0, 0)
    assert rig.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("field", "kept_s"),
    [
        (b"Keep-Alive: timeout=3\r\n", 2.0),
        (b"Keep-Alive: max=100, Timeout = 3\r\n", 2.0),
        (b"Keep-Alive: timeout=75\r\n", IDLE_S),
        (b"Keep-Alive: timeout=99999999999999999999999999\r\n", IDLE_S),
        (b"Keep-Alive: timeout=soon\r\n", IDLE_S),
        (b"Keep-Alive: timeout=-3\r\n", IDLE_S),
        (b"Keep-Alive: max=1\r\n", IDLE_S),
        (b"Keep-Alive:\r\n", IDLE_S),
    ],
)
def test_keep_alive_timeout(rig: Rig, field: bytes, kept_s: float) -> None:
    """What the backend announces holds, less a second, if it is shorter than our own."""
    line = rig.idle_line(field)
    rig.clock.rightNow += kept_s - 0.01
    assert rig.pool.take() is line.connection
    rig.pool.put(line.connection)
    rig.clock.rightNow += kept_s + 0.01
    assert rig.pool.take() is None
    assert line.transport.disconnecting


@pytest.mark.parametrize("seconds", [b"0", b"1"])
def test_keep_alive_too_short_to_use(rig: Rig, seconds: bytes) -> None:
    """A connection that the backend closes at once is not kept at all."""
    line = rig.idle_line(b"Keep-Alive: timeout=" + seconds + b"\r\n")
    assert line.transport.disconnecting
    assert rig.pool.take() is None


def test_max_idle() -> None:
    """No more are kept than allowed."""
    rig = Rig(max_idle=2)
    lines = [rig.idle_line() for _ in range(3)]
    assert rig.pool.counts == (2, 3)
    assert [line.transport.disconnecting for line in lines] == [False, False, True]
    rig.finish()


def test_closed_by_the_backend(rig: Rig) -> None:
    """An idle connection that ends is forgotten."""
    first, second = rig.idle_line(), rig.idle_line()
    second.transport.lose(ConnectionDone())
    assert rig.pool.counts == (1, 1)
    assert rig.pool.take() is first.connection
    first.connection.abort()


def test_close_idle(rig: Rig) -> None:
    """The idle ones go, the busy one stays, and the pool goes on."""
    idle, busy = rig.idle_line(), rig.line()
    asked = busy.ask()
    rig.pool.close_idle()
    assert (idle.transport.disconnecting, busy.transport.disconnecting) == (True, False)
    busy.say(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert asked.response.code == 204
    rig.turn()
    assert rig.pool.counts == (1, 1)


def test_close() -> None:
    """The idle ones go at once, the busy one when its answer is complete; no timer stays."""
    rig = Rig()
    idle, busy = rig.idle_line(), rig.line()
    asked = busy.ask()
    rig.pool.close()
    rig.pool.close()
    assert (idle.transport.disconnecting, busy.transport.disconnecting) == (True, False)
    assert rig.pool.take() is None
    busy.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    receiver = asked.receive()
    assert (receiver.body, receiver.end) == (b"ok", "ResponseDone")
    assert busy.transport.disconnecting
    rig.finish()


def test_forget_is_idempotent(rig: Rig) -> None:
    """A connection is forgotten when it is cut, and again when it has ended."""
    line = rig.idle_line()
    rig.pool.forget(line.connection)
    rig.pool.forget(line.connection)
    assert rig.pool.counts == (0, 0)


# what comes back to it


def reuse(rig: Rig, *reads: bytes, method: bytes = b"GET") -> bool:
    """Answer a request; say whether the connection went back to the pool."""
    line = rig.line()
    asked = line.ask(method)
    line.say(*reads)
    assert asked.receive().end == "ResponseDone"
    idle = "idle=1" in repr(rig.pool)
    assert idle is not line.transport.disconnecting
    rig.pool.close_idle()
    rig.turn()
    return idle


@pytest.mark.parametrize(
    "octets",
    [
        PLAIN,
        CHUNKED + b"0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN,
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
        OK + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_reusable(rig: Rig, octets: bytes) -> None:
    """A complete answer leaves the connection open, unless it says otherwise."""
    assert reuse(rig, octets)


@pytest.mark.parametrize(
    "octets",
    [
        OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n",
        OK + b"Connection: X-Thing, Close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        PLAIN + b"x",
        PLAIN + PLAIN,
        PLAIN + b"HTTP/1.1 2",
        CHUNKED + b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\nsmuggled",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
def test_not_reusable(rig: Rig, octets: bytes) -> None:
    """Bytes after the answer are nobody's, and who sends them is not asked again."""
    assert not reuse(rig, octets)


def test_head_request_ends_the_connection(rig: Rig) -> None:
    """The parser cannot be told that no body follows."""
    assert not reuse(rig, OK + b"Content-Length: 5\r\n\r\n", method=b"HEAD")
    assert not reuse(rig, CHUNKED, method=b"HEAD")
    assert reuse(rig, b"HTTP/1.1 204 No Content\r\n\r\n", method=b"HEAD")


def test_unasked_bytes_close_an_idle_connection(rig: Rig) -> None:
    """And it is not given to anybody in the meantime."""
    line = rig.idle_line()
    line.say(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert line.transport.aborted
    assert rig.pool.take() is None
    line.say(b"more")
    rig.turn()


# what a connection's end means, to whoever waits and to the pool


@pytest.mark.parametrize(
    ("before", "error"),
    [
        (b"", "ConnectionDied"),
        (b"HTTP/1.1 2", "ConnectionDied"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "ConnectionDied"),
    ],
)
@pytest.mark.parametrize("reason", [ConnectionDone(), ConnectionLost()])
def test_fresh_connection_dies(rig: Rig, before: bytes, error: str, reason: Exception) -> None:
    """It may have accepted the request: no other try."""
    line = rig.line()
    asked = line.ask()
    if before:
        line.say(before)
    line.transport.lose(reason)
    assert asked.error == error


@pytest.mark.parametrize(
    ("before", "error"),
    [
        (b"", "ReusedConnectionDied"),
        (b"H", "ConnectionDied"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "ConnectionDied"),
    ],
)
def test_reused_connection_dies(rig: Rig, before: bytes, error: str) -> None:
    """With no byte back, it was most likely closed before the request reached it."""
    line = rig.idle_line()
    assert rig.pool.take() is line.connection
    asked = line.ask()
    if before:
        line.say(before)
    line.transport.lose(ConnectionDone())
    assert asked.error == error


@pytest.mark.parametrize(
    ("head", "reason", "end"),
    [
        (OK + b"\r\n", ConnectionDone(), "PotentialDataLoss"),
        (OK + b"\r\n", ConnectionLost(), "ResponseFailed"),
        (OK + b"Content-Length: 9\r\n\r\n", ConnectionDone(), "ResponseFailed"),
        (CHUNKED, ConnectionDone(), "ResponseFailed"),
    ],
)
def test_dies_in_the_body(rig: Rig, head: bytes, reason: Exception, end: str) -> None:
    """Only a body without framing may end so, and only by an orderly close."""
    line = rig.line()
    asked = line.ask()
    line.say(head + (b"3\r\nabc\r\n" if head is CHUNKED else b"abc"))
    receiver = asked.receive()
    line.transport.lose(reason)
    assert (receiver.body, receiver.end) == (b"abc", end)


def test_cut_by_us_without_framing(rig: Rig) -> None:
    """A body that we cut ourselves is not whole, whatever its framing."""
    line = rig.line()
    asked = line.ask()
    line.say(OK + b"\r\nabc")
    receiver = asked.receive()
    line.connection.abort()
    rig.turn()
    assert receiver.end == "ResponseFailed"


def test_cut_twice(rig: Rig) -> None:
    """The second time changes nothing."""
    line = rig.line()
    asked = line.ask()
    line.connection.abort()
    line.connection.abort()
    rig.turn()
    assert asked.error == "ConnectionDied"
