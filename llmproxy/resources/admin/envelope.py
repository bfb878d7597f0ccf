"""The answers of the admin API: the envelope around what was done, or around why it was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import msgspec

from llmproxy.errors import GatewayError, KeyExists, LLMProxyError, StoreUnavailable
from llmproxy.wire.admin import Failure, FailureCode, Success

if TYPE_CHECKING:
    from llmproxy.site import EdgeRequest

CODES: Mapping[int, FailureCode] = {
    400: "invalid_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "already_exists",
    413: "request_too_large",
    429: "too_many_attempts",
    500: "internal_error",
    503: "unavailable",
}
"""The code of each status that is answered."""

RETRY_AFTER_S = 2


class Refusal(LLMProxyError):
    """Why an operation is not done.

    Args:
        status: One of `CODES`.
        message: For a person; no secret in it.
        param: The field that is wrong; empty: none.
        headers: Further fields of the answer.
        close: Whether the connection cannot be used afterwards.

    Attributes:
        status: See above.
        param: See above.
        headers: See above.
        close: See above.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str = "",
        headers: Sequence[tuple[bytes, bytes]] = (),
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.headers = headers
        self.close = close


def refusal_of(error: BaseException) -> Refusal | None:
    """Give what an error is answered with; None: it is a fault of ours."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, StoreUnavailable):
        return Refusal(
            503,
            "A store that this needs cannot be asked now. Please try again later.",
            headers=_retry_after(RETRY_AFTER_S),
        )
    if isinstance(error, KeyExists):
        return Refusal(409, "That key, or a key of that id, is stored already.")
    if isinstance(error, GatewayError) and error.status in CODES:
        wait_s = error.retry_after_s
        return Refusal(
            error.status,
            str(error),
            param=error.param or "",
            headers=(*error.headers, *(_retry_after(wait_s) if wait_s is not None else ())),
            close=error.close,
        )
    return None


def refused_for_now(seconds: float) -> Refusal:
    """Make the refusal of an address that tried too many tokens."""
    return Refusal(
        429,
        "Too many wrong tokens from this address. Please try again later.",
        headers=_retry_after(seconds),
    )


def answer_success(request: EdgeRequest, message: str, content: Any) -> None:
    """Answer that it was done."""
    answer_bytes(request, 200, msgspec.json.encode(Success(message=message, data=content)))


def answer_refusal(request: EdgeRequest, refusal: Refusal) -> None:
    """Answer why it was not done."""
    failure = Failure(error=str(refusal), code=CODES[refusal.status], param=refusal.param)
    if refusal.close:
        request.refuse_further()
    answer_bytes(request, refusal.status, msgspec.json.encode(failure), refusal.headers)


def answer_bytes(
    request: EdgeRequest, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Answer with JSON that is already encoded; no cache keeps it and no browser guesses at it."""
    request.begin(
        status,
        b"",
        (
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(body)),
            (b"Cache-Control", b"no-store"),
            (b"X-Content-Type-Options", b"nosniff"),
            *headers,
        ),
    )
    request.write(body)
    request.finish()


def _retry_after(seconds: float) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"Retry-After", b"%d" % max(ceil(seconds), 1)),)
