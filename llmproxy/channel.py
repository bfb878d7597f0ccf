"""The edge's HTTP/1.1 channel: llhttp in front of `twisted.web` requests.

`twisted.web`'s own channel accepts what an intermediary must not, knows no absolute deadline for a
head, and buffers bodies before anybody was asked who sends them. This one parses with llhttp,
holds heads to ``wire.heads``, hands a request to the Resource tree as soon as its head is complete,
and lets the resource pull the body. It knows nothing of models or keys.

One connection, one request at a time: pipelined requests wait in order, and what a client sends
beyond that is not read. Errors of the parser are answered with JSON and a lingering close, in their
turn. Every buffer has a bound: the head by ``max_header_bytes``, a body by its reader, what came
early by one read.
"""

from __future__ import annotations

from collections import deque
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IPushProducer, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from llmproxy.errors import GatewayError, RequestTimeout
from llmproxy.reader import Head, RequestReader
from llmproxy.stall import StallWatch
from llmproxy.timeouts import Timeout
from llmproxy.wire.api_errors import raw_answer

if TYPE_CHECKING:
    from llmproxy.site import EdgeRequest, EdgeSite

EARLY_LIMIT_BYTES = 16 * 1024
UNREAD_BODY_LIMIT_BYTES = 64 * 1024
LINGER_S = 5.0
LINGER_LIMIT_BYTES = 64 * 1024 * 1024  # many clients send all of a body before they read


@attrs.frozen
class EdgeLimits:
    """The limits of one client connection (``server`` in the configuration)."""

    max_header_bytes: int = 32 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 120.0
    write_stall_timeout_s: float = 60.0


@implementer(IPushProducer)
class EdgeChannel(Protocol):
    """One client connection.

    States: idle (between requests), head (parts of a head are in), body (a resource may be running
    already), answering (the body is in, or nobody wants it), lingering (we are done and read on a
    little, so that the client can read our last answer), closed.
    """

    _log = Logger()
    factory: EdgeSite

    is_surplus = False
    """Whether it is over the limit of connections; told by the site, at once."""

    def __init__(self, site: EdgeSite, limits: EdgeLimits) -> None:
        self.site = site
        self._limits = limits
        self._reader = RequestReader(self, site.reactor.seconds, limits.max_header_bytes)
        self._receiving: EdgeRequest | None = None
        self._waiting: deque[EdgeRequest | GatewayError] = deque()
        self._current: EdgeRequest | None = None
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._stopped_reading = False
        self._failed_request_id = ""
        self._had_request = False
        self._persistent = True
        self._advancing = False
        self._broken = False
        self._lingering = False
        self._closing = False
        self._lingered_bytes = 0
        self._deadline: Timeout | None = None
        self._deadline_is_of_head = False
        self._producer: Any = None
        self._transport_full = False

    def __repr__(self) -> str:
        state = "closing" if self._closing else "answering" if self._current else "idle"
        return f"<EdgeChannel {state} waiting={len(self._waiting)}>"

    # the connection

    def connectionMade(self) -> None:
        """Begin: the first request may take its time to come."""
        self._stall = StallWatch(self.site.reactor, self._transport)
        self.is_secure = ISSLTransport.providedBy(self.transport)
        self.peer_ip = ip_of(self.getPeer())
        self.from_trusted_proxy = self.site.trusted_proxies.trusts(self.peer_ip)
        self._transport.setTcpNoDelay(True)
        self._transport.registerProducer(self, True)
        self._set_deadline(self._limits.idle_timeout_s, self._idle_expired)

    @cached_property
    def certificate_subject(self) -> str:
        """The subject of the client's verified certificate; empty: it showed none."""
        return self._transport.client_subject() if self.is_secure else ""

    @property
    def _transport(self) -> Any:
        return self.transport

    @property
    def _is_over(self) -> bool:
        """Whether the last answer is out: what the client still sends means nothing."""
        return self._lingering or self._closing

    def dataReceived(self, data: bytes) -> None:
        """Take what the client sent."""
        if self._lingering or self._closing or self._broken:
            self._lingered_bytes += len(data)
            if self._lingered_bytes > LINGER_LIMIT_BYTES:
                self._transport.abortConnection()
        elif self._receiving is None and (
            self._current is not None or self._waiting or self._early
        ):
            # Bytes of a next request: kept as they are until its turn.
            self._early.append(data)
            self._early_bytes += len(data)
            if self._early_bytes > EARLY_LIMIT_BYTES:
                self._stop_reading()
        else:
            self._feed(data)
            self._advance()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the request that is being answered; forget the others."""
        self._closing = True
        self._clear_deadline()
        self._stall.end()
        self._waiting.clear()
        self._early.clear()
        receiving, self._receiving = self._receiving, None
        current, self._current = self._current, None
        if receiving is not None and receiving is not current:
            receiving.connectionLost(reason)
        if current is not None:
            current.connectionLost(reason)
        self.site.connection_closed(self)

    # reading

    def _feed(self, data: bytes) -> None:
        """Read on; what cannot be read becomes the answer to the request that it is part of."""
        try:
            self._reader.feed(data)
        except GatewayError as error:
            if not self._is_over:
                self._fail(error)

    def _fail(self, error: GatewayError) -> None:
        """The byte stream cannot be understood from here on."""
        self._broken = True
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            if receiving is self._current:
                self._persistent = False
                self._clear_deadline()
            receiving.last = True
            receiving.body_failed(error)
        else:
            self._failed_request_id = self._reader.request_id
            self._waiting.append(error)

    def head_received(self, head: Head) -> None:
        """A head is complete: it is a request, whose turn will come, unless we are done."""
        if self._is_over:
            return
        self._had_request = True
        request = self.site.make_request(self, head)
        self._receiving = request
        self._waiting.append(request)

    def body_received(self, piece: bytes) -> None:
        """Hand a piece of the body to its request."""
        request = self._receiving
        if request is not None:
            request.body_piece(piece)

    def body_ended(self) -> None:
        """The request is wholly in."""
        request, self._receiving = self._receiving, None
        if request is not None:
            request.body_complete()

    # one request after the other

    def _advance(self) -> None:
        """Start what is next in line, as long as nothing is being answered.

        A client that does not take its answers gets no further ones, or they would pile up here.
        """
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._current is None and not (self._is_over or self._transport_full):
                if self._waiting:
                    self._start(self._waiting.popleft())
                elif self._early:
                    data = b"".join(self._early)
                    self._early.clear()
                    self._early_bytes = 0
                    self._resume_reading()
                    self._feed(data)
                    if not self._waiting:
                        self._wait_for_more()
                        break
                else:
                    break
        finally:
            self._advancing = False
        current = self._current
        if self._is_over:
            return
        if current is not None and self._receiving is current:
            if self._deadline is None:
                self._set_deadline(self._limits.body_timeout_s, self._body_expired)
            self.check_unread(current)
        elif current is not None or self._waiting:
            self._clear_deadline()
        elif self._reader.in_head and not self._deadline_is_of_head:
            self._wait_for_head()

    def _start(self, item: EdgeRequest | GatewayError) -> None:
        if isinstance(item, GatewayError):
            self._answer_and_close(item)
            return
        self._current = item
        if item.last:
            self._persistent = False
            self._waiting.clear()
            self._early.clear()
        self._clear_deadline()
        item.process()

    def _wait_for_more(self) -> None:
        if self._reader.in_head:
            self._wait_for_head()
        else:
            self._set_deadline(self._limits.idle_timeout_s, self._idle_expired)

    def _wait_for_head(self) -> None:
        """The clock of a head runs from its first byte, however slowly the others come."""
        self._set_deadline(self._limits.header_timeout_s, self._head_expired)
        self._deadline_is_of_head = True

    def check_unread(self, request: EdgeRequest) -> None:
        """Read no further into a body that nobody has asked for yet, nor longer than needed."""
        if request.unread_bytes > UNREAD_BODY_LIMIT_BYTES:
            self._stop_reading()
        else:
            self._resume_reading()

    def requestDone(self, request: EdgeRequest) -> None:
        """A request was answered in full: on to the next, or close."""
        assert request is self._current
        self._current = None
        self._producer = None
        if self._receiving is request:
            # Its body is still coming, and nobody wants it.
            self._receiving = None
            self._linger()
        elif self._broken and not self._waiting:
            self._linger()
        elif not self._persistent:
            self.loseConnection()
        else:
            self._wait_for_more()
            self._advance()

    def is_last(self, request: EdgeRequest) -> bool:
        """Say whether the connection ends with this request's answer."""
        return not self._persistent or self._receiving is request or self.site.is_ending

    def refuse_further(self) -> None:
        """Let the answer now going out be this connection's last."""
        self._persistent = False
        self._waiting.clear()
        self._early.clear()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way, nor a part of one."""
        return (
            self._current is None
            and not self._reader.in_head
            and self._receiving is None
            and not self._waiting
        )

    @property
    def is_unused(self) -> bool:
        """Whether the first request is still to come."""
        return not (self._had_request or self._is_over)

    @property
    def is_delivering(self) -> bool:
        """Whether there is an answer that the client has not, or cannot be known to have, whole."""
        return bool(
            self._current is not None or self._waiting or self._transport_full or self._is_over
        )

    def close_when_idle(self) -> None:
        """Close now when nothing is under way, else after the answer that is."""
        if not self.is_idle:
            self._persistent = False
        elif not self._is_over:
            self.loseConnection()
            if self.is_secure:
                # Clients that keep connections for later would close theirs when they look again.
                self._transport.close_below()

    def _answer_and_close(self, error: GatewayError) -> None:
        request_id = self._failed_request_id or self.site.new_request_id()
        further = (
            (b"Date", self.site.date()),
            (b"X-Request-ID", request_id.encode("ascii")),
        )
        self._transport.write(raw_answer(error, further))
        self.site.refused(error, self.getPeer(), request_id)
        self._linger()

    # deadlines

    def _set_deadline(self, after_s: float, call: Any) -> None:
        self._clear_deadline()
        if after_s > 0:
            self._deadline = self.site.timeouts.start(after_s, call)

    def _clear_deadline(self) -> None:
        deadline, self._deadline = self._deadline, None
        self._deadline_is_of_head = False
        if deadline is not None:
            deadline.cancel()

    def body_moved(self) -> None:
        """A piece of the current body came: its clock begins anew."""
        if self._deadline is not None:
            self._deadline.restart()

    def _idle_expired(self) -> None:
        self.loseConnection()

    def _head_expired(self) -> None:
        self._fail(RequestTimeout("The request head did not arrive in server.header_timeout."))
        self._advance()

    def _body_expired(self) -> None:
        receiving = self._receiving
        if receiving is not None and (self._stopped_reading or receiving.holds_client_back):
            # The silence is ours, not the client's.
            self._set_deadline(self._limits.body_timeout_s, self._body_expired)
            return
        self._fail(RequestTimeout("The request body paused longer than server.body_timeout."))

    # closing

    def loseConnection(self) -> None:
        """Close once all that was written is sent; cut a client off that does not take it."""
        if self._closing:
            return
        self._closing = True
        self._clear_deadline()
        self._transport.unregisterProducer()
        self._transport.loseConnection()
        self._stall.begin(self._limits.write_stall_timeout_s or LINGER_S)

    def _linger(self) -> None:
        """Close our half and read on for a little.

        Closing with unread input makes the kernel send a reset, and that can destroy the answer
        before the client has read it (RFC 9112, section 9.6).
        """
        if self._closing or self._lingering:
            return
        self._lingering = True
        self._persistent = False
        self._stall.end()
        self._resume_reading()
        self._transport.unregisterProducer()
        if self.isSecure():
            self._transport.loseConnection()
        else:
            self._transport.loseWriteConnection()
        self._set_deadline(LINGER_S, self._transport.abortConnection)

    def abort(self) -> None:
        """Cut the connection now."""
        self._transport.abortConnection()

    # backpressure: the transport pauses us, we pause the answer's producer

    def pauseProducing(self) -> None:
        """The transport's buffer is full: the client takes less than we have."""
        self._transport_full = True
        self._stall.begin(self._limits.write_stall_timeout_s)
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""
        self._transport_full = False
        self._stall.end()
        if self._producer is not None:
            self._producer.resumeProducing()
        else:
            self._advance()

    def stopProducing(self) -> None:
        """The transport is going away; connectionLost tells the request."""

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Attach the producer of the current answer."""
        assert streaming
        self._producer = producer
        if self._transport_full:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """Detach it."""
        self._producer = None

    def _stop_reading(self) -> None:
        if not self._stopped_reading:
            self._stopped_reading = True
            self._transport.pauseProducing()

    def _resume_reading(self) -> None:
        if self._stopped_reading:
            self._stopped_reading = False
            self._transport.resumeProducing()

    # what twisted.web's Request asks of its channel

    def end_line(self, request: EdgeRequest) -> bytes:
        """Give the field that tells of the connection's end, if it ends with this answer."""
        if not self.is_last(request):
            return b""
        self._persistent = False  # said is said, even if the rest of the body still comes
        return b"Connection: close\r\n"

    def write(self, data: bytes) -> None:
        """Write to the client."""
        self._transport.write(data)

    def getPeer(self) -> IAddress:
        """Give the client's address."""
        return self._transport.getPeer()

    def getHost(self) -> IAddress:
        """Give our own address."""
        return self._transport.getHost()

    def isSecure(self) -> bool:
        """Say whether the connection is TLS."""
        return self.is_secure


def ip_of(peer: IAddress) -> str:
    """Give the IP of an address; empty for a Unix socket."""
    if isinstance(peer, IPv4Address | IPv6Address):
        host = peer.host.partition("%")[0]
        return host[7:] if host.startswith("::ffff:") and "." in host else host
    return ""
