"""The request body on its way up: bytes that are already here, as an `IBodyProducer`."""

from __future__ import annotations

from socket import socket

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IPullProducer
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

SLICE_BYTES = 256 * 1024


@implementer(IBodyProducer)
class BytesBody:
    """A body that is in memory as a whole, and can be sent again by another `BytesBody`.

    A large one is written in slices as the backend takes them, so that it is not held twice.

    Attributes:
        length: Its size in bytes.
        has_begun: Whether a connection was there to send it over.
    """

    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self.has_begun = False
        self._body = body
        self._offset = 0
        self._is_followed = self.length > SLICE_BYTES
        self._consumer: IConsumer | None = None
        self._done: Deferred[None] | None = None

    def send_now(self, handle: socket, head: bytes) -> bytes:
        """Hand the kernel a head and this body in one call, as far as it takes them.

        Nothing is copied, and no turn of the reactor is waited for.

        Args:
            handle: A connected socket on which nothing is queued.
            head: What goes before the body.

        Returns:
            What is left of the head; the rest of the body is for `startProducing`.
        """
        # What is left gets queued, and the next request may be handed over like this one: it must
        # be known when the queue is empty, or that request would overtake the rest of this.
        self._is_followed = self.has_begun = True
        try:
            sent = handle.sendmsg((head, self._body))
        except OSError:
            # Full, or broken: the transport finds out which, and tells who must know.
            return head
        self._offset = max(0, sent - len(head))
        return head[sent:]

    @property
    def is_sent(self) -> bool:
        """Whether nothing is left to send."""
        return self._offset >= self.length

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write the body, or what is left of it.

        Returns:
            A Deferred that fires when the consumer has passed the last slice on (a body of one
            slice is not followed so far, unless `send_now` was tried). Cancelling it stops the
            writing.
        """
        self.has_begun = True
        if not self._is_followed:
            consumer.write(self._body)
            return succeed(None)
        self._consumer = consumer
        done: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._done = done
        consumer.registerProducer(_Slices(self), False)
        return done

    def write_slice(self) -> None:
        """Write the next slice, or see that the last one is through."""
        consumer, done = self._consumer, self._done
        if consumer is None or done is None:
            return
        if self._offset >= self.length:
            # Asked for more: the consumer has nothing left of it.
            self._consumer = self._done = None
            consumer.unregisterProducer()
            done.callback(None)
            return
        piece = self._body[self._offset : self._offset + SLICE_BYTES]
        self._offset += len(piece)
        consumer.write(piece)

    def stopProducing(self) -> None:
        """Write no more; the Deferred of `startProducing` will not fire."""
        consumer, self._consumer = self._consumer, None
        self._done = None
        if consumer is not None:
            consumer.unregisterProducer()

    def pauseProducing(self) -> None:
        """Nothing to do: slices are pulled."""

    def resumeProducing(self) -> None:
        """Nothing to do: slices are pulled."""


@implementer(IPullProducer)
class _Slices:
    """The producer that the consumer asks for more."""

    def __init__(self, body: BytesBody) -> None:
        self._body = body

    def resumeProducing(self) -> None:
        self._body.write_slice()

    def stopProducing(self) -> None:
        self._body.stopProducing()
