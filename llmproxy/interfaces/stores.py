"""The seams of what is kept: keys, counters, records, and the servers that keep them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from llmproxy.key_records import KeyDraft, KeyFilter, KeyRecord, StoredKey, SyncCounts
    from llmproxy.values import RecordFilter, SessionFilter, SessionTotal, UsageFilter, UsageTotal
    from llmproxy.wire.usage_record import UsageRecordJson


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
        that one is replaced, its id and creation time kept, and its status if the draft says none.
        Fails with `KeyExists` when two drafts
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
