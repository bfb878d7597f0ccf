"""What one scope counts: its buckets, and the requests that run in it.

It knows one scope's limits; that a request meets several scopes is `MemoryLimiter`'s matter. No
clock: times are handed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llmproxy.entitlements import Limits, LimitStanding, OwnLimits
from llmproxy.limits.bucket import MINUTE_NS, SECOND_NS, Bucket
from llmproxy.limits.refusal import LEASE_WAIT_S, Reading, Scope


class ScopeCount:
    """The counts of one scope: all requests, one key, or one model.

    Attributes:
        limits: What it is held to.
        own: The key's own limits that ``limits`` were made with; None for those of every key.
        running: Requests that run in it; counted always, for a limit may come later.

    Args:
        scope: Which kind it is.
        limits: What it is held to.
        own: As the attribute.
        now_ns: The time, on a clock that does not run backwards.
    """

    __slots__ = (
        "_max_concurrent",
        "_minute",
        "_second",
        "_tokens",
        "limits",
        "own",
        "running",
        "scope",
    )

    def __init__(
        self, scope: Scope, limits: Limits, own: OwnLimits | None = None, now_ns: int = 0
    ) -> None:
        self.scope = scope
        self.running = 0
        self._second: Bucket | None = None
        self._minute: Bucket | None = None
        self._tokens: Bucket | None = None
        self.hold_to(limits, own, now_ns)

    def __repr__(self) -> str:
        return f"<ScopeCount {self.scope} running={self.running} {self.limits!r}>"

    def hold_to(self, limits: Limits, own: OwnLimits | None, now_ns: int) -> None:
        """Give it limits, instead of those that it has; what was used stays used."""
        self.limits = limits
        self.own = own
        self._max_concurrent = limits.max_concurrent
        burst = limits.burst_size
        per_s, per_min = limits.requests_per_second, limits.requests_per_minute
        per_min_tokens = limits.tokens_per_minute
        self._second = _held(self._second, per_s, burst or per_s, SECOND_NS, now_ns)
        self._minute = _held(self._minute, per_min, burst or per_min, MINUTE_NS, now_ns)
        self._tokens = _held(self._tokens, per_min_tokens, per_min_tokens, MINUTE_NS, now_ns)

    def admits(self, tokens: int, now_ns: int) -> bool:
        """Say whether a request that reserves so many tokens may run; it changes nothing."""
        if self._max_concurrent and self.running >= self._max_concurrent:
            return False
        bucket = self._second
        if bucket is not None and not bucket.admits(1, now_ns):
            return False
        bucket = self._minute
        if bucket is not None and not bucket.admits(1, now_ns):
            return False
        bucket = self._tokens
        return bucket is None or bucket.admits(
            tokens if tokens < bucket.capacity else bucket.capacity, now_ns
        )

    def begin(self, tokens: int, now_ns: int) -> int:
        """Count a request that begins.

        Returns:
            The tokens that it has reserved, to be handed to `end`; -1: tokens are not counted.
        """
        self.running += 1
        bucket = self._second
        if bucket is not None:
            bucket.take(1, now_ns)
        bucket = self._minute
        if bucket is not None:
            bucket.take(1, now_ns)
        bucket = self._tokens
        if bucket is None:
            return -1
        if tokens > bucket.capacity:
            tokens = bucket.capacity
        bucket.take(tokens, now_ns)
        return tokens

    def end(self, reserved: int, tokens: int, now_ns: int) -> None:
        """Count a request that has ended.

        Args:
            reserved: What `begin` gave.
            tokens: What it has really used.
            now_ns: The time.
        """
        self.running -= 1
        bucket = self._tokens
        if bucket is not None and reserved >= 0:
            bucket.take(tokens - reserved, now_ns)

    def is_idle(self, now_ns: int) -> bool:
        """Say whether it counts nothing that a new one would not."""
        return self.running == 0 and all(bucket.is_full(now_ns) for _, bucket in self._buckets())

    def readings(self, tokens: int, now_ns: int) -> Iterator[Reading]:
        """Say how each of its limits stands to a request that reserves so many tokens."""
        for name, bucket in self._buckets():
            of_tokens = name == "tokens_per_minute"
            units = min(tokens, bucket.capacity) if of_tokens else 1
            yield Reading(
                self.scope,
                "tokens" if of_tokens else "requests",
                bucket.wait_ns(units, now_ns) / SECOND_NS,
                _standing(bucket, now_ns),
            )
        if self._max_concurrent and self.running >= self._max_concurrent:
            yield Reading(self.scope, "concurrent", LEASE_WAIT_S)

    def standing(self, now_ns: int) -> Mapping[str, LimitStanding]:
        """Say how its limits stand, by the names of `Limits`."""
        stands = {name: _standing(bucket, now_ns) for name, bucket in self._buckets()}
        if self._max_concurrent:
            left = max(self._max_concurrent - self.running, 0)
            stands["max_concurrent"] = LimitStanding(self._max_concurrent, left)
        return stands

    def _buckets(self) -> Iterator[tuple[str, Bucket]]:
        for name, bucket in (
            ("requests_per_second", self._second),
            ("requests_per_minute", self._minute),
            ("tokens_per_minute", self._tokens),
        ):
            if bucket is not None:
                yield name, bucket


def _held(
    bucket: Bucket | None, rate: int, capacity: int, period_ns: int, now_ns: int
) -> Bucket | None:
    """Give a bucket of that rate: the one that there is, or else a new one; None without a rate."""
    if not rate:
        return None
    if bucket is None:
        return Bucket(rate, capacity, period_ns)
    bucket.resize(rate, capacity, now_ns)
    return bucket


def _standing(bucket: Bucket, now_ns: int) -> LimitStanding:
    return LimitStanding(
        bucket.capacity, bucket.remaining(now_ns), bucket.reset_ns(now_ns) / SECOND_NS
    )
