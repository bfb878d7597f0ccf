"""The edge's Site and its requests: between the channel's bytes and the Resource tree.

A request reaches the tree when its head is complete; whoever wants the body pulls it. Nothing of a
body is kept before that but what came in one read, and never a byte on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from zope.interface import implementer

from llmproxy.channel import EdgeChannel, EdgeLimits, ip_of
from llmproxy.errors import BodyTooLarge, ClientGone, GatewayError, InternalError, MemoryBudgetSpent
from llmproxy.interfaces import IByteBudget, IClientRequest
from llmproxy.proxy.answer import answer_error
from llmproxy.reader import Head
from llmproxy.timeouts import Timeouts
from llmproxy.values import Principal
from llmproxy.wire.api_errors import reason_phrase
from llmproxy.wire.fields import encode_fields
from llmproxy.wire.forwarded import TrustedProxies
from llmproxy.wire.request_id import new_id, sane_request_id

SMALL_PIECE_BYTES = 4096
SURPLUS_CONNECTIONS = 100
"""Over the limit, these are told so, and load balancers and Prometheus still have their answers."""

_FIELDS_OF_OURS = frozenset((b"content-length", b"date", b"x-request-id"))


@implementer(IClientRequest)
class EdgeRequest(server.Request):
    """One request of a client.

    Attributes:
        last: Whether the client closes after it.
        recorded: Whether an exchange writes its access-log line.
        principal: Who asked a resource of our own; None: that was not asked, or not known.
        error_code: What a resource of our own refused it with.
    """

    _log = Logger()
    channel: EdgeChannel  # type: ignore[assignment]
    principal: Principal | None = None
    error_code = ""
    transport: Any
    site: EdgeSite

    def __init__(self, channel: EdgeChannel, site: EdgeSite, head: Head) -> None:
        # twisted.web's own makes header dictionaries, cookie jars and addresses that hardly any
        # request is asked for; what is left of it is below, made when it is looked at.
        self.channel = channel
        self.site = site
        self.transport = channel.transport
        self.notifications: list[Deferred[None]] = []
        self.method = head.method
        self.uri = uri = head.uri
        self.path = uri.partition(b"?")[0] if b"?" in uri else uri
        self.clientproto = b"HTTP/1.1" if head.version == "1.1" else b"HTTP/1.0"
        self.raw_headers: Sequence[tuple[bytes, bytes]] = head.fields
        self.repeats = head.repeats
        self._first = first = dict(reversed(head.fields))
        self.last = head.last
        self.started_s = head.started_s
        self.recorded = False
        given = first.get(b"x-request-id")
        self.request_id = (sane_request_id(given) if given else "") or site.new_request_id()
        self.secure = channel.is_secure
        self.surplus = channel.is_surplus
        self.peer_ip = channel.peer_ip
        self.from_trusted_proxy = channel.from_trusted_proxy
        self.client_ip = (
            site.trusted_proxies.client_ip(
                self.peer_ip,
                [value for name, value in head.fields if name == b"x-forwarded-for"],
            )
            if self.from_trusted_proxy
            else self.peer_ip
        )
        self._head = b""
        self._bodiless = False
        self._framed = False
        self._gone: Callable[[], None] | None = None
        self._is_gone = False
        # The body: pieces until somebody reads it, then until it is complete.
        self._pieces: list[bytes | bytearray] = []
        self._received_bytes = 0
        self._declared_bytes = head.length
        self._complete = False
        self._failure: GatewayError | None = None
        self._expects_continue = b"expect" in first and head.version == "1.1"
        self._reader: Deferred[bytes] | None = None
        self._limit_bytes = 0
        self._budget: IByteBudget | None = None
        self._taken_bytes = 0

    def __repr__(self) -> str:
        return f"<EdgeRequest {self.request_id} {self.method!r} {self.uri!r}>"

    @property
    def certificate_subject(self) -> str:
        """The subject of the client's certificate; see `IClientRequest`."""
        return "" if self._is_gone else self.channel.certificate_subject

    # what twisted.web's resources may ask of a request

    @cached_property
    def requestHeaders(self) -> Headers:  # type: ignore[override]
        """The fields as `IRequest` has them."""
        headers = Headers()
        for name, value in self.raw_headers:
            headers.addRawHeader(name, value)
        return headers

    @cached_property
    def responseHeaders(self) -> Headers:  # type: ignore[override]
        """Nothing that is set here is sent: answers go through `begin`."""
        return Headers()

    @cached_property
    def client(self) -> IAddress:
        """The peer's address."""
        return self.channel.getPeer()

    @cached_property
    def host(self) -> IAddress:
        """Our own address."""
        return self.channel.getHost()

    # the body, from the channel

    @property
    def unread_bytes(self) -> int:
        """Bytes of the body that nobody has asked for yet."""
        return 0 if self._reader is not None else self._received_bytes

    @property
    def holds_client_back(self) -> bool:
        """Whether the client waits for a ``100 Continue`` that nobody has asked us to send."""
        return self._expects_continue and self._reader is None and not self._received_bytes

    def body_piece(self, piece: bytes) -> None:
        """Take a piece of the body."""
        if self._failure is not None:
            return
        self._received_bytes += len(piece)
        if self._reader is not None:
            try:
                self._account()
            except GatewayError as error:
                self._fail_reader(error)
                return
        if self._received_bytes == self._declared_bytes and not self._pieces:
            self._pieces.append(piece)  # all of it in one: nothing to wait for
            return
        self._keep(piece)
        if self.channel is not None:
            self.channel.body_moved()
            self.channel.check_unread(self)

    def _keep(self, piece: bytes) -> None:
        """Keep a piece; small ones together, or each would cost many times its size."""
        pieces = self._pieces
        if len(piece) >= SMALL_PIECE_BYTES or not pieces:
            pieces.append(piece)
        elif isinstance(pieces[-1], bytearray):
            pieces[-1] += piece
        else:
            pieces.append(bytearray(piece))

    def body_complete(self) -> None:
        """The body is wholly in."""
        self._complete = True
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.callback(self._whole())

    def body_failed(self, error: GatewayError) -> None:
        """The rest of the body will never come."""
        self._fail_reader(error)

    def _fail_reader(self, error: GatewayError) -> None:
        self._failure = error
        self._release()
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.errback(error)

    def _release(self) -> None:
        self._pieces = []
        budget, taken = self._budget, self._taken_bytes
        self._taken_bytes = 0
        if budget is not None and taken:
            budget.give_back(taken)

    def _whole(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        self._taken_bytes = 0  # the reader's from here on
        first = pieces[0] if len(pieces) == 1 else b""
        return first if isinstance(first, bytes) and first else b"".join(pieces)

    def _account(self) -> None:
        """Hold the body to its limit, and take out of the budget what has come of it.

        What is only declared is nobody's yet: a few heads would keep all others out.
        """
        if max(self._received_bytes, self._declared_bytes or 0) > self._limit_bytes:
            raise BodyTooLarge
        missing = self._received_bytes - self._taken_bytes
        if missing > 0 and self._budget is not None:
            if not self._budget.take(missing):
                raise MemoryBudgetSpent
            self._taken_bytes = self._received_bytes

    # IClientRequest

    def header(self, name: bytes) -> bytes:
        """Give the value of the first field of that lower-case name, or nothing."""
        return self._first.get(name, b"")

    def read_body(self, limit_bytes: int, budget: IByteBudget) -> Deferred[bytes]:
        """Read the whole body; see `IClientRequest.read_body`."""
        assert self._reader is None
        if self._is_gone:
            return fail(ClientGone())
        self._limit_bytes, self._budget = limit_bytes, budget
        try:
            if self._failure is not None:
                raise self._failure
            self._account()
            ahead_bytes = (self._declared_bytes or 0) - self._received_bytes
            if ahead_bytes > 0:  # that there is no room for it is told before it is sent
                if not budget.take(ahead_bytes):
                    raise MemoryBudgetSpent
                budget.give_back(ahead_bytes)
        except GatewayError as error:
            self._failure = error
            self._release()
            return fail(error)
        if self._complete:
            return succeed(self._whole())
        if self._expects_continue and not self._received_bytes:
            self.channel.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        reader: Deferred[bytes] = Deferred(self._reading_cancelled)
        self._reader = reader
        self.channel.body_moved()
        self.channel.check_unread(self)
        return reader

    def _reading_cancelled(self, reader: Deferred[bytes]) -> None:
        del reader
        self._reader = None
        self._failure = self._failure or InternalError()
        self._release()

    def begin(self, status: int, reason: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Set the answer's head; see `IClientRequest.begin`."""
        self.code = status  # an earlier head may have failed unsent: all is set anew
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason or reason_phrase(status))]
        length_known = dated = False
        for name, value in headers:
            lower = name.lower()
            if lower in _FIELDS_OF_OURS:
                if lower == b"date":
                    dated = True
                elif lower == b"x-request-id" or status == 204:
                    continue  # no length in a 204: RFC 9110, section 8.6
                else:
                    length_known = True
            lines.append(b"%b: %b\r\n" % (name, value))
        cors = self.site.cors_fields(self)
        if cors:
            lines.append(encode_fields(cors))
        if not dated:
            lines.append(b"Date: %b\r\n" % self.site.date())
        self._bodiless = self.method == b"HEAD" or status in (204, 304)
        chunked = not length_known and not self._bodiless and self.clientproto == b"HTTP/1.1"
        if chunked:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        lines.append(b"X-Request-ID: %b\r\n" % self.request_id.encode("ascii"))
        self.chunked = int(chunked)
        self._framed = chunked or length_known
        self._head = b"".join(lines)

    def write(self, data: bytes) -> None:
        """Write a piece of the body, framed as the head says; the head goes with the first."""
        if self._is_gone or self.finished:
            return
        if self._bodiless:
            data = b""
        self.sentLength += len(data)
        if self.chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if not self.startedWriting:
            assert self._head, "begin comes first"
            self.startedWriting = 1
            data = b"%b%b\r\n%b" % (self._head, self.channel.end_line(self), data)
        if data:
            self.transport.write(data)

    def finish(self) -> None:
        """End the answer well."""
        self._gone = None
        if self._is_gone or self.finished:
            return
        if self._taken_bytes or self._pieces:
            self._release()
        if not self.startedWriting:
            self.write(b"")
        if self.chunked:
            self.channel.write(b"0\r\n\r\n")
        self.finished = 1
        self.site.log(self)
        channel = self.channel
        del self.channel
        channel.requestDone(self)
        notifications, self.notifications = self.notifications, []
        for notification in notifications:
            notification.callback(None)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Attach the producer that is paused while the client takes nothing."""
        if not self._is_gone and not self.finished:
            self.channel.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Detach it."""
        if not self._is_gone and not self.finished:
            self.channel.unregisterProducer()

    def break_off(self, farewell: bytes) -> None:
        """End the answer so that nobody takes it for complete."""
        self._gone = None
        if self._is_gone or self.finished:
            return
        if farewell:
            self.write(farewell)
        # Closing shows the break where chunks or a length frame the body; else only a reset does.
        channel = self.channel
        self._is_gone = True
        if self._framed:
            channel.loseConnection()
        else:
            channel.abort()

    def refuse_further(self) -> None:
        """Close the connection after this answer."""
        if not self._is_gone:
            self.channel.refuse_further()

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Have the callback called if the client leaves before the answer's end."""
        if self._is_gone:
            callback()
        else:
            self._gone = callback

    # twisted.web's hooks

    def process(self) -> None:
        """Find the resource and let it answer."""
        self.prepath: list[bytes] = []
        # "*" is the server as a whole: no path below the root.
        self.postpath: list[bytes] = [] if self.path == b"*" else self.path[1:].split(b"/")
        try:
            resource: Any = self.site.getResourceFor(self)
            self.render(resource)
        except Exception:  # noqa: BLE001 - the outermost edge of a request
            self.processingFailed(Failure())

    def processingFailed(self, reason: Failure) -> None:
        """Log a fault of ours and answer it without telling its inner life."""
        self._log.failure(
            "request {request!r} failed", failure=reason, request=self, request_id=self.request_id
        )
        if not self.startedWriting:
            answer_error(self, InternalError())
        else:
            self.break_off(b"")

    def connectionLost(self, reason: Failure) -> None:
        """The client has gone."""
        self._fail_reader_gone()
        if not self._is_gone:
            self._is_gone = True
            gone, self._gone = self._gone, None
            if gone is not None:
                gone()
        super().connectionLost(reason)

    def _fail_reader_gone(self) -> None:
        self._release()
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.errback(ClientGone())

    def notifyFinish(self) -> Deferred[None]:
        """Notify of the end, as `twisted.web` has it."""
        notification = super().notifyFinish()
        notification.addErrback(lambda _: None)
        return notification


class EdgeSite(server.Site):
    """The factory of client connections.

    Args:
        resource: The root of the Resource tree.
        reactor: Clock of all deadlines.
        limits: Of each connection.
        max_connections: Requests on more are turned away, but for local resources; what is over
            `SURPLUS_CONNECTIONS` above it is closed at once.
        trusted_proxies: Whose X-Forwarded-For is believed.
        now: Seconds since the epoch.
        random_bytes: Gives that many random bytes.
        cors_fields: Gives the fields that browsers need on an answer.
        log_request: Takes each request that no exchange has recorded, when it is answered.
        log_refused: Takes each error that was answered before there was a request.
        replaces_idle: Whether a connection too many takes the place of the one that is open
            longest of those on which nothing is under way; else it is closed.

    Attributes:
        is_ending: Whether every connection ends with the next answer on it.
    """

    def __init__(
        self,
        resource: IResource,
        *,
        reactor: Any,
        limits: EdgeLimits,
        max_connections: int,
        trusted_proxies: TrustedProxies,
        now: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        cors_fields: Callable[[EdgeRequest], Sequence[tuple[bytes, bytes]]],
        log_request: Callable[[EdgeRequest], None],
        log_refused: Callable[[GatewayError, str, str], None],
        replaces_idle: bool = False,
    ) -> None:
        super().__init__(resource, reactor=reactor)
        self.now = now
        self.timeouts = Timeouts(reactor)
        self._found: dict[bytes, IResource] = {}
        self._date_s = 0
        self._date = b""
        self._random_bytes = random_bytes
        self._log_request = log_request
        self._log_refused = log_refused
        self._replaces_idle = replaces_idle
        self._connections: dict[EdgeChannel, None] = {}
        self.is_ending = False
        self.replace(
            resource,
            limits=limits,
            max_connections=max_connections,
            trusted_proxies=trusted_proxies,
            cors_fields=cors_fields,
        )

    def replace(
        self,
        resource: IResource,
        *,
        limits: EdgeLimits,
        max_connections: int,
        trusted_proxies: TrustedProxies,
        cors_fields: Callable[[EdgeRequest], Sequence[tuple[bytes, bytes]]],
    ) -> None:
        """Serve another tree from the next request on; arguments as the constructor's.

        Connections that are open keep their limits.
        """
        self.resource = resource
        self.trusted_proxies = trusted_proxies
        self.cors_fields = cors_fields
        self._limits = limits
        self._max_connections = max_connections
        self._found.clear()

    def __repr__(self) -> str:
        return f"<EdgeSite {len(self._connections)} connections>"

    def buildProtocol(self, addr: IAddress | None) -> EdgeChannel | None:  # type: ignore[override]
        """Make the channel of a new connection, if there is room for one."""
        del addr
        over = len(self._connections) - self._max_connections
        is_surplus = over >= 0 and not self._make_room()
        if is_surplus and (self._replaces_idle or over >= SURPLUS_CONNECTIONS):
            return None
        channel = EdgeChannel(self, self._limits)
        channel.is_surplus = is_surplus
        channel.factory = self
        self._connections[channel] = None
        return channel

    def _make_room(self) -> bool:
        if self._replaces_idle:
            for channel in self._connections:
                if channel.is_idle:
                    channel.abort()
                    return True
        return False

    def connection_closed(self, channel: EdgeChannel) -> None:
        """Forget a connection."""
        self._connections.pop(channel, None)

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def keep_no_more(self) -> None:
        """Have every connection end with the next answer that begins on it."""
        self.is_ending = True

    @property
    def expects_requests(self) -> bool:
        """Whether there is a connection on which the first request is still to come."""
        return any(channel.is_unused for channel in self._connections)

    @property
    def delivering(self) -> int:
        """How many connections have an answer to deliver, or the end of one."""
        return sum(channel.is_delivering for channel in self._connections)

    def close_idle(self, *, unused: bool = True) -> None:
        """Close the connections that no request is being answered on.

        Args:
            unused: Those as well on which there never was one.
        """
        for channel in tuple(self._connections):
            if unused or not channel.is_unused:
                channel.close_when_idle()

    def abort_all(self) -> None:
        """Cut every connection."""
        for channel in tuple(self._connections):
            channel.abort()

    def make_request(self, channel: EdgeChannel, head: Head) -> EdgeRequest:
        """Make the request whose head has just come."""
        if channel.is_surplus:
            channel.refuse_further()
        return EdgeRequest(channel, self, head)

    def getResourceFor(self, request: Any) -> IResource:
        """Find a request's resource in the tree, or where it was found before."""
        if request.method != b"POST":
            return super().getResourceFor(request)
        resource = self._found.get(request.path)
        if resource is None:
            resource = super().getResourceFor(request)
            if getattr(resource, "stays", False):
                self._found[request.path] = resource
        return resource

    def date(self) -> bytes:
        """Give the value of the Date field in this second."""
        now_s = int(self.now())
        if now_s != self._date_s:
            self._date_s = now_s
            self._date = datetimeToString(now_s)
        return self._date

    def new_request_id(self) -> str:
        """Make a request id."""
        return new_id(self.now(), self._random_bytes(10))

    def refused(self, error: GatewayError, peer: IAddress, request_id: str) -> None:
        """Take note of an error that the channel answered itself."""
        self._log_refused(error, ip_of(peer), request_id)

    def log(self, request: Any) -> None:
        """Have a request logged; `twisted.web` calls this as each answer ends."""
        if not request.recorded:
            self._log_request(request)

    def startFactory(self) -> None:
        """Open no log file: logging is not this factory's."""

    def stopFactory(self) -> None:
        """Close nothing."""
