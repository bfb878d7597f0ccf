"""What all resources share: their methods, and errors in JSON instead of Twisted's HTML."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from llmproxy.errors import GatewayError, InternalError, MethodNotAllowed, UnknownUrl
from llmproxy.interfaces import IClientRequest
from llmproxy.proxy.answer import answer_error
from llmproxy.values import ANONYMOUS, Principal

if TYPE_CHECKING:
    from llmproxy.site import EdgeRequest

Identify = Callable[[IClientRequest], "Deferred[Principal]"]


class EdgeResource(Resource):
    """A resource that answers in JSON, whatever happens.

    Args:
        identify: Says who asks, failing with what keeps them out; None: everybody may.

    Attributes:
        methods: What it takes, besides OPTIONS.
        stays: Whether the tree gives this very object to every POST to its path, so that it need
            not be looked for again.
    """

    methods: ClassVar[Sequence[bytes]] = ()
    stays: ClassVar[bool] = False
    _log = Logger()

    def __init__(self, identify: Identify | None = None) -> None:
        super().__init__()
        self._identify = identify

    def getChild(self, path: bytes, request: Any) -> Resource:
        """What is not in the tree is not served."""
        del path, request
        return ErrorResource(UnknownUrl())

    def render(self, request: EdgeRequest) -> int:
        """Answer, with whatever method was asked."""
        if request.method in self.methods:
            if self._identify is None:
                self.answer(request, ANONYMOUS)
            else:
                running = Deferred.fromCoroutine(self._answer_known(request, self._identify))
                request.on_gone(running.cancel)
        elif not self.methods:
            refuse(request, UnknownUrl())
        elif request.method == b"OPTIONS":
            # Answered here, never relayed (RFC 9110, section 9.3.7).
            allow = b", ".join((*self.methods, b"OPTIONS"))
            request.begin(204, b"", ((b"Allow", allow),))
            request.finish()
        else:
            allow = b", ".join((*self.methods, b"OPTIONS"))
            refuse(request, MethodNotAllowed(headers=((b"Allow", allow),)))
        return NOT_DONE_YET

    async def _answer_known(self, request: EdgeRequest, identify: Identify) -> None:
        try:
            request.principal = principal = await identify(request)
            done = self.answer(request, principal)
            if done is not None:
                await done
        except CancelledError:
            self._log.debug(
                "{request!r} left before it was answered",
                request=request,
                request_id=request.request_id,
            )
        except GatewayError as error:
            refuse(request, error)
        except Exception:  # noqa: BLE001 - the outermost edge of this request
            self._log.failure("{request!r} failed", request=request, request_id=request.request_id)
            refuse(request, InternalError())

    def answer(
        self, request: EdgeRequest, principal: Principal
    ) -> Coroutine[Deferred[Any], Any, None] | None:
        """Answer one of ``methods``; the resource finishes the request itself.

        A coroutine only where `identify` was given; the client's leaving cancels it.

        Raises:
            GatewayError: Only where `identify` was given: it is answered.
        """
        raise NotImplementedError


class ErrorResource(EdgeResource):
    """Answers every request with the same error."""

    isLeaf = True

    def __init__(self, error: GatewayError) -> None:
        super().__init__()
        self._error = error

    def render(self, request: EdgeRequest) -> int:
        """Answer with the error."""
        refuse(request, self._error)
        return NOT_DONE_YET


def refuse(request: EdgeRequest, error: GatewayError) -> None:
    """Answer with an error, and have it in the access log."""
    request.error_code = error.code
    answer_error(request, error)


def answer_json(request: EdgeRequest, status: int, value: object) -> None:
    """Answer with a JSON body."""
    body = msgspec.json.encode(value)
    request.begin(
        status,
        b"",
        (
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(body)),
            (b"Cache-Control", b"no-store"),
        ),
    )
    request.write(body)
    request.finish()
