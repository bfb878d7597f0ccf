"""What two parsers make of the same bytes: our edge, in memory, and h11.

A view is the requests that were read to their end, and how the connection stood afterwards. It does
not say who is right.
"""

from __future__ import annotations

import re
from typing import Literal

import attrs
import h11
from twisted.python.failure import Failure

from llmproxy.errors import GatewayError
from llmproxy.proxy.answer import answer_error
from llmproxy.resources.base import answer_json
from llmproxy.site import EdgeRequest
from tests.edge import Edge

_AUTHORITY = re.compile(rb"https?://[^/?]*", re.IGNORECASE)


@attrs.frozen
class Message:
    """One request.

    Attributes:
        method: The method.
        target: Path and query.
        body: The body, its framing taken off.
        fields: Names in lower case, and values.
    """

    method: bytes
    target: bytes
    body: bytes
    fields: tuple[tuple[bytes, bytes], ...] = attrs.field(eq=False)


End = Literal["idle", "incomplete", "refused", "closed"]
"""Waiting for a next request; for the rest of one; refusing what came; done with the connection."""


@attrs.frozen
class View:
    """The requests in some bytes.

    Attributes:
        messages: Those that are complete.
        end: How it stands behind the last of them.
        why: What was said against the bytes, when they were refused.
    """

    messages: tuple[Message, ...]
    end: End
    why: str = ""


def edge_view(raw: bytes) -> View:
    """Read bytes as our edge does."""
    messages: list[Message] = []
    refusals: list[str] = []

    def answer(request: EdgeRequest) -> None:
        def note(body: bytes) -> None:
            edge.budget.give_back(len(body))
            fields = tuple(request.raw_headers)
            messages.append(Message(request.method, request.uri, body, fields))
            answer_json(request, 200, "noted")

        def refuse(failure: Failure) -> None:
            error = failure.value
            assert isinstance(error, GatewayError)
            refusals.append(error.code)
            answer_error(request, error)

        request.read_body(1 << 20, edge.budget).addCallbacks(note, refuse)

    with Edge(answer) as edge:
        client = edge.connect().send(raw)
        closed = client.is_closed
        if not closed:
            # What is not complete is refused when its time is over; what is idle is not yet closed.
            edge.advance(60)
        refusals += [code for code, _, _ in edge.refused]
        edge.linger_out()
    if not closed:
        return View(tuple(messages), "incomplete" if refusals else "idle")
    return View(tuple(messages), "refused" if refusals else "closed", " ".join(refusals))


def h11_view(raw: bytes) -> View:
    """Read bytes as a server on h11 does, answering each request with a 404."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)
    messages: list[Message] = []
    request: h11.Request | None = None
    body = b""
    try:
        connection.receive_data(raw)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                messages.append(
                    Message(
                        bytes(request.method),
                        origin_form(bytes(request.target)),
                        body,
                        tuple((bytes(name), bytes(value)) for name, value in request.headers),
                    )
                )
                request = None
                connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return View(tuple(messages), "closed")
                connection.start_next_cycle()
            else:
                assert event is h11.NEED_DATA, event
                is_idle = request is None and not connection.trailing_data[0]
                return View(tuple(messages), "idle" if is_idle else "incomplete")
    except h11.RemoteProtocolError as error:
        return View(tuple(messages), "refused", str(error))


def origin_form(target: bytes) -> bytes:
    """Give path and query of a target in whichever form."""
    if target.startswith(b"/") or target == b"*":
        return target
    rest = _AUTHORITY.sub(b"", target, count=1)
    return rest if rest.startswith(b"/") else b"/" + rest
