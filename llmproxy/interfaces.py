"""The seams: every interface between rooms, with its full contract.

Implementations live in the rooms above and are handed to their users by constructor, in
``service.py``. Nothing is implemented here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from twisted.web.iweb import IResponse
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.web.iweb import IBodyProducer

    from llmproxy.entitlements import Quota, Standing
    from llmproxy.key_records import KeyDraft, KeyFilter, KeyRecord, StoredKey, SyncCounts
    from llmproxy.values import Backend as BackendIdentity
    from llmproxy.values import (
        BackendStatus,
        Batch,
        DeadLetter,
        Demand,
        Evidence,
        LogLine,
        ModelCard,
        ModelRoute,
        Principal,
        ReceiverStatus,
        RecordFilter,
        SessionFilter,
        SessionTotal,
        SpoolStatus,
        StreamAlert,
        UsageFilter,
        UsageRecord,
        UsageTotal,
    )
    from llmproxy.wire.usage_record import UsageRecordJson


class IByteBudget(Interface):
    """Bytes that all request bodies together may hold."""

    def take(size_bytes: int) -> bool:
        """Take bytes out of the budget.

        Returns:
            Whether they were there; when not, nothing was taken.
        """

    def give_back(size_bytes: int) -> None:
        """Return bytes that were taken."""


class IClientRequest(Interface):
    """One request of a client, as the data path sees it.

    The edge implements it over a `twisted.web` request. Writing after the client has gone is
    allowed and does nothing.
    """

    method: bytes = Attribute("The method.")
    path: bytes = Attribute("The target's path, as it came.")
    uri: bytes = Attribute("The target, as it came: path and query.")
    clientproto: bytes = Attribute("``HTTP/1.1`` or ``HTTP/1.0``.")
    raw_headers: Sequence[tuple[bytes, bytes]] = Attribute(
        "The fields in their order, names lower-cased, values stripped."
    )
    request_id: str = Attribute("The client's own if it is sane, else a new one.")
    client_ip: str = Attribute("Who calls, X-Forwarded-For of trusted proxies believed.")
    peer_ip: str = Attribute("Who is at the other end of the connection.")
    from_trusted_proxy: bool = Attribute("Whether ``peer_ip`` is a trusted proxy.")
    secure: bool = Attribute("Whether the client's connection is TLS here.")
    surplus: bool = Attribute("Whether its connection is over ``server.max_connections``.")
    certificate_subject: str = Attribute(
        "The subject of the client's certificate, which was verified; empty: it showed none."
    )
    started_s: float = Attribute("When its first byte was seen, on the reactor's clock.")
    repeats: dict[str, Any] = Attribute(
        "Shared by the requests of one connection whose heads are the same but for the length: "
        "there may be kept what was made of ``raw_headers``."
    )

    def header(name: bytes) -> bytes:
        """Give the value of the first field of that lower-case name, or nothing (``b""``)."""

    def read_body(limit_bytes: int, budget: IByteBudget) -> Deferred[bytes]:
        """Read the whole body.

        What it takes out of the budget stays taken; the caller gives back the body's length.

        Returns:
            A Deferred of the body. Cancelling it stops the reading. It fails with `BodyTooLarge`
            (at once when Content-Length tells), `MemoryBudgetSpent`, `RequestTimeout` or
            `ClientGone`, and then nothing stays taken.
        """

    def begin(status: int, reason: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Set the answer's head; it goes out with the first `write`."""

    def write(data: bytes) -> None:
        """Write a piece of the answer's body; an empty one sends just the head."""

    def finish() -> None:
        """End the answer well."""

    def refuse_further() -> None:
        """Close the client's connection after this answer; called before `begin`."""

    def break_off(farewell: bytes) -> None:
        """End the answer so that nobody takes it for complete, after a last piece if not empty."""

    def on_gone(callback: Callable[[], None]) -> None:
        """Have ``callback()`` called once if the client leaves before `finish`."""

    def registerProducer(producer: object, streaming: bool) -> None:
        """Attach the producer that is to be paused while the client takes nothing."""

    def unregisterProducer() -> None:
        """Detach it."""


class IAuthenticator(Interface):
    """Turns credentials into a principal."""

    def authenticate(credential: str, client_ip: str) -> Deferred[Principal]:
        """Say who a credential stands for.

        Args:
            credential: What the client sent; empty when it sent none.
            client_ip: Where it calls from.

        Returns:
            A Deferred of the principal; it fails with `InvalidApiKey`, `KeyDisabled`,
            `KeyNotStarted`, `KeyExpired`, `IpNotAllowed`, `QuotaExceeded` (the source says so),
            `TooManyFailures` or `AuthUnavailable`. Cancelling it leaves the verdict unknown.
        """


class IKeySource(Interface):
    """Knows keys: one place where their records are."""

    name: str = Attribute("As the configuration calls it.")

    def find(credential: str) -> Deferred[KeyRecord | None]:
        """Look a key up.

        Args:
            credential: What the client sent; not empty, ASCII, at most 4096 characters.

        Returns:
            A Deferred of what is known of it; of None when it is not known. It fails with
            `StoreUnavailable` when that cannot be said. Cancelling it ends the look-up.
        """


class IKeyStore(Interface):
    """The keys that the admin API keeps. All of it fails with `StoreUnavailable`."""

    def create(draft: KeyDraft) -> Deferred[StoredKey]:
        """Store a new key; fails with `KeyExists`."""

    def get(key_id: str) -> Deferred[StoredKey | None]:
        """Give a key by its id."""

    def identify(key: str) -> Deferred[StoredKey | None]:
        """Give a key by the key itself."""

    def update(key_id: str, change: Callable[[KeyRecord], KeyRecord]) -> Deferred[StoredKey | None]:
        """Change a key, in one transaction; None when there is none.

        Args:
            key_id: Which.
            change: Makes the new record of the old one; runs in another thread, the id stays.
        """

    def delete(key_id: str) -> Deferred[bool]:
        """Delete a key; says whether there was one."""

    def list(wanted: KeyFilter) -> Deferred[tuple[Sequence[StoredKey], int]]:
        """Give a page of the keys, and how many there are on all pages."""

    def sync(drafts: Sequence[KeyDraft], full: bool) -> Deferred[SyncCounts]:
        """Make the stored keys what the drafts say, all or nothing.

        A draft is of a stored key when their keys (or, with a given id, their ids) are the same;
        that one is replaced, its id and creation time kept. Fails with `KeyExists` when two drafts
        are of the same key.

        Args:
            drafts: The keys.
            full: Whether all other keys are deleted.
        """


class ICounterStore(Interface):
    """Counters that outlive the process. All of it fails with `StoreUnavailable`."""

    def begin_quota_use(
        starts: Mapping[str, tuple[int, int]],
    ) -> Deferred[Mapping[str, tuple[int, int]]]:
        """Begin to count the use of quotas where there is no counter yet; change no other.

        Args:
            starts: By key id: the start of the period, as in `add_quota_use`, and the tokens from
                which counting starts.

        Returns:
            A Deferred of the same mapping with the period that stands, which may be an older or a
            later one, and all its tokens.
        """

    def add_quota_use(
        uses: Mapping[str, tuple[int, int]],
    ) -> Deferred[Mapping[str, tuple[int, int]]]:
        """Add what was used of quotas, and say what is used now, by all processes.

        Args:
            uses: By key id: the start of the period (seconds since the epoch, 0 for ``never``), and
                the tokens, which may be 0 or negative. Of two periods the later one stands, and
                counting in it starts at 0.

        Returns:
            A Deferred of the same mapping with the period that stands and all its tokens.
        """

    def set_quota_use(key_id: str, period_start_s: int, tokens: int) -> Deferred[None]:
        """Set what is used of a quota in a period, whatever stood there."""

    def add_usage(totals: Mapping[tuple[str, str, str, str], UsageTotal]) -> Deferred[None]:
        """Add to the daily totals, by day (``YYYY-MM-DD``, UTC), key id, user id and model."""

    def usage(
        wanted: UsageFilter,
    ) -> Deferred[Sequence[tuple[Mapping[str, str], UsageTotal]]]:
        """Give totals, each with the values of ``wanted.group_by``, ordered by them."""


class IUsageTotals(Interface):
    """What was used, added up by day, key, user and model."""

    def usage(
        wanted: UsageFilter,
    ) -> Deferred[Sequence[tuple[Mapping[str, str], UsageTotal]]]:
        """Give totals, each with the values of ``wanted.group_by``, ordered by them.

        All that was reported until now is in them. Fails with `StoreUnavailable`.
        """


class IRecordStore(Interface):
    """Usage records that are kept to be asked for. All of it fails with `StoreUnavailable`."""

    def add(records: Sequence[UsageRecordJson]) -> Deferred[int]:
        """Store records, and add them to their sessions' totals, in one transaction.

        Those whose id is there already, and those that are too old to be kept, change nothing.

        Returns:
            A Deferred of how many were new. Cancelling it ends the waiting only.
        """

    def records(wanted: RecordFilter) -> Deferred[tuple[Sequence[UsageRecordJson], str]]:
        """Give a page of the records, and the cursor of the next page; empty: there is none.

        Cancelling it leaves the page unread.
        """

    def sessions(wanted: SessionFilter) -> Deferred[tuple[Sequence[SessionTotal], str]]:
        """Give a page of the sessions, and the cursor of the next one; see `records`."""


class IDatabase(Interface):
    """One SQL database."""

    dialect: Literal["postgres", "mysql", "sqlite"] = Attribute("Whose SQL it speaks.")
    marker: str = Attribute("What stands for a parameter in its statements: ``?`` or ``%s``.")
    quote: str = Attribute(
        "What stands on both sides of an identifier: a double quote or backtick."
    )

    def query(statement: str, parameters: Sequence[Any]) -> Deferred[Sequence[Sequence[Any]]]:
        """Ask, with bound parameters.

        Returns:
            A Deferred of the rows; it fails with `StoreUnavailable`, also when there is no answer
            in the configured time. Cancelling it leaves the answer unread.
        """

    def write(statement: str, rows: Sequence[Sequence[Any]]) -> Deferred[None]:
        """Run a statement with each of these rows of parameters, in one transaction.

        It is never run a second time by itself: whoever does that knows that it may.

        Returns:
            A Deferred that fires when all of it is committed. It fails with `ValueRefused` when a
            parameter is what a column cannot hold, and with `StoreUnavailable` as `query`; then
            nothing of it is stored, or, when the connection broke at the end, all of it may be.
            Cancelling it leaves that open, too.
        """


class IRedis(Interface):
    """One Redis server."""

    def call(*words: bytes | str | int) -> Deferred[Any]:
        """Send a command.

        Returns:
            A Deferred of the reply: bytes, int, None, or a list of these. It fails at once with
            `StoreUnavailable` while there is no connection, and when no reply comes in time; with
            `RedisReplyError` when the reply is an error.
        """

    def run_script(
        script: str, keys: Sequence[bytes | str], arguments: Sequence[bytes | str | int]
    ) -> Deferred[Any]:
        """Run a Lua script, atomically; it is sent once and then named by its digest.

        Returns:
            As `call`.
        """


class IGrant(Interface):
    """What one request was given by the limits, until it is settled."""

    def settle(tokens: int) -> None:
        """Give back all that was lent, and count the tokens really used; exactly once.

        Never raises; what cannot be written now is written later.
        """


class ILimiter(Interface):
    """Holds requests to rates, numbers at once, and budgets."""

    def acquire(demand: Demand) -> Deferred[IGrant]:
        """Take a request's share of everything that limits it: all or nothing.

        Returns:
            A Deferred of the grant, which must be settled. It fails with `RateLimited`,
            `QuotaReserved`, `QuotaExceeded` or `LimitsUnavailable`, and then nothing stays taken.
            Cancelling it gives everything back.
        """

    def standing(principal: Principal) -> Deferred[Standing]:
        """Say how a key stands; fails with `StoreUnavailable`."""

    def quota_used(quotas: Mapping[str, Quota]) -> Deferred[Mapping[str, int]]:
        """Say by key id how many tokens are used in the running period.

        Fails with `StoreUnavailable`.
        """

    def set_quota_used(key_id: str, quota: Quota, tokens: int) -> Deferred[None]:
        """Set what is used of a quota in the running period; fails with `StoreUnavailable`."""


class ICandidate(Interface):
    """What a strategy may know of a backend."""

    name: str = Attribute("Unique name.")
    weight: float = Attribute("Share of the traffic now, above 0; less while it starts slowly.")
    full_weight: int = Attribute("Share of the traffic once it has started, at least 1.")
    in_flight: int = Attribute("Requests that it is working on now.")

    def latency_s(now_s: float) -> float | None:
        """Say how long its answers take to begin, lately; None when that is not known."""


class IStrategy(Interface):
    """Chooses among backends that could all take the request.

    Candidates may be others at every call. What a strategy keeps of them it keeps by name.
    """

    def choose(
        candidates: Sequence[ICandidate], now_s: float, affinity: Callable[[], bytes]
    ) -> ICandidate:
        """Choose one of at least one candidate.

        Args:
            candidates: In the configuration's order; neither they nor the list are changed.
            now_s: The time, on the clock of ``latency_s``.
            affinity: Gives what is the same for all requests of one conversation. That costs a look
                at the prompt: it is called by strategies only that go by it.
        """


class IUpstreamResponse(IResponse):
    """A backend's answer, with its fields as they came."""

    fields: Sequence[tuple[bytes, bytes]] = Attribute(
        "All fields in their order, names in lower case, values stripped."
    )


class IUpstreamClient(Interface):
    """The part of treq's ``HTTPClient`` that the data path uses."""

    def request(
        method: str,
        url: bytes,
        *,
        headers: bytes,
        data: IBodyProducer | None,
        unbuffered: bool = True,
    ) -> Deferred[IUpstreamResponse]:
        """Send a request, exactly as given.

        Args:
            method: The method.
            url: The URL, as it is to be asked for.
            headers: Encoded field lines, each with its CR LF; without Host and length.
            data: The body; None: none.
            unbuffered: True: the body is delivered as it comes.

        Returns:
            A Deferred of the response's head, the body not yet begun. It fails with the retryable
            or final classes of `UpstreamError`. Cancelling it aborts the connection.
        """


class IProgress(Interface):
    """How an answer that is coming goes on, on the reactor's clock."""

    first_piece_s: float | None = Attribute("When its first piece came; None before.")
    last_piece_s: float = Attribute("When its last piece came.")


class IBackendLease(Interface):
    """The right to send one request to one backend, counted until it is released."""

    backend: BackendIdentity = Attribute("Its identity.")
    client: IUpstreamClient = Attribute("The client for it.")

    def answering(progress: IProgress) -> None:
        """Take note that the first byte of the answer's body came; at most once.

        How long that took since the lease was given is the backend's latency. How the answer goes
        on is looked up in ``progress`` when somebody must know, until the lease is released.
        """

    def report(evidence: Evidence, rest_s: float = 0.0) -> None:
        """Say what the request showed of the backend; at most once, before `release`.

        Without it, as when the client left, the request showed nothing.

        Args:
            evidence: What it showed.
            rest_s: How long the backend asks to be left alone.
        """

    def release() -> None:
        """Give the slot back; exactly once."""


class IRouter(Interface):
    """Knows the models and the backends that serve them."""

    def route(model: str, principal: Principal) -> ModelRoute:
        """Resolve the name that a client asked for.

        Raises:
            ModelNotFound: No such model.
            ModelNotAllowed: It exists, but not for this principal.
        """

    def acquire(
        route: ModelRoute, tried: frozenset[str], affinity: Callable[[], bytes]
    ) -> IBackendLease:
        """Choose a backend that can take the request now, not one already tried, and count it.

        Args:
            route: Where requests for the model may go.
            tried: Names of backends that failed it.
            affinity: As in `IStrategy.choose`.

        Raises:
            NoBackend: There is none.
            BackendsFull: There are some, but each works on as many requests as it may.
        """

    def wait(
        route: ModelRoute,
        tried: frozenset[str],
        affinity: Callable[[], bytes],
        key: str,
        cost: float,
    ) -> Deferred[IBackendLease]:
        """Wait until a backend has room; after `acquire` found them full.

        Args:
            route: As above, and so the next two.
            tried: Names.
            affinity: As in `IStrategy.choose`.
            key: Whose request it is: keys take turns.
            cost: What it will take of the backend, in tokens: who asks for more has fewer turns.

        Returns:
            A Deferred of the lease. It fails with `QueueFull`, `QueueTimeout`, or `NoBackend` when
            there is nobody left to wait for. Cancelling it ends the waiting.
        """


class IModelCatalog(Interface):
    """The models that clients may see."""

    def cards(principal: Principal) -> Sequence[ModelCard]:
        """List the models that the principal may use, in a stable order."""


class IBackendStatuses(Interface):
    """The state of all backends, for people and load balancers."""

    def statuses() -> Sequence[BackendStatus]:
        """List them in the order of the configuration."""


class IBackendControl(Interface):
    """What an administrator may do with backends."""

    def drain(name: str) -> None:
        """Give a backend no further requests; those that run go on.

        Raises:
            KeyError: There is none of that name.
        """

    def enable(name: str) -> None:
        """Undo `drain`.

        Raises:
            KeyError: There is none of that name.
        """


class IBackendActivity(Interface):
    """Whether backends that do not answer a question are at work."""

    def last_piece_s(name: str) -> float:
        """Say when the last piece of an answer of that backend came, on the reactor's clock.

        Minus infinity when there was none yet. It looks at all its running answers: for now and
        then.

        Raises:
            KeyError: There is no such backend.
        """


class IHealthSink(Interface):
    """Where the verdicts of health checks go."""

    def set_health(name: str, state: str, reason: str) -> None:
        """Set a backend's state to ``up``, ``down`` or ``loading``."""


class IReporter(Interface):
    """Takes the one record of each exchange."""

    def report(record: UsageRecord) -> None:
        """Take a record; never raises, never blocks for long."""


class ILogSink(Interface):
    """Where the lines of a log go: a stream, a file, the journal."""

    def write(lines: Sequence[LogLine]) -> None:
        """Write lines, together; nothing of them is held back.

        Raises:
            OSError: They cannot be written; some or all of them are lost.
        """

    def reopen() -> None:
        """Begin anew with what somebody may have moved away, such as a file.

        Raises:
            OSError: That failed; what was open stays in use.
        """


class IAlerts(Interface):
    """Takes alerts."""

    def alert(alert: StreamAlert) -> None:
        """Take an alert; never raises, never blocks for long."""


class IUsageSink(Interface):
    """Where one reporter's events go: a service, a table, a log."""

    kinds: frozenset[str] = Attribute("The kinds of events that it takes; others pass it by.")

    def deliver(batch: Batch) -> Deferred[None]:
        """Deliver a batch: all of it, or what came through may come again under the same ids.

        Returns:
            A Deferred that fires when the receiver has the batch for good. It fails with
            `DeliveryFailed` when the batch is to be tried again, with `ReceiverGone` when nothing
            is ever to be tried again. Cancelling it leaves it open whether the batch came through.
        """


class IMetering(Interface):
    """The spool and its reporters, for administrators and metrics."""

    def spool_status() -> SpoolStatus:
        """Say how it goes with the spool."""

    def receiver_statuses() -> Sequence[ReceiverStatus]:
        """Say how it goes with each reporter, in the order of the configuration."""


class IResending(Interface):
    """What an administrator may have sent again."""

    def replay(name: str, since_s: float | None, until_s: float | None) -> None:
        """Send a reporter once more what it has and the spool still holds, as new deliveries.

        It goes on aside, beside what is new; a stop of the daemon ends it.

        Args:
            name: The reporter.
            since_s: Only what was written then or later, seconds since the epoch; None: all.
            until_s: Only what was written before; None: all.

        Raises:
            KeyError: There is none of that name.
            ResendRefused: It is disabled, or is being sent something again already.
        """

    def dead_letters(name: str, limit: int) -> Deferred[Sequence[DeadLetter]]:
        """List a reporter's dead letters, oldest first.

        Args:
            name: The reporter.
            limit: How many, at most.

        Returns:
            A Deferred of them. It fails with `KeyError` when there is no such reporter, with
            `OSError` when they cannot be read. Cancelling it stops the waiting alone.
        """

    def resend_dead_letters(name: str) -> None:
        """Send a reporter its dead letters, as new deliveries; those that it takes are deleted.

        Raises:
            KeyError: There is none of that name.
            ResendRefused: It is disabled, or is being sent something again already, by another
                process perhaps.
            OSError: They cannot be read.
        """
