"""How a refused request is told so: the error, its words, and its header fields.

Pure: it is given how each limit stood, and knows nothing of how that is counted. The fields are
those of OpenAI's API: ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from typing import Final, Literal

import attrs

from llmproxy.entitlements import LimitStanding
from llmproxy.errors import QuotaReserved, RateLimited

Scope = Literal["key", "model", "global"]
"""Whose limit it is."""

Kind = Literal["requests", "tokens", "concurrent", "quota"]
"""What is limited."""

LEAST_WAIT_S: Final = 0.001
"""No refusal asks for less patience."""

LEASE_WAIT_S: Final = 1.0
"""When running requests hold what is wanted, nobody knows when one ends: try again then."""

_WHO: Final[dict[Scope, str]] = {
    "key": "this API key",
    "model": "this model",
    "global": "this gateway",
}
_WHY: Final[dict[Kind, str]] = {
    # Not "too many tokens" or the like: clients take that for a prompt that is too long.
    "requests": "Too many requests to {who} in a short time. Please try again later.",
    "tokens": "The tokens of {who} are used up for the moment. Please try again later.",
    "concurrent": "Too many requests to {who} are running at once. Please try again later.",
}
_OF_KEY: Final[dict[Kind, str]] = {
    "requests": "Too many requests with {who} in a short time. Please try again later.",
    "concurrent": "Too many requests with {who} are running at once. Please try again later.",
}


@attrs.frozen
class Reading:
    """How one limit stood when a request came.

    Attributes:
        scope: Whose it is; ``key`` for a quota.
        kind: What it limits.
        wait_s: How long until it would let the request pass; 0: it would now.
        standing: Of a bucket, for the header fields; None: it has none there.
    """

    scope: Scope
    kind: Kind
    wait_s: float = 0.0
    standing: LimitStanding | None = None


def hardest(readings: Sequence[Reading]) -> Reading:
    """Give the limit that holds a request up for longest; of equal waits the first."""
    return max(readings, key=lambda reading: reading.wait_s)


def refuse(readings: Sequence[Reading]) -> RateLimited:
    """Make the error for a request that some limit holds up.

    Args:
        readings: Of every limit in play; at least one has a wait. Of equal waits the first counts.

    Returns:
        The error of the longest wait: `QuotaReserved` if that is the quota's.
    """
    longest = hardest(readings)
    retry_after_s = max(longest.wait_s, LEAST_WAIT_S)
    headers = _fields(readings)
    if longest.kind == "quota":
        return QuotaReserved(retry_after_s=retry_after_s, headers=headers)
    words = _OF_KEY.get(longest.kind) if longest.scope == "key" else None
    message = (words or _WHY[longest.kind]).format(who=_WHO[longest.scope])
    return RateLimited(message, retry_after_s=retry_after_s, headers=headers)


def _fields(readings: Iterable[Reading]) -> tuple[tuple[bytes, bytes], ...]:
    readings = tuple(readings)
    return (*_of_kind(readings, "requests"), *_of_kind(readings, "tokens"))


def _of_kind(
    readings: Sequence[Reading], kind: Literal["requests", "tokens"]
) -> Sequence[tuple[bytes, bytes]]:
    """Tell the bucket that refused, else the tightest one; nothing when there is none."""
    shown: LimitStanding | None = None
    best = (0.0, 0)
    for reading in readings:
        standing = reading.standing
        if reading.kind != kind or standing is None:
            continue
        rank = (reading.wait_s, -standing.remaining)
        if shown is None or rank > best:
            shown, best = standing, rank
    if shown is None:
        return ()
    name = kind.encode("ascii")
    return (
        (b"x-ratelimit-limit-" + name, b"%d" % shown.limit),
        (b"x-ratelimit-remaining-" + name, b"%d" % shown.remaining),
        (b"x-ratelimit-reset-" + name, go_duration(shown.reset_s).encode("ascii")),
    )


def go_duration(seconds: float) -> str:
    """Write a duration as Go prints one, in whole milliseconds, rounded up.

    ``0s``, ``20ms``, ``1.2s``, ``6m0s``, ``1h0m0.5s``.
    """
    total_ms = max(ceil(round(seconds * 1000, 6)), 0)  # 20.000000000000004 is 20
    if 0 < total_ms < 1000:
        return f"{total_ms}ms"
    total_s, ms = divmod(total_ms, 1000)
    minutes, whole_s = divmod(total_s, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{whole_s}.{ms:03d}".rstrip("0") if ms else f"{whole_s}"
    if hours:
        return f"{hours}h{minutes}m{text}s"
    return f"{minutes}m{text}s" if minutes else f"{text}s"
