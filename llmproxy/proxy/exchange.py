"""The exchange: one client request, from its head to its one conclusion.

A coroutine for the flow (`Exchange._serve`), plain callbacks for the bytes (`Relay`). The only
boundary for a retry is "nothing was written to the client yet". However it ends - well, refused,
broken off, or because the client left - `Exchange._conclude` runs exactly once and gives back all
that was taken. Only then is the client shown the end: of an answer that it has seen whole there is
a record, even if the process is killed in the next moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from traceback import clear_frames
from typing import Any, Final

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.iweb import UNKNOWN_LENGTH

from llmproxy.errors import (
    ClientGone,
    GatewayError,
    GatewayTimeout,
    InternalError,
    RelayBroken,
    UpstreamError,
)
from llmproxy.interfaces import IBackendLease, IClientRequest, IReporter, IRouter
from llmproxy.proxy.admission import Admission, Admitted
from llmproxy.proxy.answer import prepare_answer
from llmproxy.proxy.attempt import Answering, Attempt, Outbound
from llmproxy.proxy.evidence import evidence_of, relayed
from llmproxy.proxy.flow import Flow
from llmproxy.proxy.meter import Meter, make_meter
from llmproxy.proxy.relay import Relay
from llmproxy.proxy.tries import BUSY, Asking, RetryRules, Tries, rest_of
from llmproxy.timeouts import Timeouts
from llmproxy.values import (
    AlertKind,
    Backend,
    MeterReading,
    Outcome,
    StreamAlert,
    UsageRecord,
)
from llmproxy.wire.affinity import affinity_of
from llmproxy.wire.fields import Caller, FieldRules, encode_fields
from llmproxy.wire.request_id import new_id
from llmproxy.wire.sessions import read_session
from llmproxy.wire.withhold import UsageWithholder

USAGE_ON_REQUEST = frozenset((b"/v1/chat/completions", b"/v1/completions"))
"""The paths whose streams tell usage when ``stream_options.include_usage`` asks for it."""

NAME_LENGTH: Final = 256
"""Characters of a name in a record: of models that do not exist, functions, browsers."""

MOST_NAMES: Final = 128
OTHER_NAMES: Final = "(others)"
"""Functions that a record tells apart, and what it calls those beyond."""


@attrs.frozen
class DataPath:
    """What every exchange works with.

    Attributes:
        admission: Lets requests in.
        router: Chooses backends.
        rules: Rewrite header fields.
        retries: When another try may follow.
        reporters: Take the records.
        clock: Of all durations.
        timeouts: Of waiting for answers' heads.
        now: Seconds since the epoch.
        random_bytes: Gives that many random bytes.
        make_body: Makes the `IBodyProducer` of a request's body.
        keeps_bodies: Whether records hold the requests' bodies.
        replaces_cors: Whether our own ``Access-Control-*`` fields replace the backend's.
        running: The exchanges that have not concluded.
    """

    admission: Admission
    router: IRouter
    rules: FieldRules
    retries: RetryRules
    reporters: Sequence[IReporter]
    clock: IReactorTime
    timeouts: Timeouts
    now: Callable[[], float]
    random_bytes: Callable[[int], bytes]
    make_body: Callable[[bytes], Any]
    keeps_bodies: bool = False
    replaces_cors: bool = False
    running: set[Exchange] = attrs.field(factory=set)

    def begin(self, request: IClientRequest) -> Exchange:
        """Start an exchange for a request whose head has come."""
        exchange = Exchange(self, request)
        self.running.add(exchange)
        exchange.start()
        return exchange


class Exchange:
    """One client request.

    States: ``admitting``, ``attempting``, ``relaying``, ``concluded``.

    Attributes:
        state: One of these.
    """

    _log = Logger()

    def __init__(self, path: DataPath, request: IClientRequest) -> None:
        self._path = path
        self._request = request
        self._admitted = Admitted()
        self._began_s = path.now()
        self._tries = Tries(path.router, path.retries, path.clock, path.now)
        self._relay: Relay | None = None
        self._meter: Meter | None = None
        self._status = 0
        self._error_code = ""
        self._answered_bytes = 0
        self._tell_end: Callable[[], None] | None = None
        self._flow: Flow | None = None
        self._cut_by: GatewayError | None = None
        self.state = "admitting"

    def __repr__(self) -> str:
        return f"<Exchange {self._request.request_id} {self.state} {self._tries!r}>"

    def start(self) -> None:
        """Run to the end; nothing is raised, all is concluded."""
        self._flow = flow = Flow(self._run_to_end())
        flow.run()
        if self.state != "concluded":
            self._request.on_gone(flow.cancel)

    @property
    def key_id(self) -> str:
        """The id of the key that it runs under; empty before that is known."""
        return self._admitted.principal.key_id

    def cut(self, error: GatewayError) -> None:
        """End it now, wherever it is; the client is told why as far as that can still be told."""
        if self.state == "concluded" or self._cut_by is not None:
            return
        self._cut_by = error
        if self._relay is not None:
            self._relay.cut_short(error)
        elif self._flow is not None:
            self._flow.cancel()

    def stream_age(self, now_s: float) -> tuple[float, float] | None:
        """Say how long a stream under way has lasted, and been silent; None when it is none.

        One that waits for its first piece is none yet.

        Args:
            now_s: The time on the clock, in seconds.
        """
        relay = self._relay
        if relay is None or not relay.is_stream or relay.first_piece_s is None:
            return None
        return now_s - self._request.started_s, relay.silent_s(now_s)

    def stream_alert(self, kind: AlertKind, duration_s: float, silent_s: float) -> StreamAlert:
        """Make the alert that tells of this stream."""
        admitted, route = self._admitted, self._admitted.route
        return StreamAlert(
            kind=kind,
            time=self._path.now(),
            request_id=self._request.request_id,
            key_id=admitted.principal.key_id,
            key_name=admitted.principal.key_name,
            user_id=admitted.principal.user_id,
            model=route.model_id if route else "",
            backend=self._tries.backend_name,
            session_id=read_session(self._request.header)[0],
            duration_s=duration_s,
            silent_s=silent_s,
        )

    async def _run_to_end(self) -> None:
        outcome: Outcome = "upstream_error"
        try:
            await self._serve()
            outcome = "ok"
        except (ClientGone, CancelledError) as left:
            clear_frames(left.__traceback__)
            self._tell_end = None
            if self._cut_by is not None and isinstance(left, CancelledError):
                outcome = "rejected"
                self._answer(self._cut_by)
            elif self._meter is not None and self._meter.done:
                outcome = "ok"  # many clients close at [DONE], before the last chunk is in
            else:
                outcome, self._status = "client_abort", 499
        except RelayBroken as broken:
            outcome = "timeout" if broken.timeout else "truncated"
            if self._cut_by is not None:
                outcome = "rejected"
            self._error_code = broken.code
        except GatewayError as error:
            clear_frames(error.__traceback__)
            outcome = _outcome_of(error)
            self._answer(error)
        except Exception:  # noqa: BLE001 - the outermost edge of an exchange
            self._log.failure(
                "exchange {exchange!r} failed",
                exchange=self,
                request_id=self._request.request_id,
            )
            self._answer(InternalError())
        finally:
            self._conclude(outcome)
        if self._tell_end is not None:
            self._tell_end()

    async def _serve(self) -> None:
        path, request, admitted = self._path, self._request, self._admitted
        await path.admission.admit(request, admitted)
        self.state = "attempting"
        assert admitted.route is not None
        assert admitted.facts is not None
        answering = await self._tries.head(
            Asking(
                model_id=admitted.route.model_id,
                name=admitted.facts.model,
                principal=admitted.principal,
                affinity=self._affinity,
                cost=admitted.tokens,
                attempt=self._attempt,
            )
        )
        if not path.keeps_bodies:
            # The body is not sent again from here on: a long stream does not hold its prompt.
            path.admission.release(admitted)
        self.state = "relaying"
        await self._relay_body(answering)

    def _attempt(self, lease: IBackendLease) -> Attempt:
        """Make a try at a backend, for the model of the lease's route."""
        path, request, admitted = self._path, self._request, self._admitted
        facts, route = admitted.facts, lease.route
        assert facts is not None
        outbound = Outbound(
            method=request.method.decode("ascii"),
            target=request.uri,
            body=admitted.body,
            model=route.upstream_model if route.upstream_model != facts.model else None,
            wants_usage=(
                facts.stream
                and facts.include_usage is not True
                and request.path in USAGE_ON_REQUEST
            ),
            first_byte_timeout_s=route.first_byte_timeout_s,
        )
        fields = self._upstream_fields(lease)
        return Attempt(path.clock, path.timeouts, lease, outbound, fields, path.make_body)

    def _affinity(self) -> bytes:
        admitted = self._admitted
        return affinity_of(self._request.header, admitted.principal.key_id, admitted.body)

    def _upstream_fields(self, lease: IBackendLease) -> bytes:
        """Encode the fields that go up; those of a head that was here before are kept with it."""
        request, backend, rules = self._request, lease.backend, self._path.rules
        made = request.repeats.get(backend.name)
        # A connection outlives reloads: other rules may keep other fields back.
        if made is None or made[0] is not backend or made[1] is not rules:
            made = request.repeats[backend.name] = (backend, rules, self._encoded_fields(backend))
        lines: bytes = made[2]
        return b"%bx-request-id: %b\r\n" % (lines, request.request_id.encode("ascii"))

    def _encoded_fields(self, backend: Backend) -> bytes:
        request = self._request
        caller = Caller(
            client_ip=request.client_ip,
            secure=request.secure,
            host=request.header(b"host"),
            trusted=request.from_trusted_proxy,
            peer_ip=request.peer_ip,
        )
        return encode_fields(
            self._path.rules.upstream(request.raw_headers, caller, backend.headers)
        )

    async def _relay_body(self, answering: Answering) -> None:
        path, request, response = self._path, self._request, answering.response
        lease = self._tries.lease
        assert lease is not None
        fields = response.fields
        named = dict(fields)
        is_stream = named.get(b"content-type", b"").lower().startswith(b"text/event-stream")
        # A compressed stream, which was not asked for, cannot be looked into.
        readable = named.get(b"content-encoding", b"identity").lower() == b"identity"
        withholder = (
            UsageWithholder() if answering.injected_usage and is_stream and readable else None
        )
        answer = path.rules.downstream(fields, drop_cors=path.replaces_cors)
        if is_stream:
            answer = [field for field in answer if field[0] != b"x-accel-buffering"]
            answer.append((b"x-accel-buffering", b"no"))
        length_bytes = None
        # A stream may end otherwise than the backend means it to: with an error event.
        if response.length is not UNKNOWN_LENGTH and not is_stream:
            length_bytes = response.length
            answer.append((b"content-length", b"%d" % length_bytes))
        self._status = response.code
        self._meter = make_meter(
            request.path,
            status=response.code,
            stream=is_stream,
            prompt_tokens=self._admitted.prompt_tokens,
        )
        self._relay = Relay(
            request,
            meter=self._meter,
            withholder=withholder,
            clock=path.clock,
            is_stream=is_stream,
            is_readable=readable,
            first_byte_by_s=answering.first_byte_by_s,
            stall_timeout_s=lease.backend.stall_timeout_s,
            deadline_s=answering.deadline_s,
            length_bytes=length_bytes,
            on_first_piece=lease.answering,
        )
        self._tell_end = self._relay.close
        request.begin(response.code, response.phrase, answer)
        response.deliverBody(self._relay)
        self._relay.watch()
        evidence = evidence_of(response.code, b"retry-after" in named)
        rest_s = rest_of(fields, path.now()) if response.code in BUSY else 0.0
        await relayed(self._relay, self._meter, lease, evidence, rest_s)

    def _answer(self, error: GatewayError) -> None:
        self._status, self._error_code = error.status, error.code
        self._answered_bytes, self._tell_end = prepare_answer(self._request, error)

    def _conclude(self, outcome: Outcome) -> None:
        """Give back what was taken, and report."""
        assert self.state != "concluded"
        self.state = "concluded"
        admitted = self._admitted
        self._path.running.discard(self)
        used_tokens = 0
        try:
            record = self._record(outcome)
            used_tokens = record.usage.total_tokens
        finally:  # whatever becomes of the record
            self._tries.release(used_tokens)
            self._path.admission.release(admitted)
            if admitted.grant is not None:
                admitted.grant.settle(used_tokens)
        for reporter in self._path.reporters:
            reporter.report(record)

    def _record(self, outcome: Outcome) -> UsageRecord:
        path, request, admitted, relay = self._path, self._request, self._admitted, self._relay
        tries = self._tries
        ended_s = path.clock.seconds()
        reading = self._reading(outcome)
        first_s = None if relay is None else relay.first_piece_s
        queued_until_s = tries.first_at_s
        if queued_until_s is None:
            # Let in and never tried: it waited to its end. Refused: it did not wait at all.
            queued_until_s = request.started_s if admitted.grant is None else ended_s
        session, parent = read_session(request.header)
        facts, route = admitted.facts, admitted.route
        served = tries.route or route
        return UsageRecord(
            id=new_id(self._began_s, path.random_bytes(10)),
            time=self._began_s,
            request_id=request.request_id,
            method=request.method.decode("latin-1"),
            endpoint=request.path.decode("latin-1"),
            protocol=request.clientproto.decode("latin-1"),
            key_id=admitted.principal.key_id,
            key_name=admitted.principal.key_name,
            user_id=admitted.principal.user_id,
            model=route.model_id if route else _name(facts.model) if facts else "",
            upstream_model=served.upstream_model if served else "",
            backend=tries.backend_name,
            stream=facts.stream if facts else False,
            usage=reading.usage,
            usage_source=reading.usage_source,
            outcome=self._seen_outcome(outcome, reading),
            status=self._status,
            error_code=self._error_code or ("stream_error" if reading.error else ""),
            finish_reason=_name(reading.finish_reason),
            tool_calls=_names(reading.tool_calls),
            session_id=session,
            parent_session_id=parent,
            first_byte_ms=None if first_s is None else (first_s - request.started_s) * 1000,
            duration_ms=(ended_s - request.started_s) * 1000,
            queue_ms=(queued_until_s - request.started_s) * 1000,
            attempts=tries.count,
            tried=tuple(tries.failed),
            bytes_in=admitted.body_bytes,
            bytes_out=self._answered_bytes + (0 if relay is None else relay.bytes_out),
            client_ip=request.client_ip,
            user_agent=_name(request.header(b"user-agent").decode("latin-1")),
            referer=_name(request.header(b"referer").decode("latin-1")),
            request_body=admitted.body if path.keeps_bodies else None,
        )

    def _reading(self, outcome: Outcome) -> MeterReading:
        """Ask the meter; its failure costs the counts, and nothing of what is to be given back."""
        if self._meter is None:
            return self._unanswered(outcome)
        try:
            return self._meter.reading(outcome == "ok")
        except Exception:  # noqa: BLE001 - there is to be a record, whatever a backend sent
            self._log.failure(
                "an answer cannot be metered; its record says usage_source none",
                request_id=self._request.request_id,
            )
            return MeterReading()

    def _unanswered(self, outcome: Outcome) -> MeterReading:
        """Say what a request has used whose answer's head had not come.

        Some servers send that of a stream before the prefill, others behind it; a stream that was
        given up is to cost the same.
        """
        facts = self._admitted.facts
        was_given_up = self._cut_by is not None or outcome in ("client_abort", "timeout")
        if not (was_given_up and facts and facts.stream and self._tries.was_sent):
            return MeterReading()
        meter = make_meter(
            self._request.path,
            status=200,
            stream=True,
            prompt_tokens=self._admitted.prompt_tokens,
        )
        return meter.reading(False)  # as with a head, and nothing behind it

    def _seen_outcome(self, outcome: Outcome, reading: MeterReading) -> Outcome:
        """Look through an answer that was relayed well at what it says."""
        if outcome != "ok":
            return outcome
        if reading.error or self._status >= 500:
            return "upstream_error"
        return "rejected" if self._status >= 400 else "ok"


def _name(text: str) -> str:
    """Cut a text that a client or a backend wrote to what a record has room for."""
    return text[:NAME_LENGTH]


def _names(counts: Mapping[str, int]) -> Mapping[str, int]:
    """Do the same with counts by names; what is beyond so many names counts as others."""
    if len(counts) <= MOST_NAMES and max(map(len, counts), default=0) <= NAME_LENGTH:
        return counts
    cut: Counter[str] = Counter()
    for name, count in counts.items():
        short = _name(name)
        cut[short if short in cut or len(cut) < MOST_NAMES else OTHER_NAMES] += count
    return dict(cut)


def _outcome_of(error: GatewayError) -> Outcome:
    if isinstance(error, GatewayTimeout):
        return "timeout"
    if isinstance(error, UpstreamError):
        return "upstream_error"
    return "rejected"
