"""What is used of one key's budget, and what running requests hold of it.

Pure arithmetic; it knows no store and no clock. A reservation that was made in one period and is
settled in the next counts in the period in which it is settled: that needs no memory of when a
request began, and whatever is asked after the boundary is exact, for what runs across it is still
reserved then.

``used + reserved`` is never above what was granted. It exceeds the budget only by what requests
used beyond what they had reserved; a request reserves less than it asked for only when it gets all
that is left. So the excess is at most what the requests that run at one time use beyond their own
reservations; after that nothing is granted.
"""

from __future__ import annotations

from math import inf

from llmproxy.entitlements import Quota, QuotaPeriod
from llmproxy.limits.periods import period_end_s, period_start_s


class QuotaCounter:
    """Counts one key's tokens in the running period.

    The wall clock may be set back: the later period stands, so that nobody gets a budget twice.

    Attributes:
        starts_s: When the period began, seconds since the epoch; 0 for ``never``.
        ends_s: When it ends; infinite for ``never``.
        used: Settled in this period, by all who count it as far as that is known.
        reserved: Held by running requests.
        running: How many there are.
        pending: Of ``used``, what no store has been told yet.
        start: Where counting began, for a store that has no counter yet.
        known: Whether ``used`` rests on what the store said.
        rested: Whether nobody has asked for it for a while.

    Args:
        quota: The budget.
        now_s: The time, seconds since the epoch.
        known: As the attribute.
    """

    __slots__ = (
        "_period",
        "ends_s",
        "known",
        "pending",
        "reserved",
        "rested",
        "running",
        "start",
        "starts_s",
        "used",
    )

    def __init__(self, quota: Quota, now_s: float, *, known: bool) -> None:
        self._period: QuotaPeriod = quota.period
        self.starts_s = period_start_s(quota.period, now_s)
        self.ends_s = _end_s(quota.period, now_s)
        self.used = self.start = quota.used_before
        self.reserved = 0
        self.running = 0
        self.pending = 0
        self.known = known
        self.rested = False

    def __repr__(self) -> str:
        return f"<QuotaCounter used={self.used} reserved={self.reserved} running={self.running}>"

    def observe(self, period: QuotaPeriod, now_s: float) -> None:
        """See what time it is, and by which periods the budget is whole again."""
        if period != self._period:
            self._period = period
            self.ends_s = _end_s(period, max(self.starts_s, now_s))
            self._enter(period_start_s(period, now_s))
        elif now_s >= self.ends_s:
            self.ends_s = _end_s(period, now_s)
            self._enter(period_start_s(period, now_s))

    def reserve(self, tokens: int, total: int) -> int:
        """Hold tokens for a request that begins; something must be left of the budget.

        Returns:
            How many are held: as many as were asked for, or all that is left.
        """
        left = total - self.used - self.reserved
        if tokens > left:
            tokens = left
        self.reserved += tokens
        self.running += 1
        return tokens

    def settle(self, reserved: int, tokens: int, now_s: float) -> None:
        """Count a request that has ended.

        Args:
            reserved: What `reserve` gave.
            tokens: What it has really used.
            now_s: The time.
        """
        if now_s >= self.ends_s:
            self.observe(self._period, now_s)
        self.reserved -= reserved
        self.running -= 1
        self.used += tokens
        self.pending += tokens

    def learn(self, starts_s: int, tokens: int) -> None:
        """Take over what the store says; what it has not been told yet comes on top.

        Args:
            starts_s: The period that stands there. In an older one nothing of this one was counted;
                a later one is entered, for another process has seen it begin.
            tokens: What is used in it.
        """
        self.known = True
        if starts_s > self.starts_s:
            self.starts_s = starts_s
            self.ends_s = max(self.ends_s, _end_s(self._period, starts_s))
        elif starts_s < self.starts_s:
            tokens = 0
        self.used = tokens + self.pending

    def _enter(self, starts_s: int) -> None:
        if starts_s > self.starts_s:
            self.starts_s = starts_s
            self.used = self.pending = self.start = 0


def _end_s(period: QuotaPeriod, now_s: float) -> float:
    end_s = period_end_s(period, now_s)
    return inf if end_s is None else end_s
