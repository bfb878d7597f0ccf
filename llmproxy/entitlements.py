"""How much a key may use: limits on rates, limits on numbers at once, budgets, and how they stand.

Pure values: no I/O, no clock, no Twisted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

QuotaPeriod = Literal["daily", "weekly", "monthly", "never"]
"""When a quota is whole again: at midnight, on Monday, on the first of the month; all in UTC."""


@attrs.frozen
class Limits:
    """How much may be asked in one scope: globally, by one key, of one model. 0 is no limit.

    Attributes:
        requests_per_second: Rate of requests.
        requests_per_minute: Rate of requests.
        tokens_per_minute: Rate of tokens, prompts and answers together.
        max_concurrent: Requests at once.
        burst_size: Requests that may come at once before the rates hold; 0: those of the rate's
            own period.
    """

    requests_per_second: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_concurrent: int = 0
    burst_size: int = 0


NO_LIMITS = Limits()
"""Everything may be asked."""


@attrs.frozen
class OwnLimits:
    """What one key has instead of the limits of every key; None: the same as they."""

    requests_per_second: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    burst_size: int | None = None

    def over(self, base: Limits) -> Limits:
        """Put what is given here in the place of what stands there."""
        given = attrs.asdict(self, filter=lambda _, value: value is not None)
        return attrs.evolve(base, **given)


@attrs.frozen
class Quota:
    """A budget of tokens.

    Attributes:
        total: Tokens in each period.
        period: When it is whole again.
        used_before: Tokens from which counting starts when the key is first met.
    """

    total: int
    period: QuotaPeriod = "never"
    used_before: int = 0


@attrs.frozen
class LimitStanding:
    """How one limit of a key stands.

    Attributes:
        limit: How many at most: the size of the bucket, or requests at once.
        remaining: How many may come now; not negative.
        reset_s: Seconds until all of them may; 0: they may, or it hangs on running requests.
    """

    limit: int
    remaining: int
    reset_s: float = 0.0


@attrs.frozen
class QuotaStanding:
    """How a key's budget stands, in tokens.

    Attributes:
        total: In each period.
        used: Settled in this period; above ``total`` by what the last requests overdrew.
        reserved: Held by running requests.
        period: When it is whole again.
        resets_at_s: When that is next, seconds since the epoch; None: never.
    """

    total: int
    used: int
    reserved: int
    period: QuotaPeriod
    resets_at_s: float | None = None


@attrs.frozen
class Standing:
    """How a key stands; ``limits`` by the names of `Limits`, only those that there are."""

    limits: Mapping[str, LimitStanding]
    quota: QuotaStanding | None = None
