"""The edge's Site and its requests: between the channel's bytes and the Resource tree.

A request reaches the tree when its head is complete; whoever wants the body pulls it. Nothing of a
body is kept before that but what came in one read, and never a byte on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import datetimeToString
from twisted.web.resource import IResource
from zope.interface import implementer

from llmproxy.channel import EdgeChannel, EdgeLimits
from llmproxy.errors import BodyTooLarge, ClientGone, GatewayError, InternalError, MemoryBudgetSpent
from llmproxy.interfaces import IByteBudget, IClientRequest
from llmproxy.proxy.answer import answer_error
from llmproxy.wire.api_errors import reason_phrase
from llmproxy.wire.forwarded import TrustedProxies
from llmproxy.wire.request_id import new_id, sane_request_id

SMALL_PIECE_BYTES = 4096


@implementer(IClientRequest)
class EdgeRequest(server.Request):
    """One request of a client.

    Attributes:
        last: Whether the client closes after it.
        recorded: Whether an exchange writes its access-log line.
    """

    _log = Logger()
    channel: EdgeChannel  # type: ignore[assignment]
    site: EdgeSite

    def __init__(self, channel: EdgeChannel, site: EdgeSite) -> None:
        super().__init__(channel, queued=False)
        self.site = site
        self.last = False
        self.recorded = False
        self.raw_headers: Sequence[tuple[bytes, bytes]] = ()
        self.request_id = ""
        self.client_ip = self.peer_ip = ""
        self.from_trusted_proxy = False
        self.secure = channel.isSecure()
        self.started_s = 0.0
        self._first: dict[bytes, bytes] = {}
        self._head = b""
        self._bodiless = False
        self._framed = False
        self._gone: Callable[[], None] | None = None
        self._is_gone = False
        # The body: pieces until somebody reads it, then until it is complete.
        self._pieces: list[bytes | bytearray] = []
        self._received_bytes = 0
        self._declared_bytes: int | None = None
        self._complete = False
        self._failure: GatewayError | None = None
        self._expects_continue = False
        self._reader: Deferred[bytes] | None = None
        self._limit_bytes = 0
        self._budget: IByteBudget | None = None
        self._taken_bytes = 0

    def __repr__(self) -> str:
        return f"<EdgeRequest {self.request_id} {self.method!r} {self.uri!r}>"

    # from the channel

    def head_received(
        self,
        *,
        method: bytes,
        uri: bytes,
        authority: bytes,
        version: str,
        fields: list[tuple[bytes, bytes]],
        started_s: float,
    ) -> None:
        """Take a head that keeps the rules."""
        self.method, self.uri = method, uri
        self.path = uri.partition(b"?")[0]
        self.clientproto = b"HTTP/" + version.encode("ascii")
        if authority:
            fields = [(name, value) for name, value in fields if name != b"host"]
            fields.insert(0, (b"host", authority))
        self.raw_headers = fields
        self._first = dict(reversed(fields))
        self.started_s = started_s
        forwarded_for = []
        chunked = False
        for name, value in fields:
            if name == b"content-length":
                self._declared_bytes = int(value)
            elif name == b"transfer-encoding":
                chunked = True
            elif name == b"expect":
                self._expects_continue = version == "1.1"
            elif name == b"x-forwarded-for":
                forwarded_for.append(value)
            elif name == b"x-request-id" and not self.request_id:
                self.request_id = sane_request_id(value)
        if not chunked and self._declared_bytes is None:
            self._declared_bytes = 0
        self.request_id = self.request_id or self.site.new_request_id()
        self.peer_ip = peer_ip(self.channel.getPeer())
        proxies = self.site.trusted_proxies
        self.from_trusted_proxy = proxies.trusts(self.peer_ip)
        self.client_ip = proxies.client_ip(self.peer_ip, forwarded_for)

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
        """Hold the body to its limit and take its bytes out of the budget."""
        wanted = max(self._received_bytes, self._declared_bytes or 0)
        if wanted > self._limit_bytes:
            raise BodyTooLarge
        missing = wanted - self._taken_bytes
        if missing > 0 and self._budget is not None:
            if not self._budget.take(missing):
                raise MemoryBudgetSpent
            self._taken_bytes = wanted

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
            if lower == b"content-length":
                if status == 204:
                    continue  # RFC 9110, section 8.6
                length_known = True
            elif lower == b"date":
                dated = True
            elif lower == b"x-request-id":
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        lines.extend(b"%b: %b\r\n" % field for field in self.site.cors_fields(self))
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
            self.channel.write(data)

    def finish(self) -> None:
        """End the answer well."""
        self._gone = None
        if not self._is_gone and not self.finished:
            self._release()
            super().finish()

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
            resource = self.site.getResourceFor(self)
            self.render(resource)
        except Exception:  # noqa: BLE001 - the outermost edge of a request
            self.processingFailed(Failure())

    def processingFailed(self, reason: Failure) -> None:
        """Log a fault of ours and answer it without telling its inner life."""
        self._log.failure("request {request!r} failed", failure=reason, request=self)
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


def peer_ip(peer: IAddress) -> str:
    """Give the IP of an address; empty for a Unix socket."""
    if isinstance(peer, IPv4Address | IPv6Address):
        host = peer.host.partition("%")[0]
        return host[7:] if host.startswith("::ffff:") and "." in host else host
    return ""


class EdgeSite(server.Site):
    """The factory of client connections.

    Args:
        resource: The root of the Resource tree.
        reactor: Clock of all deadlines.
        limits: Of each connection.
        max_connections: More are closed at once.
        trusted_proxies: Whose X-Forwarded-For is believed.
        now: Seconds since the epoch.
        random_bytes: Gives that many random bytes.
        cors_fields: Gives the fields that browsers need on an answer.
        log_request: Takes each request that no exchange has recorded, when it is answered.
        log_refused: Takes each error that was answered before there was a request.
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
    ) -> None:
        super().__init__(resource, reactor=reactor)
        self.trusted_proxies = trusted_proxies
        self.now = now
        self.cors_fields = cors_fields
        self._date_s = 0
        self._date = b""
        self._limits = limits
        self._max_connections = max_connections
        self._random_bytes = random_bytes
        self._log_request = log_request
        self._log_refused = log_refused
        self._connections: set[EdgeChannel] = set()

    def __repr__(self) -> str:
        return f"<EdgeSite {len(self._connections)} connections>"

    def buildProtocol(self, addr: IAddress | None) -> EdgeChannel | None:  # type: ignore[override]
        """Make the channel of a new connection, if there is room for one."""
        del addr
        if len(self._connections) >= self._max_connections:
            return None
        channel = EdgeChannel(self, self._limits)
        channel.factory = self
        self._connections.add(channel)
        return channel

    def connection_closed(self, channel: EdgeChannel) -> None:
        """Forget a connection."""
        self._connections.discard(channel)

    def close_idle(self) -> None:
        """Close the connections that no request is being answered on."""
        for channel in tuple(self._connections):
            channel.close_when_idle()

    def abort_all(self) -> None:
        """Cut every connection."""
        for channel in tuple(self._connections):
            channel.abort()

    def make_request(self, channel: EdgeChannel) -> EdgeRequest:
        """Make the request whose head has just come."""
        return EdgeRequest(channel, self)

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
        self._log_refused(error, peer_ip(peer), request_id)

    def log(self, request: Any) -> None:
        """Have a request logged; `twisted.web` calls this as each answer ends."""
        if not request.recorded:
            self._log_request(request)

    def startFactory(self) -> None:
        """Open no log file: logging is not this factory's."""

    def stopFactory(self) -> None:
        """Close nothing."""
