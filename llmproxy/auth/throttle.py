"""Too many failures from one address: it is told to wait.

A token bucket for each address, without timers, in a table of bounded size. It knows nothing of
what failed: unknown keys and wrong admin tokens are counted the same way, each in a table of their
own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

import attrs
from twisted.internet.interfaces import IReactorTime

MAX_UNDER_WAY: Final = 100
"""How many attempts of one address may be under way: some dozens of people may come from it, all at
once after a restart."""


@attrs.define
class _Bucket:
    """How many failures an address has left, as of when; below 0: how many were too many."""

    left: float
    at_s: float


class FailureThrottle:
    """Counts failures by address.

    An address is an IPv4 address or an IPv6 network of 64 bits, which one host has for itself.
    Callers without an address are counted as one.

    What is found out only later is counted when it is known, and so many of one address could be
    under way by then: therefore no more than `MAX_UNDER_WAY` may be, and those that fail together
    are to be waited for, up to another burst.

    Args:
        per_minute: How many failures, on the average; 0: no limit.
        burst: How many at once, at least 1.
        clock: The reactor's time.
        max_addresses: How many are remembered; those that failed last.

    Attributes:
        refused: How many attempts were told to wait, ever.
    """

    def __init__(
        self, per_minute: int, burst: int, *, clock: IReactorTime, max_addresses: int = 10_000
    ) -> None:
        self._per_second = per_minute / 60.0
        self._burst = float(max(burst, 1))
        self._clock = clock
        self._max_addresses = max_addresses
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._under_way: dict[str, int] = {}
        self.refused = 0

    def __repr__(self) -> str:
        return f"<FailureThrottle addresses={len(self._buckets)}>"

    def blocked_s(self, ip: str) -> float:
        """Say for how long an address is to wait, in seconds, and count it; 0: it need not."""
        if not self._buckets and not self._under_way:
            return 0.0
        address = _address(ip)
        wait_s = 1.0 if self._under_way.get(address, 0) >= MAX_UNDER_WAY else 0.0
        bucket = self._buckets.get(address)
        if bucket is not None:
            left = self._left(bucket, self._clock.seconds())
            if left < 1.0:
                wait_s = max(wait_s, (1.0 - left) / self._per_second)
        self.refused += wait_s > 0
        return wait_s

    def begin(self, ip: str) -> Callable[[], None]:
        """Take note of an attempt whose outcome is not known yet.

        Returns:
            What is to be called, once, when it is known.
        """
        if not self._per_second:
            return _nothing
        address = _address(ip)
        self._under_way[address] = self._under_way.get(address, 0) + 1

        def end() -> None:
            self._under_way[address] -= 1
            if not self._under_way[address]:
                del self._under_way[address]

        return end

    def note_failure(self, ip: str) -> None:
        """Count a failure; what is over two bursts is not counted, or an end would never come."""
        if not self._per_second:
            return
        address = _address(ip)
        now = self._clock.seconds()
        bucket = self._buckets.get(address)
        if bucket is None:
            self._buckets[address] = _Bucket(self._burst - 1.0, now)
            if len(self._buckets) > self._max_addresses:
                self._buckets.popitem(last=False)
            return
        bucket.left = max(self._left(bucket, now) - 1.0, -self._burst)
        bucket.at_s = now
        self._buckets.move_to_end(address)

    def _left(self, bucket: _Bucket, now: float) -> float:
        if now < bucket.at_s:  # the clock was set back: what is waited from now on counts
            bucket.at_s = now
        waited_s = now - bucket.at_s
        return min(bucket.left + waited_s * self._per_second, self._burst)


def _nothing() -> None:
    """Do nothing."""


def _address(ip: str) -> str:
    """Give what is counted as one address."""
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(IPv6Network((address, 64), strict=False))
    return str(address)
