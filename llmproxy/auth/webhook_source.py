"""Keys that a service of the operator's knows, which is asked for each.

It knows what is sent and what answers mean; connections are the client's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, Protocol

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse
from zope.interface import implementer

from llmproxy.auth.digests import DefaultIds
from llmproxy.auth.field_values import json_value
from llmproxy.auth.records import record_from_fields
from llmproxy.errors import LLMProxyError, MalformedRecord, StoreUnavailable
from llmproxy.interfaces import IKeySource
from llmproxy.key_records import KeyRecord, KeyStatus

LIMIT_BYTES: Final = 64 * 1024
"""How long an answer's body may be."""

_REFUSALS: Final[Mapping[int, KeyStatus]] = {402: "quota_exceeded", 403: "disabled"}
_UNKNOWN: Final = (401, 404)


class WebhookClient(Protocol):
    """The part of treq's ``HTTPClient`` that is used."""

    def request(self, method: str, url: str, **arguments: Any) -> Deferred[IResponse]:
        """Send a request."""


class _TookTooLong(LLMProxyError):
    """The whole answer did not come in time."""

    @classmethod
    def instead(cls, _result: Any, timeout_s: float) -> NoReturn:
        """Raise this whatever the cancelling left behind; for ``Deferred.addTimeout``."""
        raise cls(f"no answer within {timeout_s:g} s")


@implementer(IKeySource)
class WebhookSource:
    """Asks a service for each key.

    It is sent ``{"api_key": KEY, "timestamp": seconds}``. It answers 200 with the fields of the
    key's record; with a field ``code`` among them (the form of the Go LLMProxy), anything else than
    0 in it refuses the key. 401 and 404 say that the key is not known, 403 that it is disabled, 402
    that its budget is spent. Anything else says nothing.

    Args:
        name: As the configuration calls it.
        url: Where the service is.
        headers: Further headers to send.
        timeout_s: Of a whole question.
        new_client: Makes a client for one question: treq's remember cookies, and one key's are not
            to go with another's.
        read_body: Reads an answer's body up to so many bytes.
        clock: The reactor's time.
        now: Gives the wall clock's time, seconds since the epoch.
        ids: Makes ids for answers without one.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str,
        headers: Mapping[str, str],
        timeout_s: float,
        new_client: Callable[[], WebhookClient],
        read_body: Callable[[IResponse, int], Deferred[bytes]],
        clock: IReactorTime,
        now: Callable[[], float],
        ids: DefaultIds,
    ) -> None:
        self.name = name
        self._url = url
        self._headers = {**headers, "Content-Type": "application/json"}
        self._timeout_s = timeout_s
        self._new_client = new_client
        self._read_body = read_body
        self._clock = clock
        self._now = now
        self._ids = ids

    def __repr__(self) -> str:
        return f"<WebhookSource {self.name}>"

    def find(self, credential: str) -> Deferred[KeyRecord | None]:
        """Ask for a key; see `IKeySource`."""
        return Deferred.fromCoroutine(self._find(credential))

    async def _find(self, credential: str) -> KeyRecord | None:
        asked = Deferred.fromCoroutine(self._ask(credential))
        if self._timeout_s:
            asked.addTimeout(self._timeout_s, self._clock, _TookTooLong.instead)
        status, body = await asked.addErrback(_unavailable)
        if status in _UNKNOWN:
            return None
        if status in _REFUSALS:
            return _refused(_REFUSALS[status])
        if status != 200:
            raise StoreUnavailable(f"it answered {status}")
        fields = json_value(body)
        if not isinstance(fields, dict):
            raise MalformedRecord("the answer is not a JSON object")
        if "code" in fields:
            code = fields["code"]
            if isinstance(code, bool) or not isinstance(code, int):
                raise MalformedRecord("code is not a whole number")
            if code:
                return _refused("disabled")
            fields.setdefault("status", "active")  # that is what the code says
        return record_from_fields(fields, self._ids.maker(credential), credential)

    async def _ask(self, credential: str) -> tuple[int, bytes]:
        response = await self._new_client().request(
            "POST",
            self._url,
            headers=Headers({name: [value] for name, value in self._headers.items()}),
            data=msgspec.json.encode({"api_key": credential, "timestamp": int(self._now())}),
            allow_redirects=False,
            unbuffered=True,
        )
        # The body is read whatever the status, so that the connection can be used again.
        return response.code, await self._read_body(response, LIMIT_BYTES)


def _refused(status: KeyStatus) -> KeyRecord:
    """Make a record of nothing but a refusal: nobody sees its id, and making one takes time."""
    return KeyRecord(id="", status=status)


def _unavailable(failure: Failure) -> NoReturn:
    """Turn whatever kept the service from answering into one error; cancelling stays cancelling."""
    if failure.check(CancelledError):
        failure.raiseException()
    error = failure.value
    while inner := getattr(error, "reasons", None):  # twisted.web's wrappers
        error = inner[0].value
    raise StoreUnavailable(str(error).strip() or type(error).__name__) from None
