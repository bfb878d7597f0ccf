"""Access-log records of what no exchange relays: local resources, and refusals of the parser."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from llmproxy.errors import GatewayError
from llmproxy.values import UsageRecord

if TYPE_CHECKING:
    from llmproxy.site import EdgeRequest

PROBED_PATHS = frozenset((b"/health", b"/ready"))
"""Asked every few seconds by load balancers: not worth a line while all is well, as metrics are."""


def record_of(
    request: EdgeRequest,
    time_s: float,
    clock_s: float,
    probed_paths: Collection[bytes] = PROBED_PATHS,
) -> UsageRecord | None:
    """Make the record of a request that was answered here; None when it needs no line.

    Args:
        request: It has its answer.
        time_s: Now, seconds since the epoch.
        clock_s: Now, on the clock of ``request.started_s``.
        probed_paths: Those that need no line while all is well.
    """
    status = int(request.code)
    if request.path in probed_paths and status < 400:
        return None
    duration_s = max(clock_s - request.started_s, 0.0)
    principal = request.principal
    return UsageRecord(
        id=request.request_id,
        time=time_s - duration_s,
        request_id=request.request_id,
        method=request.method.decode("latin-1"),
        endpoint=request.path.decode("latin-1"),
        protocol=request.clientproto.decode("latin-1"),
        key_id="" if principal is None else principal.key_id,
        key_name="" if principal is None else principal.key_name,
        user_id="" if principal is None else principal.user_id,
        outcome="ok" if status < 400 else "rejected",
        status=status,
        error_code=request.error_code,
        duration_ms=duration_s * 1000,
        bytes_out=int(request.sentLength),
        client_ip=request.client_ip,
        user_agent=request.header(b"user-agent").decode("latin-1")[:256],
        referer=request.header(b"referer").decode("latin-1")[:256],
    )


def record_of_refusal(
    error: GatewayError, client_ip: str, request_id: str, time_s: float
) -> UsageRecord:
    """Make the record of bytes that never became a request."""
    return UsageRecord(
        id=request_id,
        time=time_s,
        request_id=request_id,
        method="-",
        endpoint="-",
        outcome="rejected",
        status=error.status,
        error_code=error.code,
        client_ip=client_ip,
    )
