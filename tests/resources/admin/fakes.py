"""What the admin API stands on, in memory: keys, what they use, backends and a throttle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from llmproxy.deliveries import DeadLetterSummary, ReceiverStatus, SpoolStatus
from llmproxy.entitlements import Quota, Standing
from llmproxy.errors import KeyExists, LLMProxyError, ResendRefused, StoreUnavailable
from llmproxy.interfaces import (
    IBackendControl,
    IBackendStatuses,
    IGrant,
    IKeyStore,
    ILimiter,
    IMetering,
    IRecordStore,
    IResending,
    IUsageTotals,
)
from llmproxy.key_records import KeyDraft, KeyFilter, KeyRecord, StoredKey, SyncCounts
from llmproxy.values import (
    BackendStatus,
    Demand,
    Principal,
    RecordFilter,
    SessionFilter,
    SessionTotal,
    UsageFilter,
    UsageTotal,
)
from llmproxy.wire.usage_record import UsageRecordJson


class Outage:
    """Whether a store answers.

    Attributes:
        down: It fails.
        silent: It does not answer: these Deferreds wait.
        asked: How often it was asked.
    """

    def __init__(self) -> None:
        self.down = False
        self.silent: list[Deferred[Any]] | None = None
        self.asked = 0

    def give(self, make: Callable[[], Any]) -> Deferred[Any]:
        """Give what a store's method would."""
        self.asked += 1
        if self.down:
            return fail(StoreUnavailable("down"))
        if self.silent is not None:
            self.silent.append(Deferred())
            return self.silent[-1].addCallback(lambda _: make())
        try:
            return succeed(make())
        except LLMProxyError as error:
            return fail(error)


@implementer(IKeyStore)
class MemoryKeys:
    """A key store.

    Args:
        now: Seconds since the epoch.

    Attributes:
        outage: Whether it answers.
        kept: By id.
        texts: The keys themselves, by id; a real store does not have them.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.outage = Outage()
        self.kept: dict[str, StoredKey] = {}
        self._now = now
        self._made = 0

    def create(self, draft: KeyDraft) -> Deferred[StoredKey]:
        """Store a key."""
        return self.outage.give(lambda: self._create(draft))

    def _create(self, draft: KeyDraft) -> StoredKey:
        digest = draft.digest or _digest(draft.key)
        if draft.record.id in self.kept or self._by_digest(digest) is not None:
            raise KeyExists
        self._made += 1
        stored = StoredKey(
            record=attrs.evolve(draft.record, id=draft.record.id or f"key_{self._made}"),
            prefix=draft.prefix or draft.key[:12][: len(draft.key) // 2],
            digest=digest,
            created_at_s=self._now(),
            updated_at_s=self._now(),
        )
        self.kept[stored.record.id] = stored
        return stored

    def _by_digest(self, digest: bytes) -> StoredKey | None:
        return next((one for one in self.kept.values() if one.digest == digest), None)

    def get(self, key_id: str) -> Deferred[StoredKey | None]:
        """Give a key."""
        return self.outage.give(lambda: self.kept.get(key_id))

    def identify(self, key: str) -> Deferred[StoredKey | None]:
        """Give a key by itself."""
        return self.outage.give(lambda: self._by_digest(_digest(key)))

    def update(
        self, key_id: str, change: Callable[[KeyRecord], KeyRecord]
    ) -> Deferred[StoredKey | None]:
        """Change a key."""

        def update() -> StoredKey | None:
            stored = self.kept.get(key_id)
            if stored is None:
                return None
            record = attrs.evolve(change(stored.record), id=key_id)
            stored = attrs.evolve(stored, record=record, updated_at_s=self._now())
            self.kept[key_id] = stored
            return stored

        return self.outage.give(update)

    def delete(self, key_id: str) -> Deferred[bool]:
        """Delete a key."""
        return self.outage.give(lambda: self.kept.pop(key_id, None) is not None)

    def list(self, wanted: KeyFilter) -> Deferred[tuple[Sequence[StoredKey], int]]:
        """Give a page."""

        def page() -> tuple[Sequence[StoredKey], int]:
            found = [one for one in reversed(self.kept.values()) if _matches(one, wanted)]
            return found[wanted.offset : wanted.offset + wanted.limit], len(found)

        return self.outage.give(page)

    def sync(self, drafts: Sequence[KeyDraft], full: bool) -> Deferred[SyncCounts]:
        """Make the keys what the drafts say."""
        return self.outage.give(lambda: self._sync(drafts, full))

    def _sync(self, drafts: Sequence[KeyDraft], full: bool) -> SyncCounts:
        before, updated = dict(self.kept), 0
        seen: set[str] = set()
        try:
            for draft in drafts:
                digest = draft.digest or _digest(draft.key)
                old = self._by_digest(digest) or self.kept.get(draft.record.id)
                if old is not None:
                    updated += 1
                    del self.kept[old.record.id]
                    draft = attrs.evolve(draft, record=attrs.evolve(draft.record, id=old.record.id))
                stored = self._create(draft)
                if stored.record.id in seen:
                    raise KeyExists
                seen.add(stored.record.id)
        except KeyExists:
            self.kept = before
            raise
        deleted = [key_id for key_id in self.kept if key_id not in seen] if full else []
        for key_id in deleted:
            del self.kept[key_id]
        quotas = {key_id: self.kept[key_id].record.quota for key_id in seen}
        begun = {key_id: quota for key_id, quota in quotas.items() if quota and quota.used_before}
        return SyncCounts(len(seen) - updated, updated, len(deleted), begun)


def _digest(key: str) -> bytes:
    """Give what stands for a key; a real store keys it with a secret."""
    return hashlib.sha256(key.encode()).digest()


def _matches(stored: StoredKey, wanted: KeyFilter) -> bool:
    record, text = stored.record, wanted.search.lower()
    fields = (record.id, record.name, record.user_id, stored.prefix)
    return (
        (not wanted.user_id or record.user_id == wanted.user_id)
        and (wanted.status is None or record.status == wanted.status)
        and any(text in field.lower() for field in fields)
    )


@implementer(ILimiter)
class FakeLimiter:
    """Counts what quotas have used.

    Attributes:
        outage: Whether it answers.
        used: By key id.
        asked: The key ids that it was asked for, in order.
    """

    def __init__(self) -> None:
        self.outage = Outage()
        self.used: dict[str, int] = {}
        self.asked: list[str] = []

    def acquire(self, demand: Demand) -> Deferred[IGrant]:
        """Refuse: nobody asks for it here."""
        raise NotImplementedError

    def standing(self, principal: Principal) -> Deferred[Standing]:
        """Refuse: nobody asks for it here."""
        raise NotImplementedError

    def quota_used(self, quotas: Mapping[str, Quota]) -> Deferred[Mapping[str, int]]:
        """Give what is used."""
        self.asked += quotas
        return self.outage.give(
            lambda: {
                key_id: self.used.get(key_id, quota.used_before) for key_id, quota in quotas.items()
            }
        )

    def set_quota_used(self, key_id: str, quota: Quota, tokens: int) -> Deferred[None]:
        """Set what is used."""
        return self.outage.give(lambda: self.used.__setitem__(key_id, tokens))


@implementer(IUsageTotals)
class FakeTotals:
    """Gives the totals that a test put there.

    Attributes:
        outage: Whether it answers.
        totals: What it gives.
        wanted: What it was asked for, in order.
    """

    def __init__(self) -> None:
        self.outage = Outage()
        self.totals: list[tuple[Mapping[str, str], UsageTotal]] = []
        self.wanted: list[UsageFilter] = []

    def usage(
        self, wanted: UsageFilter
    ) -> Deferred[Sequence[tuple[Mapping[str, str], UsageTotal]]]:
        """Give them."""
        self.wanted.append(wanted)
        return self.outage.give(lambda: list(self.totals))


@implementer(IRecordStore)
class FakeRecords:
    """Gives the pages that a test put there.

    Attributes:
        outage: Whether it answers.
        page: Records, and the cursor behind them.
        sessions_page: The same of sessions.
        wanted: What it was asked for, in order.
        added: What it was given.
    """

    def __init__(self) -> None:
        self.outage = Outage()
        self.page: tuple[Sequence[UsageRecordJson], str] = ((), "")
        self.sessions_page: tuple[Sequence[SessionTotal], str] = ((), "")
        self.wanted: list[RecordFilter | SessionFilter] = []
        self.added: list[UsageRecordJson] = []

    def add(self, records: Sequence[UsageRecordJson]) -> Deferred[int]:
        """Keep them."""

        def add() -> int:
            self.added.extend(records)
            return len(records)

        return self.outage.give(add)

    def records(self, wanted: RecordFilter) -> Deferred[tuple[Sequence[UsageRecordJson], str]]:
        """Give a page."""
        self.wanted.append(wanted)
        return self.outage.give(lambda: self.page)

    def sessions(self, wanted: SessionFilter) -> Deferred[tuple[Sequence[SessionTotal], str]]:
        """Give a page."""
        self.wanted.append(wanted)
        return self.outage.give(lambda: self.sessions_page)


@implementer(IMetering, IResending)
class FakeSpool:
    """A spool with the reporters and dead letters that a test put there.

    Attributes:
        unreadable: Whether its files cannot be read.
        now: How it stands.
        reporters: How they stand; those that are disabled are sent nothing again.
        letters: By reporter.
        replayed: What was to be sent again, in order.
    """

    def __init__(self) -> None:
        self.unreadable = False
        self.now = SpoolStatus()
        self.reporters: list[ReceiverStatus] = []
        self.letters: dict[str, list[DeadLetterSummary]] = {}
        self.replayed: list[tuple[str, float | None, float | None]] = []

    def _check(self, name: str) -> None:
        (reporter,) = [one for one in self.reporters if one.name == name]
        if self.unreadable:
            raise PermissionError(13, "Permission denied")
        if reporter.state == "disabled":
            raise ResendRefused("it is disabled until the next start")

    def spool_status(self) -> SpoolStatus:
        """Say how it stands."""
        return self.now

    def receiver_statuses(self) -> Sequence[ReceiverStatus]:
        """Say how they stand."""
        return self.reporters

    def whole_status(self) -> Deferred[tuple[SpoolStatus, Sequence[ReceiverStatus]]]:
        """Say both, and that elsewhere a hundred bytes more wait for the first one."""
        if self.unreadable:
            return fail(PermissionError(13, "Permission denied"))
        first, *others = self.reporters
        more = attrs.evolve(first, backlog_bytes=first.backlog_bytes + 100)
        size_bytes = self.now.size_bytes + 100
        return succeed((attrs.evolve(self.now, size_bytes=size_bytes), [more, *others]))

    def replay(self, name: str, since_s: float | None, until_s: float | None) -> None:
        """Note it."""
        self._check(name)
        self.replayed.append((name, since_s, until_s))

    def dead_letters(self, name: str, limit: int) -> Deferred[Sequence[DeadLetterSummary]]:
        """List them."""
        if self.unreadable:
            return fail(PermissionError(13, "Permission denied"))
        return succeed(self.letters.get(name, [])[:limit])

    def resend_dead_letters(self, name: str) -> None:
        """Have none any more."""
        self._check(name)
        self.letters.pop(name, None)


@implementer(IBackendStatuses, IBackendControl)
class FakeBackends:
    """Two backends.

    Attributes:
        drained: Those that are.
    """

    names = ("gpu-a", "gpu-b")

    def __init__(self) -> None:
        self.drained: set[str] = set()

    def statuses(self) -> Sequence[BackendStatus]:
        """List their states."""
        return [
            BackendStatus(
                name,
                "drained" if name in self.drained else "up",
                3,
                breaker="half_open",
                ejected=True,
                times_opened=4,
                share_percent=55,
                latency_ms=120,
            )
            for name in self.names
        ]

    def drain(self, name: str) -> None:
        """Drain one."""
        if name not in self.names:
            raise KeyError(name)
        self.drained.add(name)

    def enable(self, name: str) -> None:
        """Enable one."""
        if name not in self.names:
            raise KeyError(name)
        self.drained.discard(name)


class FakeThrottle:
    """Blocks an address after some failures, for ever.

    Args:
        failures: How many.

    Attributes:
        failed: How often each address did.
    """

    def __init__(self, failures: int = 3) -> None:
        self.failed: dict[str, int] = {}
        self._failures = failures

    def blocked_s(self, ip: str) -> float:
        """Say for how long."""
        return 7.5 if self.failed.get(ip, 0) >= self._failures else 0.0

    def note_failure(self, ip: str) -> None:
        """Note one."""
        self.failed[ip] = self.failed.get(ip, 0) + 1
