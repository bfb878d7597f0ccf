"""Tests of `llmproxy.stores.redis_protocol`, over memory."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from llmproxy.errors import RedisReplyError, StoreUnavailable
from llmproxy.stores.redis_protocol import LONGEST_BULK_BYTES, RedisProtocol


class Transport(StringTransport):
    """A transport in memory that takes the options of TCP."""

    aborted = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Do nothing."""

    def abortConnection(self) -> None:
        """Note it."""
        self.aborted = True


def connected(clock: Clock | None = None) -> tuple[RedisProtocol, Transport]:
    """Give a connection and its transport."""
    protocol, transport = RedisProtocol(1.0, clock or Clock()), Transport()
    protocol.makeConnection(transport)
    return protocol, transport


def outcome(reply: Deferred[Any]) -> Any:
    """Give what a Deferred ended with: the reply or the error."""
    seen: list[Any] = []
    reply.addCallbacks(seen.append, lambda failure: seen.append(failure.value))
    assert seen, "no reply yet"
    return seen[0]


_BULKS = st.none() | st.binary(max_size=40)
_REPLIES = st.recursive(
    _BULKS | st.integers(-(2**63), 2**63 - 1), lambda each: st.lists(each, max_size=4), max_leaves=9
)


def wire(reply: Any) -> bytes:
    """Write a reply as Redis does."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(wire, reply))


@given(st.lists(_REPLIES, min_size=1, max_size=4), st.lists(st.integers(1, 9), min_size=1))
def test_any_cutting_gives_the_same_replies(replies: list[Any], sizes: list[int]) -> None:
    """Replies come out as they went in, however their bytes are cut; nothing is paused."""
    protocol, transport = connected()
    asked = [protocol.ask((b"GET", b"a")) for _ in replies]
    stream = b"".join(map(wire, replies))
    at = turn = 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        protocol.dataReceived(stream[at : at + size])
        at, turn = at + size, turn + 1
        assert transport.producerState == "producing"
    assert [outcome(each) for each in asked] == replies
    assert protocol.waiting == 0


def test_what_is_sent() -> None:
    """Words go out with their lengths, whatever is in them."""
    protocol, transport = connected()
    protocol.ask((b"SET", b"a\r\n\x00", b"")).addErrback(lambda failure: None)
    assert transport.value() == b"*3\r\n$3\r\nSET\r\n$4\r\na\r\n\x00\r\n$0\r\n\r\n"


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        (b"-WRONGTYPE Operation against", RedisReplyError, "WRONGTYPE Operation against"),
        (b"-ERR value is not", RedisReplyError, "value is not"),
        (b"-ERR unknown command 'X', with args beginning with: 'sk-1'", RedisReplyError, "'X'"),
        (b"-ERR \xff\xfe", RedisReplyError, ""),
        (b"-LOADING Redis is loading", StoreUnavailable, "LOADING"),
        (b"-NOAUTH Authentication required.", StoreUnavailable, "NOAUTH"),
        (b"-OOM command not allowed", StoreUnavailable, "OOM"),
        (
            b"-ERR Error running script (call to f_0): @user_script:1: -READONLY You can't",
            StoreUnavailable,
            "READONLY",
        ),
        (b"-ERR Error running script (call to f_0): @user: x", RedisReplyError, "Error running"),
    ],
)
def test_errors(line: bytes, kind: type[Exception], message: str) -> None:
    """Errors of the server are told from those of the command; alone and in a list."""
    for reply in (line, b"*2\r\n:1\r\n" + line):
        protocol, transport = connected()
        asked = protocol.ask((b"GET", b"a"))
        protocol.dataReceived(reply + b"\r\n")
        error = outcome(asked)
        assert type(error) is kind
        assert message in str(error)
        assert "sk-1" not in str(error)
        assert not transport.aborted


@pytest.mark.parametrize("nonsense", [b"$x\r\n", b"*x\r\n", b":x\r\n"])
def test_nonsense(nonsense: bytes) -> None:
    """What cannot be read ends the connection, and what follows it is not taken for a reply."""
    protocol, transport = connected()
    asked = [protocol.ask((b"GET", b"a")) for _ in range(2)]
    protocol.dataReceived(nonsense + b":1\r\n")
    assert isinstance(outcome(asked[0]), StoreUnavailable)
    assert transport.aborted
    protocol.connectionLost(Failure(ConnectionDone()))
    assert isinstance(outcome(asked[1]), StoreUnavailable)


def test_a_reply_that_nobody_asked_for() -> None:
    """It is not kept for the next command, which would get another one's reply."""
    protocol, transport = connected()
    protocol.dataReceived(b"$1\r\na\r\n")
    assert transport.aborted
    asked = protocol.ask((b"GET", b"b"))
    protocol.connectionLost(Failure(ConnectionDone()))
    assert isinstance(outcome(asked), StoreUnavailable)


def test_lines_without_an_end() -> None:
    """They are not collected for ever."""
    protocol, transport = connected()
    protocol.ask((b"GET", b"a")).addErrback(lambda failure: None)
    protocol.dataReceived(b"+" + b"x" * 70_000)
    assert transport.aborted


def test_no_reply_in_time() -> None:
    """All that wait fail, and the connection is given up; no timer is left."""
    clock = Clock()
    protocol, transport = connected(clock)
    first = protocol.ask((b"GET", b"a"))
    clock.advance(0.6)
    second = protocol.ask((b"GET", b"a"))
    clock.advance(0.5)
    assert "in time" in str(outcome(first))
    assert isinstance(outcome(second), StoreUnavailable)
    assert transport.aborted
    assert not clock.getDelayedCalls()


def test_cancelling() -> None:
    """The reply of a cancelled command is not given to the next one."""
    clock = Clock()
    protocol, _ = connected(clock)
    first, second = protocol.ask((b"GET", b"a")), protocol.ask((b"GET", b"b"))
    first.addErrback(lambda failure: None)
    first.cancel()
    assert protocol.waiting == 2
    protocol.dataReceived(b"$1\r\na\r\n$1\r\nb\r\n")
    assert outcome(second) == b"b"
    assert not clock.getDelayedCalls()


def test_losing_the_connection() -> None:
    """Whoever waits for it is told, also late; nothing more can be sent."""
    protocol, _ = connected()
    lost = protocol.when_lost()
    given_up = protocol.when_lost()
    given_up.addErrback(lambda failure: None)
    given_up.cancel()
    protocol.connectionLost(Failure(ConnectionDone()))
    for each in (lost, protocol.when_lost()):
        outcome(each)
    with pytest.raises(StoreUnavailable):
        protocol.ask((b"PING",))
    assert "not connected" in repr(protocol)


def test_a_reply_without_end() -> None:
    """A text longer than anything that is kept is not waited for."""
    protocol, transport = connected()
    reply = protocol.ask((b"GET", b"a"))
    protocol.dataReceived(b"$%d\r\n%b" % (LONGEST_BULK_BYTES + 1, b"x" * 1000))
    assert transport.aborted
    protocol.connectionLost(Failure(ConnectionDone()))
    assert isinstance(outcome(reply), StoreUnavailable)
