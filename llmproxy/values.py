"""Frozen records that cross floors: what one room tells another.

Pure values: no I/O, no clock, no Twisted. Times are seconds since the epoch (``*_s`` durations are
seconds, ``*_ms`` milliseconds), sizes are bytes, tokens are the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import attrs

from llmproxy.entitlements import OwnLimits, Quota

UsageSource = Literal["exact", "partial", "estimated", "none"]
Outcome = Literal["ok", "client_abort", "upstream_error", "truncated", "timeout", "rejected"]

Evidence = Literal["good", "bad", "none"]
"""What one request showed of its backend: that it works, that it does not, or neither."""


@attrs.frozen
class Principal:
    """Who a request is for, once its key is known to be good.

    Attributes:
        key_id: Stable, public id of the key; never the key.
        key_name: For humans.
        user_id: Whose key it is.
        allowed_models: Groups of globs of model ids: a model must match one of each group. None:
            all models.
        own_limits: Instead of the limits of every key; None: those.
        quota: Its budget; None: none.
        expires_at_s: The end of the key's life, seconds since the epoch; None: never.
    """

    key_id: str = ""
    key_name: str = ""
    user_id: str = ""
    allowed_models: tuple[tuple[str, ...], ...] = ()
    own_limits: OwnLimits | None = None
    quota: Quota | None = None
    expires_at_s: float | None = None


@attrs.frozen
class Demand:
    """What one request asks of the limits.

    Attributes:
        principal: Who asks.
        model_id: For which model.
        tokens: What to reserve: an estimate of the prompt, and the longest answer.
    """

    principal: Principal
    model_id: str
    tokens: int


@attrs.frozen
class UsageTotal:
    """Requests and tokens, added up over some time.

    Attributes:
        requests: How many exchanges concluded.
        prompt_tokens: As the records say.
        completion_tokens: As the records say.
        total_tokens: As the records say.
        errors: Exchanges with another outcome than ``ok``.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    errors: int = 0


UsageGroup = Literal["day", "key", "user", "model"]
"""By what totals of usage can be told apart."""


@attrs.frozen(kw_only=True)
class UsageFilter:
    """Which totals to add up; days are UTC.

    Attributes:
        since: First day, ``YYYY-MM-DD``; empty: from the beginning.
        until: Last day, ``YYYY-MM-DD``; empty: today.
        key_id: Only that key's; empty: all.
        user_id: Only that user's; empty: all.
        model: Only that model's; empty: all.
        group_by: Told apart by these; empty: one total.
    """

    since: str = ""
    until: str = ""
    key_id: str = ""
    user_id: str = ""
    model: str = ""
    group_by: tuple[UsageGroup, ...] = ()


@attrs.frozen(kw_only=True)
class RecordFilter:
    """Which usage records to give, the newest first; of texts, an empty one means all.

    Attributes:
        since_s: Those that began then or later, seconds since the epoch; None: from the beginning.
        until_s: Those that began before then; None: until now.
        key_id: Of that key.
        user_id: Of that user.
        model: Of that model.
        backend: Of that backend.
        session_id: Of that session.
        outcome: That ended so.
        request_id: Of that request.
        limit: How many, at most.
        cursor: Go on where a page ended that came with this; empty: the first page.
    """

    since_s: float | None = None
    until_s: float | None = None
    key_id: str = ""
    user_id: str = ""
    model: str = ""
    backend: str = ""
    session_id: str = ""
    outcome: str = ""
    request_id: str = ""
    limit: int = 50
    cursor: str = ""


@attrs.frozen(kw_only=True)
class SessionFilter:
    """Which sessions to give, the last seen first; of texts, an empty one means all.

    Attributes:
        since_s: Those seen then or later, seconds since the epoch; None: from the beginning.
        until_s: Those last seen before then; None: until now.
        session_id: That one; of each key that used it.
        parent_session_id: The children of that one.
        key_id: Of that key.
        user_id: Of that user.
        limit: As in `RecordFilter`.
        cursor: As in `RecordFilter`.
    """

    since_s: float | None = None
    until_s: float | None = None
    session_id: str = ""
    parent_session_id: str = ""
    key_id: str = ""
    user_id: str = ""
    limit: int = 50
    cursor: str = ""


@attrs.frozen(kw_only=True)
class SessionTotal:
    """What the requests of one session, made with one key, come to.

    Attributes:
        parent_session_id: The session that it was begun from; empty: none.
        models: That it used, sorted; a bounded number.
        requests: How many.
        errors: Those with another outcome than ``ok``.
        tool_calls: How many calls of each function; a bounded number of functions.
        first_seen_s: When its first request began, seconds since the epoch.
        last_seen_s: When its last request ended.
    """

    session_id: str
    parent_session_id: str = ""
    key_id: str = ""
    user_id: str = ""
    models: tuple[str, ...] = ()
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    tool_calls: Mapping[str, int] = attrs.field(factory=dict)
    first_seen_s: float = 0.0
    last_seen_s: float = 0.0


ANONYMOUS = Principal(key_id="anonymous", key_name="anonymous")
"""The principal of every request when authentication is off."""


@attrs.frozen
class RequestFacts:
    """What the gateway reads of a request's body; all else passes unread.

    Attributes:
        model: The name that the client asked for.
        stream: Whether it asked for a stream.
        include_usage: ``stream_options.include_usage``; None when absent or null.
        max_tokens: The longest answer it asked for, in tokens; None when absent.
    """

    model: str
    stream: bool = False
    include_usage: bool | None = None
    max_tokens: int | None = None


@attrs.frozen
class ModelCard:
    """A model as ``/v1/models`` shows it.

    Attributes:
        id: The name that clients use.
        created: Seconds since the epoch.
        name: For humans.
        description: For humans.
        context: Context window in tokens.
        output: Longest answer in tokens.
        images: Whether it is known to take images.
        reasoning: Whether it is known to think before it answers.
    """

    id: str
    created: int
    name: str = ""
    description: str = ""
    context: int | None = None
    output: int | None = None
    images: bool = False
    reasoning: bool = False


@attrs.frozen
class ModelRoute:
    """Where requests for one model may go.

    Attributes:
        model_id: The id that limits, permissions and records name; an alias is resolved to it.
        upstream_model: The name that backends are sent.
        backends: Names of the backends that it is restricted to; None: all that serve it.
        first_byte_timeout_s: Overrides the backend's; None: the backend's.
        context: Context window in tokens; None: not configured.
        output: Longest answer in tokens; None: not configured.
        fallback: Ids of models to try, in order, when no backend can take it.
    """

    model_id: str
    upstream_model: str
    backends: frozenset[str] | None = None
    first_byte_timeout_s: float | None = None
    context: int | None = None
    output: int | None = None
    fallback: tuple[str, ...] = ()


@attrs.frozen
class Backend:
    """The identity of one backend: what its configuration says, prepared for the data path.

    State (in flight, health) lives elsewhere, so that it survives a reload.

    Attributes:
        name: Unique name.
        url: Origin and path prefix, no trailing slash: ``b"http://127.0.0.1:8001/prefix"``.
        host: The ``Host`` field's value.
        weight: Share of the traffic, at least 1.
        models: Globs of the models that it serves; empty: by its own list.
        headers: Further fields to send, the backend's own credentials among them.
        connect_timeout_s: TCP and TLS handshake.
        first_byte_timeout_s: Until the first byte of the answer's body.
        stall_timeout_s: Longest silence between two pieces.
        timeout_s: Whole request; 0: none.
        inject_usage: Whether it may be asked for usage that the client did not ask for.
        max_concurrent: How many requests it may work on at once; 0: as many as come.
    """

    name: str
    url: bytes
    host: bytes
    weight: int = 1
    models: tuple[str, ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = attrs.field(default=(), repr=False)
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 300.0
    stall_timeout_s: float = 120.0
    timeout_s: float = 0.0
    inject_usage: bool = True
    max_concurrent: int = 0


@attrs.frozen
class Usage:
    """Tokens of one answer, as the backend counted them, or estimated where it did not.

    Attributes:
        prompt_tokens: All of the prompt, cached ones included.
        completion_tokens: All that was generated, reasoning included.
        total_tokens: Their sum, as reported or added up.
        cached_tokens: Of the prompt, those served from the prefix cache.
        reasoning_tokens: Of the completion, those spent on reasoning.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


NO_USAGE = Usage()
"""Nothing is known."""


@attrs.frozen
class MeterReading:
    """What the meter saw in one answer.

    Attributes:
        usage: Token counts, which are what is charged; zeros when there is nothing to count.
        usage_source: ``exact``: the backend's own; ``estimated``: of a complete answer that the
            backend did not count; ``partial``: of one that did not reach its end; ``none``: there
            is nothing to count.
        finish_reason: Of the first choice that has one, in the backend's own word.
        tool_calls: Function name -> number of calls.
        error: What the backend reported as an error, in short, in an answer that began well.
    """

    usage: Usage = NO_USAGE
    usage_source: UsageSource = "none"
    finish_reason: str = ""
    tool_calls: Mapping[str, int] = attrs.field(factory=dict)
    error: str = ""


@attrs.frozen
class TriedBackend:
    """One attempt that did not give the answer.

    Attributes:
        backend: Its name.
        error: The error's code, as in the error table.
    """

    backend: str
    error: str


@attrs.frozen(kw_only=True, slots=False)  # without slots one is made in half the time
class UsageRecord:
    """The one record that every exchange concludes with (the contract's section on metering).

    Attributes:
        id: Stable, unique; not the request id, which a client may choose.
        time: When the request began, seconds since the epoch.
        endpoint: The path that was called.
        queue_ms: Time to the first attempt, or to the end without one; 0 when refused at the door.
        first_byte_ms: From the request's first byte to the first byte of the answer's body; None
            when there was none.
        duration_ms: From the request's first byte to its end.
        attempts: How many backends were tried.
        tried: Those that failed, in order.
        error_code: The code of the error that was answered, or that ended the answer.
        request_body: The client's own, where the configuration wants it in records.
    """

    id: str
    time: float
    request_id: str
    method: str = "POST"
    endpoint: str
    protocol: str = "HTTP/1.1"
    key_id: str = ""
    key_name: str = ""
    user_id: str = ""
    model: str = ""
    upstream_model: str = ""
    backend: str = ""
    stream: bool = False
    usage: Usage = NO_USAGE
    usage_source: UsageSource = "none"
    outcome: Outcome
    status: int
    error_code: str = ""
    finish_reason: str = ""
    tool_calls: Mapping[str, int] = attrs.field(factory=dict)
    session_id: str = ""
    parent_session_id: str = ""
    first_byte_ms: float | None = None
    duration_ms: float = 0.0
    queue_ms: float = 0.0
    attempts: int = 0
    tried: tuple[TriedBackend, ...] = ()
    bytes_in: int = 0
    bytes_out: int = 0
    client_ip: str = ""
    user_agent: str = ""
    referer: str = ""
    request_body: bytes | None = attrs.field(default=None, repr=False)


AlertKind = Literal["long_stream", "stalled_stream"]
"""It lasts longer than it should; it is silent."""


@attrs.frozen(kw_only=True)
class StreamAlert:
    """A stream that somebody should look at; told once of each stream and kind.

    Attributes:
        kind: Why.
        time: When that was seen, seconds since the epoch.
        duration_s: How long the request has lasted.
        silent_s: How long ago its last piece came.
    """

    kind: AlertKind
    time: float
    request_id: str
    key_id: str = ""
    key_name: str = ""
    user_id: str = ""
    model: str = ""
    backend: str = ""
    session_id: str = ""
    duration_s: float = 0.0
    silent_s: float = 0.0


class LogLine(NamedTuple):
    """One line of a log. A tuple, for one is made for every request.

    Attributes:
        text: The line with its end; perhaps several lines, of which the further are indented.
        priority: How severe it is, as syslog counts: 3 is an error, 6 tells something.
        request_id: The request that it is about; empty: none.
        source: What part of the daemon says it.
    """

    text: str
    priority: int = 6
    request_id: str = ""
    source: str = ""


@attrs.frozen
class BackendStatus:
    """A backend's state as ``/ready`` shows it.

    Attributes:
        name: Its name.
        state: ``up``, ``down``, ``loading``, or ``drained`` by an administrator.
        in_flight: Requests that it is working on now.
        reason: What the last failed check said; empty when it is up.
        breaker: What requests showed of it: ``closed`` is well.
        ejected: Whether it gets no requests for that, for one of its models at least.
        times_opened: How often its breaker opened.
        share_percent: How much of its weight counts while it starts slowly.
        latency_ms: How long its answers take to begin, lately; None when that is not known.
    """

    name: str
    state: Literal["up", "down", "loading", "drained"]
    in_flight: int = 0
    reason: str = ""
    breaker: Literal["closed", "open", "half_open"] = "closed"
    ejected: bool = False
    times_opened: int = 0
    share_percent: int = 100
    latency_ms: int | None = None


@attrs.frozen
class ConfigStatus:
    """Which configuration is in force, and what became of the last reload.

    Attributes:
        digest: What it says, in short; see `llmproxy.config.digest`.
        since_s: When it came into force, seconds since the epoch.
        reloaded_s: When the last reload ended, likewise; None: there was none.
        problems: How many problems kept that reload from changing anything; 0: it went well.
    """

    digest: str
    since_s: float
    reloaded_s: float | None = None
    problems: int = 0
