"""What the parent tells its workers, each through a pipe of its own.

An order is its length in four bytes, and then itself, pickled: it is from the same program, through
a pipe that nobody else can write to. The first one is what a worker begins with. So all workers run
what the parent has read and checked, whatever has become of the files since. The pipe's end is
the parent's, even where that was killed.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionDone
from twisted.internet.fdesc import readFromFD, setNonBlocking
from twisted.python.failure import Failure

from llmproxy.config.load import LoadedConfig
from llmproxy.values import ConfigStatus

DESCRIPTOR: Final = 0
"""Which of a worker's descriptors is the pipe's end: its standard input."""

_LENGTH: Final = struct.Struct("!I")


@attrs.frozen
class Begin:
    """Begin; the first order is this one, and no other is.

    Attributes:
        loaded: The configuration in force.
        status: What is known of it.
    """

    loaded: LoadedConfig
    status: ConfigStatus


@attrs.frozen
class Serve:
    """Go on under a configuration.

    Attributes:
        loaded: What the parent has read.
    """

    loaded: LoadedConfig


@attrs.frozen
class Stay:
    """Take note that a reload failed: what the parent has read cannot be used.

    Attributes:
        problems: How many there are.
    """

    problems: int


@attrs.frozen
class Hurry:
    """Wait for nothing, in an end that has begun."""


Order = Begin | Serve | Stay | Hurry


def encode(order: Order) -> bytes:
    """Give what is written into the pipe."""
    text = pickle.dumps(order)
    return _LENGTH.pack(len(text)) + text


def decode(unread: bytearray) -> Iterator[Order]:
    """Take the orders that are whole out of what was read."""
    while len(unread) >= _LENGTH.size:
        end = _LENGTH.size + _LENGTH.unpack_from(unread)[0]
        if len(unread) < end:
            return
        text = bytes(unread[_LENGTH.size : end])
        del unread[:end]
        yield pickle.loads(text)


def first_order(descriptor: int = DESCRIPTOR) -> Begin:
    """Wait for the first order.

    Raises:
        EOFError: The parent is gone.
    """
    (length,) = _LENGTH.unpack(_read(descriptor, _LENGTH.size))
    order: Begin = pickle.loads(_read(descriptor, length))
    return order


def _read(descriptor: int, length: int) -> bytearray:
    text = bytearray()
    while len(text) < length:
        piece = os.read(descriptor, length - len(text))
        if not piece:
            raise EOFError
        text += piece
    return text


class Orders(FileDescriptor):
    """A worker's end of the pipe: gives on the orders that come after the first.

    Args:
        reactor: Reads.
        obey: Called with each order.
        lost: Called when the parent is gone, however it ended: it never closes the pipe.
        descriptor: The pipe's.
    """

    def __init__(
        self,
        reactor: Any,
        obey: Callable[[Order], None],
        lost: Callable[[], None],
        descriptor: int = DESCRIPTOR,
    ) -> None:
        super().__init__(reactor)
        setNonBlocking(descriptor)
        self._obey = obey
        self._lost = lost
        self._descriptor = descriptor
        self._unread = bytearray()

    def __repr__(self) -> str:
        return f"<Orders from {self._descriptor}>"

    def fileno(self) -> int:
        """Give the descriptor."""
        return self._descriptor

    def doRead(self) -> Any:
        """Read what there is."""
        return readFromFD(self._descriptor, self.dataReceived)

    def dataReceived(self, data: bytes) -> None:
        """Take a piece; orders are given on as soon as they are whole."""
        self._unread += data
        for order in decode(self._unread):
            self._obey(order)

    def connectionLost(self, reason: Failure) -> None:
        """Tell that the parent is gone, if that is why."""
        super().connectionLost(reason)
        if reason.check(ConnectionDone):  # and not this process's own end
            self._lost()
