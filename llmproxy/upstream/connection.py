"""One connection to a backend: llhttp reads its answers, one at a time.

It knows HTTP/1.1 and its pool; nothing of models, retries or clients.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import httptools
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, ISSLTransport, ISystemHandle
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from llmproxy.errors import (
    BadResponse,
    ConnectFailed,
    ConnectionDied,
    ReusedConnectionDied,
    TlsFailed,
)
from llmproxy.upstream.body import BytesBody
from llmproxy.upstream.response import UpstreamResponse
from llmproxy.wire.heads import behind_blank_line, check_response_head

if TYPE_CHECKING:
    from llmproxy.upstream.pool import ConnectionPool

MAX_HEAD_BYTES = 64 * 1024
"""Of an answer's head, interim answers before it included; and of what comes between two pieces of
its body, or after the last one: chunk extensions, trailers."""

MAX_FIELDS = 200


_PROTOCOL = b"HTTP/"
_FINAL = tuple(b"HTTP/1.%d %d" % (minor, kind) for minor in (0, 1) for kind in (2, 3, 4, 5))
_UNREADABLE = (httptools.HttpParserError, httptools.HttpParserUpgrade, BadResponse)


@implementer(IHandshakeListener)
class BackendConnection(Protocol):
    """A connection that carries one request after the other.

    States: ``connecting`` (TCP is up, TLS may not be), ``idle``, ``head`` (a request is out, its
    answer's head is awaited), ``body``, ``closed``.

    Attributes:
        ready: Fires when requests can be sent; fails with `TlsFailed`.
        requests: How many it has carried.
        keep_alive_s: How long the backend said it keeps an idle connection; None: it did not say.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self.state = "connecting"
        self.ready: Deferred[None] = Deferred()
        self.requests = 0
        self.keep_alive_s: float | None = None
        # The parser calls the list itself: an answer in many small chunks is collected without a
        # call of Python's for each. It is emptied, never replaced.
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Deferred[UpstreamResponse] | None = None
        self._response: UpstreamResponse | None = None
        self._method = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._phrase = b""
        self._quiet_bytes = 0
        self._start = self._end = (
            b""  # of the head that comes: its first bytes, and the last so far
        )
        self._in_trailers = False
        self._framed = True
        self._complete = False
        self._pieces_of_answer = 0
        self._reusable = True
        self._sent = True
        self._heard = False
        self._aborted = False
        self._body: IBodyProducer | None = None
        self._wire: Any = None  # TCP's own transport, beneath TLS if there is any
        self._handle: socket.socket | None = None
        self._socket: socket.socket | None = None  # the same, where what is written goes out as is

    def __repr__(self) -> str:
        return f"<BackendConnection {self.state} requests={self.requests}>"

    @property
    def _transport(self) -> Any:
        return self.transport

    # the connection

    def connectionMade(self) -> None:
        """TCP is up; over TLS the handshake comes first."""
        transport = self._transport
        set_no_delay = getattr(transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            set_no_delay(True)
        is_tls = ISSLTransport.providedBy(transport)
        self._wire = wire = getattr(transport, "transport", transport) if is_tls else transport
        handle = wire.getHandle() if ISystemHandle.providedBy(wire) else None
        self._handle = handle if isinstance(handle, socket.socket) else None
        if not is_tls:
            self._socket = self._handle
            self._become_ready()

    def handshakeCompleted(self) -> None:
        """TLS is up."""
        self._become_ready()

    def _become_ready(self) -> None:
        self.state = "idle"
        self.ready.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell whoever waits; how depends on what came before."""
        state, self.state = self.state, "closed"
        self._pool.forget(self)
        self._stop_body()
        if state == "connecting":
            error = TlsFailed() if ISSLTransport.providedBy(self.transport) else ConnectFailed()
            error.__cause__ = reason.value
            self.ready.errback(error)
        elif state == "head":
            self._fail_head(
                ReusedConnectionDied()
                if self.requests > 1 and not self._heard
                else ConnectionDied()
            )
        elif state == "body":
            assert self._response is not None
            if not self._framed and not self._aborted and reason.check(ConnectionDone):
                self._response.body_ended(Failure(PotentialDataLoss()))
            else:
                # A reset, or TLS cut off without its goodbye, ends nothing (RFC 9112, section 8).
                self._response.body_ended(Failure(ResponseFailed([reason])))

    # requests

    def send(
        self, method: bytes, target: bytes, lines: bytes, body: IBodyProducer | None
    ) -> Deferred[UpstreamResponse]:
        """Send a request.

        Args:
            method: The method.
            target: Path and query.
            lines: Encoded field lines, Host among them, each with its CR LF; without framing.
            body: The body; its length must be known.

        Returns:
            A Deferred of the answer's head. Cancelling it cuts the connection. It fails with
            `ReusedConnectionDied`, `ConnectionDied` or `BadResponse`.
        """
        assert self.state == "idle", self.state
        self.state = "head"
        self.requests += 1
        self._method = method
        self._heard = self._complete = False
        self._answer = Deferred(lambda _: self.abort())
        answer = self._answer
        if body is not None:
            framing = b"Content-Length: %d\r\n" % (body.length,)
        elif method in (b"POST", b"PUT", b"PATCH"):
            framing = b"Content-Length: 0\r\n"
        else:
            framing = b""
        head = b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, lines, framing)
        if self._socket is not None and isinstance(body, BytesBody):
            head = body.send_now(self._socket, head)
            if body.is_sent and not head:
                return answer
        if head:
            self._transport.write(head)
        if body is not None:
            self._sent = False
            self._body = body
            body.startProducing(self._transport).addCallbacks(self._body_sent, self._body_failed)
        return answer

    def _body_sent(self, _: object) -> None:
        self._sent = True
        self._body = None

    def _body_failed(self, failure: Failure) -> None:
        """The request cannot be completed: its producer's error is the answer."""
        self._body = None
        self._fail_head(failure)
        self.abort()

    def _stop_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.stopProducing()

    def pause(self) -> None:
        """Read no further for now."""
        if self.state == "body" and not self._aborted:
            self._transport.pauseProducing()

    def resume(self) -> None:
        """Read on."""
        if self.state == "body" and not self._aborted:
            self._transport.resumeProducing()

    def abort(self) -> None:
        """Cut the connection at once, whatever is under way."""
        if self._aborted:
            return
        self._aborted = True
        self._stop_body()
        self._transport.abortConnection()

    def is_quiet(self) -> bool:
        """Say whether nothing has come on an idle connection, which would be its end.

        The reactor may not have read it yet: what waits in the kernel is the backend's closing, or
        bytes that nobody asked for; over TLS these are its goodbye.
        """
        if self._wire.disconnecting:
            return False  # TLS has read the goodbye
        if self._handle is None:
            return True
        try:
            self._handle.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close an idle connection."""
        self._transport.loseConnection()

    # answers

    def dataReceived(self, data: bytes) -> None:
        """Parse what came; give the receiver all of it at once."""
        state = self.state
        if self._aborted or state == "closed":
            return  # the transport may have had more in hand
        if state == "idle" and not data.strip(b"\r\n"):
            return  # an empty line too many, which the parser takes with the answer it follows
        if state in ("connecting", "idle"):
            # A backend that speaks unasked cannot be trusted with a request.
            self._pool.forget(self)
            self.abort()
            return
        try:
            if state == "body":
                self._parser.feed_data(data)
                pieces = self._pieces
                if len(pieces) == 1 and not self._complete:
                    # What every token of a stream comes through.
                    self._quiet_bytes = 0
                    assert self._response is not None
                    self._response.body_received(pieces.pop())
                    return
                self._note_progress(data, bool(pieces))
            else:
                self._feed_head(data)
        except _UNREADABLE:
            if not self._complete:
                self._break()
                return
            self._reusable = False
        self._deliver()

    def _feed_head(self, data: bytes) -> None:
        """Parse what may be a head, or a part of one, and bound it.

        Raises:
            BadResponse: There is too much of it, or another protocol answers.
        """
        self._heard = True
        room = MAX_HEAD_BYTES - self._quiet_bytes
        self._feed_heads(data[:room] if len(data) > room else data)
        if len(data) > room:
            if self._response is None:
                raise BadResponse
            self._parser.feed_data(data[room:])
        self._note_progress(data, self._response is not None)

    def _feed_heads(self, data: bytes) -> None:
        """Feed head by head, so that the beginning of each is seen: RTSP and ICE are no answers.

        Raises:
            BadResponse: One begins otherwise than HTTP does.
        """
        at = 0
        while at < len(data) and self._response is None:
            cut = len(data)
            if self._start:
                cut = behind_blank_line(self._end, data, at)
            elif data.startswith(_FINAL, at):
                self._start = _PROTOCOL  # nearly all are: no interim answer comes before them
            if len(self._start) < len(_PROTOCOL):
                cut = behind_blank_line(self._end, data, at)
                self._start = (self._start + data[at:cut])[: len(_PROTOCOL)]
                if not _PROTOCOL.startswith(self._start):
                    raise BadResponse
            piece = data[at:cut]
            self._end = (self._end + piece[-3:])[-3:]
            self._parser.feed_data(piece)
            at = cut
        if at < len(data):
            self._parser.feed_data(data[at:])

    def _note_progress(self, data: bytes, progress: bool) -> None:
        """Bound what is neither head nor body.

        Raises:
            BadResponse: There is too much of it.
        """
        if progress or self._complete:
            self._quiet_bytes = 0
        else:
            self._quiet_bytes += len(data)
            if self._quiet_bytes > MAX_HEAD_BYTES:
                raise BadResponse

    def _break(self) -> None:
        """What came is no HTTP: end the answer, and the connection with it."""
        state, self.state = self.state, "closed"
        self._pool.forget(self)
        if state == "head":
            self._fail_head(BadResponse())
        elif self._response is not None:
            piece = self._taken_pieces()
            if piece:
                self._response.body_received(piece)
            self._response.body_ended(Failure(ResponseFailed([Failure(BadResponse())])))
        self.abort()

    def _taken_pieces(self) -> bytes:
        """Take what was collected of the body, without what came after its end."""
        pieces = self._pieces
        if self._complete:
            del pieces[self._pieces_of_answer :]
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return piece

    def _fail_head(self, error: Exception | Failure) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.called:
            answer.errback(error)

    def _deliver(self) -> None:
        response = self._response
        if response is None:
            return
        # Taken before anybody is told anything: told of the end, the receiver's owner may send the
        # next request on this very connection, and that one's answer is another.
        answer, self._answer = self._answer, None
        if self._pieces:
            piece = self._taken_pieces()
            if piece:
                response.body_received(piece)
        if self._complete:
            self._finish(response)
        elif self.state == "head":
            # Nobody receives the body yet: no more of it until somebody does.
            self.state = "body"
            self._transport.pauseProducing()
        if answer is not None:
            answer.callback(response)

    def _finish(self, response: UpstreamResponse) -> None:
        """The answer is complete: the connection goes back, or away."""
        self._response = None
        self._fields, self._phrase, self._quiet_bytes = [], b"", 0
        self._start = self._end = b""
        self._in_trailers = False
        if self._reusable and self._sent and not self._aborted:
            self.state = "idle"
            # A slow receiver may have paused it; idle, it must hear the backend close.
            self._transport.resumeProducing()
            self._pool.put(self)
        else:
            self.state = "closed"
            self._pool.forget(self)
            if self._sent and not self._aborted:
                self._transport.loseConnection()
            else:
                self.abort()
        response.body_ended()

    # llhttp's callbacks

    def on_message_begin(self) -> None:
        """A message begins; a second one in answer to one request is not ours."""
        if self._complete:
            self._reusable = False

    def on_status(self, phrase: bytes) -> None:
        """Take (a part of) the reason phrase."""
        if not self._complete:
            self._phrase += phrase

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field; trailers are dropped."""
        if self._complete or self._in_trailers:
            return
        self._fields.append((name.lower(), value.strip(b" \t")))
        if len(self._fields) > MAX_FIELDS:
            raise BadResponse

    def on_headers_complete(self) -> None:
        """The head is complete: hold it to the rules."""
        if self._complete:
            return
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        check_response_head(version, status, self._fields, self._phrase)
        if status < 200:
            return  # interim: swallowed (RFC 9110, section 15.2)
        self._in_trailers = True
        self._framed = status in (204, 304)
        for name, value in self._fields:
            if name in (b"content-length", b"transfer-encoding"):
                self._framed = True
            elif name == b"keep-alive":
                self.keep_alive_s = _keep_alive_s(value)
        self._response = UpstreamResponse(
            self, (b"HTTP", 1, int(version[2])), status, self._phrase, self._fields
        )
        if self._method == b"HEAD" and status not in (204, 304):
            # The parser cannot be told that no body follows: this connection ends here.
            self._complete, self._reusable = True, False
            self._pieces_of_answer = 0

    def on_message_complete(self) -> None:
        """The answer is complete, or an interim one is."""
        if self._complete:
            return
        if self._response is None:
            self._fields, self._phrase = [], b""
            self._start = self._end = b""
            return
        self._complete = True
        self._pieces_of_answer = len(self._pieces)
        self._reusable = self._reusable and self._parser.should_keep_alive()


def _keep_alive_s(value: bytes) -> float | None:
    """Read ``timeout=N`` of a Keep-Alive field, in seconds."""
    for part in value.lower().split(b","):
        name, _, number = part.strip().partition(b"=")
        if name.strip() == b"timeout" and number.strip().isdigit():
            return float(number)
    return None
