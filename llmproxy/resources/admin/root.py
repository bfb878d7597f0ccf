"""The root of the admin listener: its gate, its exact paths, and the envelope of every answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from llmproxy.errors import ClientGone
from llmproxy.interfaces import (
    IBackendControl,
    IBackendStatuses,
    IByteBudget,
    IKeyStore,
    ILimiter,
    IMetering,
    IRecordStore,
    IResending,
    IUsageTotals,
)
from llmproxy.resources.admin import operations
from llmproxy.resources.admin.backends import BackendOperations
from llmproxy.resources.admin.envelope import (
    Refusal,
    answer_bytes,
    answer_refusal,
    answer_success,
    refusal_of,
)
from llmproxy.resources.admin.gate import Gate, Throttle
from llmproxy.resources.admin.keys import KeyOperations
from llmproxy.resources.admin.openapi import document
from llmproxy.resources.admin.operations import Done, InThread, Note, Operation, Run
from llmproxy.resources.admin.spool import SpoolOperations
from llmproxy.resources.admin.usage import UsageOperations
from llmproxy.resources.admin.usage_records import RecordOperations
from llmproxy.values import Backend
from llmproxy.wire.admin import ConfigShown, read_request

if TYPE_CHECKING:
    from llmproxy.site import EdgeRequest


LARGE_BYTES = 64 * 1024
"""A larger body takes milliseconds to read and check."""


class AdminRoot(Resource):
    """Answers every request of the admin listener.

    It is a leaf: the paths are looked up as they came, whole, so that nothing that only resembles
    one is taken for it, and none of them before the token was seen.

    Args:
        gate: Lets requests in.
        runs: What does each operation.
        budget: What bodies may take.
        max_body_bytes: Of each.
        in_thread: Reads large bodies.
    """

    isLeaf = True
    _log = Logger()

    def __init__(
        self,
        gate: Gate,
        runs: Mapping[Operation, Run],
        budget: IByteBudget,
        max_body_bytes: int,
        in_thread: InThread,
    ) -> None:
        super().__init__()
        self._gate = gate
        self._runs = {
            operation.path.encode("ascii"): (operation, run) for operation, run in runs.items()
        }
        self._budget = budget
        self._max_body_bytes = max_body_bytes
        self._in_thread = in_thread

    def __repr__(self) -> str:
        return f"<AdminRoot {len(self._runs)} paths>"

    def render(self, request: EdgeRequest) -> int:
        """Answer, with whatever method was asked for whatever path."""
        Deferred.fromCoroutine(self._answer(request))
        return NOT_DONE_YET

    async def _answer(self, request: EdgeRequest) -> None:
        try:
            self._gate.admit(request)
            await self._admitted(request)
        except (CancelledError, ClientGone):
            self._log.debug(
                "{request!r} left before it was answered",
                request=request,
                request_id=request.request_id,
            )
        except Exception as error:  # noqa: BLE001 - the outermost edge of this request
            refusal = refusal_of(error)
            if refusal is None:
                self._log.failure(
                    "{request!r} failed", request=request, request_id=request.request_id
                )
                refusal = Refusal(500, "The gateway met an internal error; its log says more.")
            answer_refusal(request, refusal)

    async def _admitted(self, request: EdgeRequest) -> None:
        if request.path == b"*" and request.method == b"OPTIONS":
            _answer_options(request, b"GET, HEAD, POST, OPTIONS")
            return
        found = self._runs.get(request.path)
        if found is None:
            raise Refusal(404, "This path is not served here.")
        operation, run = found
        methods = (b"GET", b"HEAD") if operation.method == "GET" else (b"POST",)
        if request.method == b"OPTIONS":
            _answer_options(request, b", ".join((*methods, b"OPTIONS")))
            return
        if request.method not in methods:
            raise Refusal(
                405,
                "This path does not take this method.",
                headers=((b"Allow", b", ".join((*methods, b"OPTIONS"))),),
            )
        size_bytes = 0
        try:
            asked = None
            if operation.request is not None:
                body = await request.read_body(self._max_body_bytes, self._budget)
                size_bytes = len(body)
                reading = partial(read_request, body, operation.request)
                asked = await self._in_thread(reading) if size_bytes > LARGE_BYTES else reading()
            doing = Deferred.fromCoroutine(run(asked, self._note(request)))
            if not operation.changes:
                # A change is made to its end: nobody would know how far it came.
                request.on_gone(doing.cancel)
            done = await doing
        finally:
            self._budget.give_back(size_bytes)
        if operation.answer is None:
            answer_bytes(request, 200, done.data)
        else:
            answer_success(request, done.message, done.data)

    def _note(self, request: EdgeRequest) -> Note:
        def note(change: str) -> None:
            self._log.info(
                "administrator at {ip} {change}",
                ip=request.client_ip,
                change=change,
                request_id=request.request_id,
            )

        return note


def make_admin_root(
    *,
    token: str,
    keys: IKeyStore,
    new_key: Callable[[], str],
    limiter: ILimiter,
    usage: IUsageTotals,
    records: IRecordStore | None,
    metering: IMetering | None = None,
    resending: IResending | None = None,
    identities: tuple[Backend, ...],
    statuses: IBackendStatuses,
    control: IBackendControl,
    shown_config: Callable[[], Mapping[str, Any]],
    throttle: Throttle,
    budget: IByteBudget,
    max_body_bytes: int,
    now: Callable[[], float],
    in_thread: InThread = execute,
    is_alone: bool = True,
) -> Resource:
    """Put the admin API together.

    Args:
        token: What administrators show.
        keys: The stored keys.
        new_key: Makes the text of a new key.
        limiter: Counts what of their quotas is used.
        usage: What was used.
        records: Every request's record of it; None: nobody keeps them.
        metering: Where records wait for reporters; None: there are none.
        resending: Sends them again; None with that.
        identities: The backends, as the configuration has them.
        statuses: Their states.
        control: Drains and enables them.
        shown_config: Gives the configuration, its secrets hidden.
        is_alone: Whether this process has all requests, and is not one of several workers.
        throttle: Remembers the addresses of wrong tokens.
        budget: What request bodies may take.
        max_body_bytes: Of each.
        now: Seconds since the epoch.
        in_thread: Runs what takes long; without it, it is run at once.
    """

    async def show_config(request: None, note: Note) -> Done:
        del request, note
        return Done("This is the configuration.", ConfigShown(config=shown_config()))

    async def show_openapi(request: None, note: Note) -> Done:
        del request, note
        return Done("", msgspec.json.encode(document()))

    return AdminRoot(
        Gate(token, throttle),
        {
            **KeyOperations(keys, limiter, new_key, now, in_thread).runs(),
            **UsageOperations(usage, keys).runs(),
            **RecordOperations(records).runs(),
            **SpoolOperations(metering, resending).runs(),
            **BackendOperations(identities, statuses, control, is_alone).runs(),
            operations.SHOW_CONFIG: show_config,
            operations.SHOW_OPENAPI: show_openapi,
        },
        budget,
        max_body_bytes,
        in_thread,
    )


def _answer_options(request: EdgeRequest, allow: bytes) -> None:
    """Answer what a path takes (RFC 9110, section 9.3.7)."""
    request.begin(204, b"", ((b"Allow", allow),))
    request.finish()
