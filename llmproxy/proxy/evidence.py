"""What a request showed of its backend: that it works, that it does not, or neither.

Errors without an answer say it themselves: `GatewayError.blames_backend`. What follows from it is
known to the lease alone.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from llmproxy.errors import GatewayError, RelayBroken
from llmproxy.interfaces import IBackendLease
from llmproxy.proxy.meter import Meter
from llmproxy.proxy.relay import Relay
from llmproxy.values import Evidence

_SAYS_NOTHING = frozenset((501, 505))
"""Not supported there, whoever asks: about the request, like a 4xx."""


def evidence_of(status: int, retry_after: bool) -> Evidence:
    """Say what a whole answer is evidence of.

    A 4xx is about the request: whoever sends nonsense moves nothing, for better or worse. A 429,
    and a 503 that says when to come again, are of a backend that is busy, which is not broken.

    Args:
        status: The answer's.
        retry_after: Whether it has a ``Retry-After``.
    """
    if status < 400:
        return "good"
    if status < 500 or status in _SAYS_NOTHING or (status == 503 and retry_after):
        return "none"
    return "bad"


def report_failure(lease: IBackendLease, error: GatewayError | RelayBroken) -> None:
    """Tell a lease of what ended its request before the answer was whole."""
    if error.blames_backend:
        lease.report("bad")


async def relayed(
    relay: Relay, meter: Meter, lease: IBackendLease, evidence: Evidence, rest_s: float
) -> None:
    """Wait for a relay's end, and tell the lease what the answer showed.

    Cancelling cuts the relay. A client that leaves once it has all, as many do at ``[DONE]``, has
    seen as much as one that waits; one that leaves an error has seen the error.

    Args:
        relay: What is waited for; this fails with what it fails with.
        meter: Knows whether the answer was as good as whole.
        lease: Of the backend that answers.
        evidence: What the answer shows if it is whole.
        rest_s: How long it asks the backend to be left alone.

    Raises:
        RelayBroken: The answer broke off.
        GatewayError: It broke off before anything was sent.
    """
    try:
        await relay.finished
    except (RelayBroken, GatewayError) as error:
        report_failure(lease, error)
        raise
    except CancelledError:
        if evidence == "bad" or meter.done:
            lease.report(evidence, rest_s)
        raise
    lease.report(evidence, rest_s)
