"""Usage is posted to a service of the operator's, signed.

It knows what answers mean; connections are the agent's, and when to try again is the delivery's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Final, NoReturn

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.client import FileBodyProducer
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer

from llmproxy import __version__
from llmproxy.deliveries import Batch
from llmproxy.errors import DeliveryFailed, ReceiverGone
from llmproxy.interfaces import IUsageSink
from llmproxy.wire.retry_after import read_retry_after
from llmproxy.wire.webhook_message import WebhookFormat, messages, sign

LIMIT_BYTES: Final = 64 * 1024
"""How much of an answer is read."""

_GONE: Final = 410
_SLOW_DOWN: Final = (429, 503)


@implementer(IUsageSink)
class WebhookSink:
    """Posts batches.

    Any 2xx says that the receiver has them, and 410 that it wants nothing more. No redirect is
    followed, no cookie kept, and nothing of an answer but its status and ``Retry-After`` counts.

    Args:
        url: Where to.
        headers: Further fields to send.
        keys: Sign what is sent; none: it is not signed.
        message_format: Many records in one message, or each in one of its own.
        timeout_s: Of one message.
        agent: Sends requests.
        read_body: Reads an answer's body up to so many bytes.
        reason_of: Says why a request failed.
        clock: The reactor's time.
        now: Seconds since the epoch.

    Attributes:
        kinds: The kinds of events that it takes: receivers of single records know no alerts.
    """

    def __init__(
        self,
        *,
        url: str,
        headers: Mapping[str, str],
        keys: tuple[bytes, ...],
        message_format: WebhookFormat,
        timeout_s: float,
        agent: IAgent,
        read_body: Callable[[IResponse, int], Deferred[bytes]],
        reason_of: Callable[[Failure], str],
        clock: IReactorTime,
        now: Callable[[], float],
    ) -> None:
        self.kinds = frozenset(("usage", "alert") if message_format == "batch" else ("usage",))
        self._url = url.encode("ascii")
        self._headers = {
            "User-Agent": f"llmproxy/{__version__}",
            **headers,
            "Content-Type": "application/json",
        }
        self._keys = keys
        self._format = message_format
        self._timeout_s = timeout_s
        self._agent = agent
        self._read_body = read_body
        self._reason_of = reason_of
        self._clock = clock
        self._now = now
        self._begun_id = ""
        self._sent = 0  # messages of the batch that was begun

    def deliver(self, batch: Batch) -> Deferred[None]:
        """Post a batch; see `IUsageSink`."""
        return Deferred.fromCoroutine(self._deliver(batch))

    async def _deliver(self, batch: Batch) -> None:
        if batch.id != self._begun_id:
            self._begun_id, self._sent = batch.id, 0
        for number, (message_id, body) in enumerate(messages(batch, self._format)):
            if number >= self._sent:  # what was taken is not sent again with what was not
                await self._post(message_id, body)
                self._sent = number + 1
        self._begun_id = ""

    async def _post(self, message_id: str, body: bytes) -> None:
        timestamp = int(self._now())
        fields = {
            **self._headers,
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
        }
        if self._keys:
            fields["webhook-signature"] = sign(self._keys, message_id, timestamp, body)
        asked: Deferred[IResponse] = self._agent.request(
            b"POST",
            self._url,
            Headers({name: [value] for name, value in fields.items()}),
            FileBodyProducer(BytesIO(body)),
        )
        asked.addTimeout(self._timeout_s, self._clock, _too_slow)
        response = await asked.addErrback(self._failed)
        await self._read_rest(response)
        status = response.code
        if status == _GONE:
            raise ReceiverGone(f"it answered {status}")
        if not 200 <= status < 300:
            slow = status in _SLOW_DOWN
            raise DeliveryFailed(
                f"it answered {status}", self._retry_after_s(response) if slow else None
            )

    async def _read_rest(self, response: IResponse) -> None:
        """Read the body, so that the connection can be used again; the status has said it all."""
        rest = self._read_body(response, LIMIT_BYTES)
        rest.addTimeout(self._timeout_s, self._clock)
        await rest.addErrback(lambda _: b"")

    def _retry_after_s(self, response: IResponse) -> float | None:
        values = response.headers.getRawHeaders("retry-after", [])
        return read_retry_after(values[-1], self._now()) if values else None

    def _failed(self, failure: Failure) -> Any:
        if failure.check(DeliveryFailed):
            return failure
        if _is_cancelled(failure):
            raise CancelledError
        raise DeliveryFailed(self._reason_of(failure)) from None


def _is_cancelled(failure: Failure) -> bool:
    """Say whether a request failed because it was cancelled, whatever it was doing."""
    error = failure.value
    while inner := getattr(error, "reasons", None):  # twisted.web's wrappers
        error = inner[0].value
    return isinstance(error, CancelledError | ConnectingCancelledError)


def _too_slow(_result: Any, timeout_s: float) -> NoReturn:
    """Say so whatever the cancelling left behind."""
    raise DeliveryFailed(f"no answer within {timeout_s:g} s")
