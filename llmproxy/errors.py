"""The error tree: one class per cause, and each class knows its status, code and retry policy.

``resources`` turns a `GatewayError` into an answer, in one place. Messages are plain words for the
person at the client: no numbers, ids or phrases that clients match on to decide about retries (the
status decides), except where the status itself invites a retry.
"""

from __future__ import annotations

from copy import copy
from typing import ClassVar

import attrs


class LLMProxyError(Exception):
    """Any error of our own."""


@attrs.frozen
class Problem:
    """One thing wrong in a configuration file.

    Attributes:
        path: The key's path: ``backends[0].url``; empty for the file itself.
        message: The value seen and the value wanted.
        line: 1-based; 0 when there is none.
        file: The file's name.
    """

    path: str
    message: str
    line: int = 0
    file: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ConfigError(LLMProxyError):
    """The configuration cannot be used; carries every problem found.

    Attributes:
        problems: At least one.
    """

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class ClientGone(LLMProxyError):
    """The client closed its connection; whatever runs for it ends."""


class StoreUnavailable(LLMProxyError):
    """A database, cache or service that we ask is down, slow, or gave nonsense; try again later."""


class ValueRefused(LLMProxyError):
    """A database cannot hold a value that it was given to store; another try changes nothing."""


class MalformedRecord(StoreUnavailable):
    """What a source says of a key restricts it, and cannot be read; the key cannot be judged."""


class RedisReplyError(LLMProxyError):
    """Redis answered with an error, such as WRONGTYPE; the message is its own."""


class KeyExists(LLMProxyError):
    """The key store has that key, or that id, already."""


class DeliveryFailed(LLMProxyError):
    """A receiver did not take a batch; it is to be tried again.

    Attributes:
        retry_after_s: How long the receiver asks to be left alone; None: it did not say.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EventsRefused(LLMProxyError):
    """A receiver has a batch for good, but for some events that it will never take as it is.

    Attributes:
        events: Those.
    """

    def __init__(self, message: str, events: tuple[bytes, ...]) -> None:
        super().__init__(message)
        self.events = events


class ReceiverGone(LLMProxyError):
    """A receiver wants nothing more, now or later."""


class ResendRefused(LLMProxyError):
    """A reporter is not sent anything again now; the message says why."""


class RelayBroken(LLMProxyError):
    """The answer broke off after its head was accepted; there is no retry from here.

    Attributes:
        code: Why, as in the error table.
        timeout: Whether a clock of ours ended it.
        blames_backend: As with the `GatewayError` that ended it.
    """

    def __init__(
        self, code: str, message: str, *, timeout: bool = False, blames_backend: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.timeout = timeout
        self.blames_backend = blames_backend


class GatewayError(LLMProxyError):
    """An error that is answered with a status and an OpenAI-shaped body.

    Attributes:
        status: HTTP status.
        type: ``error.type``.
        code: ``error.code``.
        param: ``error.param``: the request's key that is wrong.
        retry_after_s: Sent as ``Retry-After`` when not None.
        retryable: Whether another attempt may follow: only where the backend provably did not
            accept the request.
        blames_backend: Whether it is evidence that the backend is broken.
        close: Whether the client's connection cannot be used after the answer.
        headers: Further fields of the answer.
    """

    status: int = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    message: ClassVar[str] = "The gateway met an internal error."
    retryable: ClassVar[bool] = False
    blames_backend: ClassVar[bool] = False
    close: ClassVar[bool] = False
    default_retry_after_s: ClassVar[int | None] = None

    def __init__(
        self,
        message: str = "",
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message or self.message)
        self.param = param
        self.retry_after_s: float | None = (
            self.default_retry_after_s if retry_after_s is None else retry_after_s
        )
        self.headers = headers

    def restated(self, status: int | None, message: str) -> GatewayError:
        """Give the same error with another status or message, if they are given."""
        restated = copy(self)
        if message:
            restated.args = (message,)
        if status is not None:
            restated.status = status
        return restated


class InternalError(GatewayError):
    """A fault of our own; the log says more."""


# 400: the request itself


class BadRequest(GatewayError):
    """The request breaks HTTP's rules (RFC 9112); the connection cannot be trusted after it."""

    status = 400
    type = "invalid_request_error"
    code = "bad_request"
    message = "The request is not valid HTTP."
    close = True


class InvalidBody(GatewayError):
    """The body is JSON, but not what this path takes."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_body"
    message = "The request body is not what this path takes."


class InvalidJson(InvalidBody):
    """The body is not JSON."""

    code = "invalid_json"
    message = "The request body is not valid JSON."


class UnsupportedEncoding(GatewayError):
    """The body is compressed; the gateway must read the model's name."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_encoding"
    message = "The request body is compressed; send it without Content-Encoding."


# 401, 403: who


class InvalidApiKey(GatewayError):
    """No key, or one that nobody knows."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    message = "The API key is missing or not known here."

    def __init__(self, message: str = "") -> None:
        super().__init__(message, headers=((b"WWW-Authenticate", b"Bearer"),))


class PermissionDenied(GatewayError):
    """A known key that may not do this."""

    status = 403
    type = "permission_error"
    code = "permission_denied"
    message = "This API key may not do that."


class KeyDisabled(PermissionDenied):
    """The key was switched off."""

    code = "key_disabled"
    message = "This API key is disabled."


class KeyNotStarted(PermissionDenied):
    """The key's life has not begun."""

    code = "key_not_started"
    message = "This API key is not valid yet."


class KeyExpired(PermissionDenied):
    """The key's life is over."""

    code = "key_expired"
    message = "This API key has expired."


class IpNotAllowed(PermissionDenied):
    """The key may not be used from this address."""

    code = "ip_not_allowed"
    message = "This API key may not be used from this network address."


class ModelNotAllowed(PermissionDenied):
    """The key may not use this model."""

    code = "model_not_allowed"
    message = "This API key may not use the requested model."


# 402, 429: how much


class QuotaExceeded(GatewayError):
    """The budget is spent. Not 429: clients try that again for ever."""

    status = 402
    type = "insufficient_quota"
    code = "quota_exceeded"
    message = "The budget of this API key is spent."


class RateLimited(GatewayError):
    """Too much at once; ``retry_after_s`` says when it may be tried again."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    message = "Too many requests at the moment. Please try again later."
    default_retry_after_s = 1


class QuotaReserved(RateLimited):
    """The budget is not spent, but running requests hold all that is left of it."""

    message = "Running requests hold what is left of this key's budget. Please try again later."


class TooManyFailures(RateLimited):
    """Too many unknown keys from that address; no more of them are looked up for a while."""

    message = "Too many unknown API keys from this address. Please try again later."


# 404, 405, 408, 413, 414, 417, 431, 508: where and how


class ModelNotFound(GatewayError):
    """No backend serves a model of that name."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"
    message = "The requested model does not exist here."


class UnknownUrl(GatewayError):
    """The path is not one of those served."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"
    message = "This path is not served here."


class MethodNotAllowed(GatewayError):
    """The path is served, but not with this method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"
    message = "This path does not take this method."


class RequestTimeout(GatewayError):
    """The request did not arrive in time."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"
    message = "The request did not arrive in time."
    close = True


class BodyTooLarge(GatewayError):
    """The body is over ``server.max_body_size``."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"
    message = "The request body is larger than server.max_body_size allows."
    close = True


class UriTooLong(GatewayError):
    """The request target is over the limit."""

    status = 414
    type = "invalid_request_error"
    code = "uri_too_long"
    message = "The request target is longer than server.max_header_bytes allows."
    close = True


class ExpectationFailed(GatewayError):
    """An ``Expect`` other than ``100-continue`` (RFC 9110, section 10.1.1)."""

    status = 417
    type = "invalid_request_error"
    code = "expectation_failed"
    message = "The only expectation met here is one-hundred-continue."


class HeadersTooLarge(GatewayError):
    """The head is over ``server.max_header_bytes``, or has too many fields."""

    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"
    message = (
        "The request head is larger than server.max_header_bytes allows, "
        "or has more than a hundred fields."
    )
    close = True


class LoopDetected(GatewayError):
    """The request already passed through this gateway (RFC 9110, section 7.6.3)."""

    status = 508
    type = "invalid_request_error"
    code = "loop_detected"
    message = "The request already passed through this gateway: a backend points back at it."


class NotImplementedHere(GatewayError):
    """A transfer coding that is not supported (RFC 9112, section 6.1)."""

    status = 501
    type = "invalid_request_error"
    code = "not_implemented"
    message = "Only the chunked transfer coding is supported."
    close = True


class VersionNotSupported(GatewayError):
    """An HTTP version other than 1.0 and 1.1."""

    status = 505
    type = "invalid_request_error"
    code = "version_not_supported"
    message = "Only HTTP versions one-point-zero and one-point-one are spoken here."
    close = True


# 502, 503, 504: the backends


class UpstreamError(GatewayError):
    """A backend failed before it gave an answer."""

    status = 502
    type = "upstream_error"
    code = "upstream_error"
    message = "The inference server failed before it answered."


class ConnectFailed(UpstreamError):
    """No connection could be made: nothing was sent, so another backend may be tried."""

    code = "connect_failed"
    message = "The inference server cannot be reached."
    retryable = True
    blames_backend = True


class TlsFailed(ConnectFailed):
    """The TLS handshake with the backend failed."""

    code = "tls_failed"
    message = "No secure connection to the inference server could be made."


class ReusedConnectionDied(UpstreamError):
    """A kept-alive connection was closed as the request went out, and no byte came back."""

    code = "connection_lost"
    retryable = True


class ConnectionDied(UpstreamError):
    """The backend closed the connection before its answer's head was complete."""

    code = "connection_lost"
    message = "The inference server closed the connection before it answered."
    blames_backend = True


class BadResponse(UpstreamError):
    """What came back breaks HTTP's rules, or broke off before anything of it was sent on."""

    code = "bad_response"
    message = "The inference server gave an answer that is not valid."
    blames_backend = True


class NoBackend(GatewayError):
    """No backend can take the request now."""

    status = 503
    type = "overloaded_error"
    code = "no_backend"
    message = "No inference server for this model is available now."
    default_retry_after_s = 5


class BackendsFull(GatewayError):
    """Every backend that could take the request works on as many as it may; there is a queue."""

    status = 503
    type = "overloaded_error"
    code = "queue_full"
    message = "All inference servers for this model are busy."
    default_retry_after_s = 1


class QueueFull(BackendsFull):
    """As many requests wait for the model as may."""


class QueueTimeout(BackendsFull):
    """No backend had room for the request in ``routing.queue.max_wait``."""

    code = "queue_timeout"


class Overloaded(GatewayError):
    """The gateway itself has more to do than it can; turned away before anything is done for it."""

    status = 503
    type = "overloaded_error"
    code = "overloaded"
    message = "This gateway is busy."
    close = True
    default_retry_after_s = 1


class MemoryBudgetSpent(GatewayError):
    """All request bodies together are over ``server.max_inflight_bytes``."""

    status = 503
    type = "overloaded_error"
    code = "queue_full"
    message = "The gateway holds as many request bodies as it may."
    close = True
    default_retry_after_s = 1


class AuthUnavailable(GatewayError):
    """A source of keys cannot be asked, and what it said of this key is too old to hold."""

    status = 503
    type = "overloaded_error"
    code = "auth_unavailable"
    message = "The API key cannot be checked now."
    default_retry_after_s = 2


class LimitsUnavailable(GatewayError):
    """Where limits are counted cannot be asked, and ``on_storage_failure`` is ``deny``."""

    status = 503
    type = "overloaded_error"
    code = "limits_unavailable"
    message = "The limits of this gateway cannot be checked now."
    default_retry_after_s = 2


class Draining(GatewayError):
    """The daemon is stopping and takes no new requests."""

    status = 503
    type = "overloaded_error"
    code = "draining"
    message = "This gateway is shutting down."
    close = True
    default_retry_after_s = 1


class GatewayTimeout(GatewayError):
    """A clock of ours ran out while the backend worked."""

    status = 504
    type = "timeout_error"
    code = "timeout"
    message = "The inference server did not finish in time."


class FirstByteTimeout(GatewayTimeout):
    """The answer's first byte did not come in ``first_byte_timeout``."""

    code = "first_byte_timeout"
    message = "The inference server did not begin to answer in time."
    blames_backend = True


class StallTimeout(GatewayTimeout):
    """The answer began, and then nothing more came in ``stall_timeout``."""

    code = "stall_timeout"
    message = "The inference server fell silent."
    blames_backend = True
