"""A source of keys that must be waited for, with what it said kept for a while.

Of each key, told by its digest, there is at most one of: a verdict that it is known, the time at
which it was said to be unknown. Besides, there may be a look-up under way, which all who ask share,
and an outage: the last look-up failed, and the next one is not begun before a time. From these and
the clock alone follows what `CachedSource.recall` says:

- a verdict younger than ``recheck_interval_s`` holds;
- one younger than ``cache_ttl_s`` holds in an outage, until the next look-up is due, and for those
  that come while it is under way: one request waits for a source that is down, the others pass;
- unknown, as said within ``negative_ttl_s``, holds;
- else nothing can be said at once.

Ages count from when the look-up began. A clock that is set back makes no verdict younger: what is
from the future says nothing. Known and unknown keys are kept apart, so that strangers' guesses do
not push out the keys in use, and only look-ups of unknown ones are bounded in number: nobody can
keep a key that is in use from being looked up. It knows nothing of where the source looks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from math import inf
from typing import Final, TypeVar

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmproxy.auth.judge import PreparedKey, prepare
from llmproxy.auth.verdicts import UNSAID, Unsaid, Verdict
from llmproxy.errors import (
    AuthUnavailable,
    GatewayError,
    InvalidApiKey,
    MalformedRecord,
    StoreUnavailable,
)
from llmproxy.interfaces import IKeySource
from llmproxy.key_records import KeyRecord

MAX_ENTRIES: Final = 10_000
"""How many known keys, unknown keys and outages are kept at most, of each."""

MAX_LOOKUPS: Final = 1000
"""How many look-ups may be under way at once; more fail as if the source were down, but for those
of keys that were known when they were last looked up."""

FIRST_PAUSE_S: Final = 1.0
"""How long a key is not looked up after a first failure; each further one doubles it."""

LONGEST_PAUSE_S: Final = 5.0
"""How long a key is not looked up at most."""

_V = TypeVar("_V")

OnRevoked = Callable[[bytes, str, GatewayError], None]
"""Called with the digest of a key that was good, its id, and why it is not any more."""


@attrs.frozen
class CacheTimes:
    """How long verdicts hold, in seconds.

    Attributes:
        recheck_interval_s: While the source answers; 0: every request asks.
        cache_ttl_s: While it does not; at least ``recheck_interval_s``.
        negative_ttl_s: Of unknown keys.
    """

    recheck_interval_s: float
    cache_ttl_s: float
    negative_ttl_s: float = 5.0


@attrs.frozen(eq=False)
class _Known:
    """A verdict, and when its look-up began.

    One that is to be forgotten says nothing of the key any more, only that it was known.
    """

    key: PreparedKey
    asked_at_s: float

    def forgotten(self) -> _Known:
        """Give what is left of it."""
        return _Known(self.key, -inf)

    @property
    def is_forgotten(self) -> bool:
        """Whether that is all that is left."""
        return self.asked_at_s == -inf


@attrs.frozen
class _Outage:
    """Look-ups of one key that failed in a row, and until when no further one is begun."""

    failures: int
    until_s: float


@attrs.define(eq=False)
class _LookUp:
    """One question to the source, and all who wait for it.

    Attributes:
        asked_at_s: When it began.
        waiting: Their Deferreds.
        outdated: Whether keys changed since: then the question is put again.
        asked: The question; None only while it is being put.
    """

    asked_at_s: float
    waiting: list[Deferred[Verdict | None]] = attrs.field(factory=list)
    outdated: bool = False
    asked: Deferred[None] | None = None


class CachedSource:
    """Keeps what a source says, and is `Verdicts`.

    Args:
        source: Whom to ask.
        times: How long its answers hold.
        clock: The reactor's time.
        now: Gives the wall clock's time, seconds since the epoch.
        on_revoked: Called when a renewed verdict turns a good key bad; does not raise.
        max_entries: How many known and unknown keys are kept at most, of each.

    Attributes:
        name: The source's.
    """

    _log = Logger()

    def __init__(
        self,
        source: IKeySource,
        times: CacheTimes,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
        on_revoked: OnRevoked,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self.name = source.name
        self._source = source
        self._times = times
        self._clock = clock
        self._now = now
        self._on_revoked = on_revoked
        self._max_entries = max_entries
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._outages: OrderedDict[bytes, _Outage] = OrderedDict()
        self._look_ups: dict[bytes, _LookUp] = {}
        self._under_way = 0
        self._is_down = False

    def __repr__(self) -> str:
        return (
            f"<CachedSource {self._source!r} {'down' if self._is_down else 'up'}"
            f" known={len(self._known)} unknown={len(self._unknown)} asking={self._under_way}>"
        )

    def recall(self, digest: bytes) -> PreparedKey | Unsaid | None:
        """Say at once what is known of a key; see `Verdicts` and this module."""
        now = self._clock.seconds()
        known = self._known.get(digest)
        if known is not None:
            age_s = now - known.asked_at_s
            if 0 <= age_s < self._times.recheck_interval_s or (
                0 <= age_s < self._times.cache_ttl_s and self._is_out(digest, now)
            ):
                self._known.move_to_end(digest)
                return known.key
            return UNSAID
        asked_at_s = self._unknown.get(digest)
        if asked_at_s is not None and 0 <= now - asked_at_s < self._times.negative_ttl_s:
            return None
        return UNSAID

    def _is_out(self, digest: bytes, now: float) -> bool:
        if digest in self._look_ups:
            return digest in self._outages
        return self._is_pausing(digest, now)

    def _is_pausing(self, digest: bytes, now: float) -> bool:
        """Say whether an outage keeps a key from being looked up now."""
        outage = self._outages.get(digest)
        return outage is not None and 0 < outage.until_s - now <= LONGEST_PAUSE_S

    def has_record(self, digest: bytes) -> bool:
        """Say whether a key was known when it was last looked up; see `Verdicts`."""
        return digest in self._known

    def ids_behind(self, key_id: str) -> tuple[str, ...]:
        """Give the id itself; see `Verdicts`."""
        return (key_id,)

    def principal_id(self, digest: bytes, key_id: str) -> str:
        """Give the id itself; see `Verdicts`."""
        del digest
        return key_id

    def forget(self, key_ids: Collection[str] | None) -> None:
        """Hold nothing for known of those keys, and none for unknown; see `Verdicts`.

        That they were known is still known: whoever has one is no guesser.
        """
        for digest, known in self._known.items():
            if key_ids is None or known.key.record.id in key_ids:
                self._known[digest] = known.forgotten()  # in its place: the order stays
        self._unknown.clear()
        for look_up in self._look_ups.values():
            look_up.outdated = True

    def ask(self, credential: str, digest: bytes) -> Deferred[Verdict | None]:
        """Look a key up, or wait for the look-up that is under way; see `Verdicts`.

        Cancelling one who waits does not end the look-up for the others; when the last one is
        cancelled, it ends.
        """
        look_up = self._look_ups.get(digest)
        if look_up is not None:
            return self._wait_for(digest, look_up)
        now = self._clock.seconds()
        if self._is_pausing(digest, now):
            return fail(AuthUnavailable())
        if self._under_way >= MAX_LOOKUPS and digest not in self._known:
            return fail(AuthUnavailable())
        look_up = self._look_ups[digest] = _LookUp(now)
        answer = self._wait_for(digest, look_up)
        self._under_way += 1
        asked = Deferred.fromCoroutine(self._look_up(credential, digest, look_up))
        look_up.asked = asked.addCallbacks(
            partial(self._answered, digest, look_up), partial(self._failed, digest, look_up)
        )
        return answer

    def _wait_for(self, digest: bytes, look_up: _LookUp) -> Deferred[Verdict | None]:
        def leave(gone: Deferred[Verdict | None]) -> None:
            if gone not in look_up.waiting:
                return
            look_up.waiting.remove(gone)
            if not look_up.waiting and look_up.asked is not None:
                self._take_off(digest, look_up)  # whoever asks now is not to wait for its end
                look_up.asked.cancel()

        answer: Deferred[Verdict | None] = Deferred(leave)
        look_up.waiting.append(answer)
        return answer

    async def _look_up(
        self, credential: str, digest: bytes, look_up: _LookUp
    ) -> PreparedKey | None:
        while True:
            record = await self._source.find(credential)
            if not look_up.outdated:
                return None if record is None else self._prepared(digest, record)
            look_up.outdated = False
            look_up.asked_at_s = self._clock.seconds()

    def _prepared(self, digest: bytes, record: KeyRecord) -> PreparedKey:
        """Make a record ready; one that says the same as before is the same object as before."""
        before = self._known.get(digest)
        if before is not None:
            # What cannot be compared, for its metadata are nested so deeply, is another one.
            with suppress(RecursionError):
                if before.key.record == record:
                    return before.key
        return prepare(record)

    def _take_off(self, digest: bytes, look_up: _LookUp) -> None:
        if self._look_ups.get(digest) is look_up:
            del self._look_ups[digest]

    def _end(self, digest: bytes, look_up: _LookUp) -> list[Deferred[Verdict | None]]:
        """End a look-up; give those who wait."""
        self._under_way -= 1
        self._take_off(digest, look_up)
        waiting, look_up.waiting = look_up.waiting, []
        return waiting

    def _answered(self, digest: bytes, look_up: _LookUp, found: PreparedKey | None) -> None:
        waiting = self._end(digest, look_up)
        self._outages.pop(digest, None)
        if self._is_down:
            self._is_down = False
            self._log.info("key source {source} answers again", source=self.name)
        before = self._known.get(digest)
        self._keep(digest, found, look_up.asked_at_s)
        for answer in waiting:
            answer.callback(found)
        if before is not None and found is not before.key and not before.is_forgotten:
            self._tell_revoked(digest, before.key, found)

    def _keep(self, digest: bytes, found: PreparedKey | None, asked_at_s: float) -> None:
        """Keep a verdict."""
        if found is None:
            self._known.pop(digest, None)
            self._put(self._unknown, digest, asked_at_s)
        else:
            self._unknown.pop(digest, None)
            self._put(self._known, digest, _Known(found, asked_at_s))

    def _tell_revoked(self, digest: bytes, before: PreparedKey, found: PreparedKey | None) -> None:
        """Tell of a key that was good and is not any more."""
        now_s = self._now()
        if before.refusal_anywhere(now_s) is None:
            refusal = InvalidApiKey() if found is None else found.refusal_anywhere(now_s)
            if refusal is not None:
                self._on_revoked(digest, before.record.id, refusal)

    def _failed(self, digest: bytes, look_up: _LookUp, failure: Failure) -> None:
        waiting = self._end(digest, look_up)
        if not waiting:
            return  # it was cancelled, whatever its failure says
        if not failure.check(StoreUnavailable):
            self._log.failure("key source {source} failed", failure, source=self.name)
        now = self._clock.seconds()
        before = self._outages.get(digest)
        failures = 1 if before is None else before.failures + 1
        self._tell(failure, failures)
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10), LONGEST_PAUSE_S)
        self._put(self._outages, digest, _Outage(failures, now + pause_s))
        known = self._known.get(digest)
        holds = known is not None and 0 <= now - known.asked_at_s < self._times.cache_ttl_s
        for answer in waiting:
            if known is not None and holds:
                answer.callback(known.key)
            else:
                answer.errback(AuthUnavailable())

    def _tell(self, failure: Failure, failures: int) -> None:
        """Log an outage once; a record that cannot be read is one key's, not the source's."""
        if failure.check(MalformedRecord):
            if failures == 1:
                self._log.warn(
                    "key source {source} has a record that cannot be used: {reason}",
                    source=self.name,
                    reason=failure.getErrorMessage(),
                )
        elif not self._is_down:
            self._is_down = True
            self._log.warn(
                "key source {source} cannot be asked: {reason}",
                source=self.name,
                reason=failure.getErrorMessage(),
            )

    def _put(self, table: OrderedDict[bytes, _V], digest: bytes, value: _V) -> None:
        table[digest] = value
        table.move_to_end(digest)
        if len(table) > self._max_entries:
            table.popitem(last=False)
