"""One connection to a Redis server: txredisapi's protocol, with bytes in and bytes out.

It knows nothing of when to connect, of other connections and of what is kept in Redis. Importing
txredisapi imports the global reactor, so whoever may run without Redis imports this module late.

What is not as in txredisapi:

- Replies of several parts are read in one go. There each part pauses the transport and costs a turn
  of the reactor, and a hash of a dozen fields two dozen of them.
- A line that is not UTF-8, as an error that quotes a key may be, does not break the connection.
- What is said at the start may fail without all connections being given up for ever: that is for
  the pool to decide.
- Timers are of the clock that is handed in.
"""

from __future__ import annotations

import re
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from txredisapi import (  # type: ignore[import-untyped]
    BaseRedisProtocol,
    InvalidData,
    InvalidResponse,
    RedisError,
    ResponseError,
)
from txredisapi import TimeoutError as ReplyTimeout

from llmproxy.errors import RedisReplyError, StoreUnavailable

UNAVAILABLE: Final = frozenset(
    (
        "BUSY",  # a script runs and does not end
        "CLUSTERDOWN",
        "LOADING",  # it reads its file after a start
        "MASTERDOWN",
        "MISCONF",  # it cannot write its file, and so takes no writes
        "NOAUTH",
        "NOPERM",
        "NOREPLICAS",
        "OOM",  # it is full
        "READONLY",  # it is a replica
        "TRYAGAIN",
        "WRONGPASS",
    )
)
"""Error replies that tell of the server and not of the command."""

_LONGEST_LINE_BYTES: Final = 64 * 1024
LONGEST_BULK_BYTES: Final = 8 * 1024 * 1024
"""No record of a key is as long; a longer reply would only fill the memory."""

_IN_A_SCRIPT = re.compile(r"(?:ERR )?Error running script .*? -([A-Z]+) ", re.DOTALL)
"""How a Redis before 7 tells of an error that a command met inside a script."""


class RedisProtocol(BaseRedisProtocol):  # type: ignore[misc]
    """A connection, from the TCP handshake to its loss.

    Args:
        timeout_s: How long a reply may take, in seconds; then the connection is aborted.
        clock: The reactor's time.
    """

    def __init__(self, timeout_s: float, clock: IReactorTime) -> None:
        super().__init__(charset=None, replyTimeout=timeout_s, convertNumbers=False)
        self.callLater = clock.callLater
        self._unread = bytearray()
        self._reading = False

    def __repr__(self) -> str:
        state = "connected" if self.connected else "not connected"
        return f"<RedisProtocol {state}, {self.waiting} replies to come>"

    @property
    def waiting(self) -> int:
        """How many replies are still to come."""
        return len(self.replyQueue.waiting)

    def connectionMade(self) -> None:
        """Begin; nothing is sent unasked."""
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)

    def when_lost(self) -> Deferred[Any]:
        """Give a Deferred that fires when the connection is lost, or was; it may be cancelled."""
        return self.whenDisconnected() if self.connected else succeed(None)

    def ask(self, words: tuple[bytes, ...]) -> Deferred[Any]:
        """Send a command.

        Returns:
            A Deferred of the reply: bytes, int, None or a list of these. It fails with
            `StoreUnavailable` or `RedisReplyError`. Cancelling it leaves the reply unread.
        """
        try:
            reply: Deferred[Any] = self.execute_command(*words)
        except RedisError:
            raise StoreUnavailable("the connection was lost") from None
        return reply.addCallbacks(_plain, _mapped)

    def abort(self) -> None:
        """Lose the connection at once; what was not read of it never is."""
        self._unread.clear()
        self.transport.abortConnection()

    def replyReceived(self, reply: Any) -> None:
        """Give a reply to who waits for it; one that cannot be right ends the connection.

        A reply too many would be taken for that of the next command, and each after it likewise.
        """
        if not self.waiting:
            self.abort()
            return
        if isinstance(reply, InvalidData | InvalidResponse):
            self.abort()
        super().replyReceived(reply)

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        """Read all that there is, without pausing in between."""
        del unpause  # nothing is ever paused
        self._unread += data
        if self._reading:
            return
        self._reading = True
        try:
            while self._read_one():
                pass
        finally:
            self._reading = False

    def _read_one(self) -> bool:
        """Read a line, or what there is of a bulk; say whether there may be more."""
        if not self.line_mode:
            if self.bulk_length > LONGEST_BULK_BYTES:
                self.abort()
                return False
            piece = bytes(self._unread[: self.bulk_length])
            if not piece:
                return False
            del self._unread[: len(piece)]
            self.rawDataReceived(piece)
            return True
        end = self._unread.find(b"\r\n")
        if end < 0 or end > _LONGEST_LINE_BYTES:
            if len(self._unread) > _LONGEST_LINE_BYTES:
                self.abort()
            return False
        line = self._unread[:end].decode("utf-8", "surrogateescape")
        del self._unread[: end + 2]
        self.lineReceived(line)
        return True

    def setLineMode(self, extra: bytes = b"") -> None:
        """Read lines from now on."""
        assert not extra, "a bulk is given no more than its own bytes"
        self.line_mode = 1


def _plain(reply: Any) -> Any:
    """Give a reply with its status lines as bytes; an error inside a list is the whole's."""
    if isinstance(reply, str):
        return reply.encode("utf-8", "surrogateescape")
    if isinstance(reply, list):
        return [_plain(part) for part in reply]
    if isinstance(reply, RedisError):
        raise _own(reply)
    return reply


def _mapped(failure: Failure) -> Any:
    error = failure.value
    if isinstance(error, RedisError):
        raise _own(error) from None
    return failure


def _own(error: Exception) -> StoreUnavailable | RedisReplyError:
    """Make our own error of one of txredisapi's."""
    if isinstance(error, InvalidData | InvalidResponse):
        return StoreUnavailable("it does not speak the protocol of Redis")
    if isinstance(error, ReplyTimeout):
        return StoreUnavailable("no reply came in time")
    if not isinstance(error, ResponseError):
        return StoreUnavailable("the connection was lost")
    message = str(error).strip()
    # An unknown command is told with its arguments, which may be keys or a password.
    message = message.partition(", with args")[0]
    found = _IN_A_SCRIPT.match(message)
    code = found[1] if found else message.partition(" ")[0]
    if code in UNAVAILABLE:
        return StoreUnavailable(f"it answers {code}")
    return RedisReplyError(message)
