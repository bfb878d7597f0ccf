"""What limits one kind of request, as the Redis scripts are told it, and what they say of it.

A plan is made once for a key and a model and used for all their requests. It knows what the keys
in Redis are called; it does not know how to ask, and nothing of leases that run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from math import ceil, floor
from typing import Any, Final

import attrs

from llmproxy.entitlements import Limits, LimitStanding, OwnLimits, Quota
from llmproxy.limits.refusal import LEASE_WAIT_S, Kind, Reading, Scope

LONGEST_ID_BYTES: Final = 256
"""Ids that are longer stand in the names of Redis's keys as a digest."""

_DIGESTED: Final = b"sha256:"
_SECOND_UNIT: Final = 1_000_000
_MINUTE_UNIT: Final = 60_000_000


def id_in_name(text: str) -> bytes:
    """Give an id as it stands in the name of a key in Redis: short, and different for each id."""
    plain = text.encode("utf-8", "surrogatepass")
    if len(plain) <= LONGEST_ID_BYTES and not plain.startswith(_DIGESTED):
        return plain
    return _DIGESTED + hashlib.sha256(plain).hexdigest().encode("ascii")


def counter_name(prefix: bytes, key_id: str) -> bytes:
    """Give the name of the Redis key under which a quota is counted."""
    return prefix + b"quota:" + id_in_name(key_id)


@attrs.frozen
class PlannedBucket:
    """One bucket.

    Attributes:
        limit: The name of the limit, as in `Limits`.
        field: Its name in Redis.
        kind: What it counts.
        capacity: Its size, in requests or tokens.
        rate: What flows in, in units by the microsecond.
        unit: How many units one request or token is.
    """

    limit: str
    field: str
    kind: Kind
    capacity: int
    rate: int
    unit: int

    @property
    def size_units(self) -> int:
        """Its size."""
        return self.capacity * self.unit

    def standing(self, missing_units: float) -> LimitStanding:
        """Say how it stands when so much is missing from it."""
        return LimitStanding(
            limit=self.capacity,
            remaining=max(floor((self.size_units - missing_units) / self.unit), 0),
            reset_s=missing_units / self.rate / 1e6,
        )

    def wait_s(self, missing_units: float, tokens: int) -> float:
        """Say how long a request of so many tokens must wait; whole microseconds, rounded up."""
        wanted = min(tokens, self.capacity) if self.kind == "tokens" else 1
        over = missing_units + wanted * self.unit - self.size_units
        return max(ceil(over / self.rate), 0) / 1e6


@attrs.frozen
class PlannedScope:
    """One scope.

    Attributes:
        scope: Whose limits they are.
        max_concurrent: Requests at once; 0: no limit.
        buckets: Its buckets.
    """

    scope: Scope
    max_concurrent: int
    buckets: tuple[PlannedBucket, ...]


class Plan:
    """What limits one kind of request.

    Args:
        scopes: The scopes with limits, each with its id as `id_in_name` gives it.
        key_id: Whose request it is.
        own_limits: Of that key: what the plan was made of.
        quota: Of that key.
        prefix: Before all names.
        ttl_us: How long leases live.

    Attributes:
        names: The names of its keys in Redis.
        text: What the scripts are told of it.
        limits_anything: Whether there is anything in it.
        leased: Whether its requests have leases.
        renewal: What `redis_scripts.RENEW` is told of each lease, after its hold.
    """

    __slots__ = (
        "leased",
        "limits_anything",
        "names",
        "own_limits",
        "quota",
        "renewal",
        "scopes",
        "text",
    )

    def __init__(
        self,
        scopes: Sequence[tuple[Scope, bytes, Limits]],
        key_id: str,
        *,
        own_limits: OwnLimits | None,
        quota: Quota | None,
        prefix: bytes,
        ttl_us: int,
    ) -> None:
        self.own_limits = own_limits
        self.quota = quota
        self.scopes = tuple(
            PlannedScope(scope, limits.max_concurrent, tuple(_buckets(limits)))
            for scope, _, limits in scopes
        )
        names: list[bytes] = []

        def place(name: bytes) -> int:
            """Give the position of a key, counted from 1 as Lua does."""
            name = prefix + name
            if name not in names:
                names.append(name)
            return names.index(name) + 1

        told_scopes: list[list[Any]] = []
        places: list[int] = []
        for (scope, owner, _), planned in zip(scopes, self.scopes, strict=True):
            whose = scope.encode("ascii") + b":" + owner
            buckets = [[b.field, b.size_units, b.rate, b.unit, b.kind[0]] for b in planned.buckets]
            leases = 0
            if planned.max_concurrent:
                leases = place(b"leases:" + whose)
                places.append(leases)
            told_scopes.append(
                [
                    place(b"buckets:" + whose) if buckets else 0,
                    leases,
                    planned.max_concurrent,
                    buckets,
                ]
            )
        told_quota: list[Any] | None = None
        holds = 0
        if quota is not None:
            owner = id_in_name(key_id)
            leases = place(b"leases:key:" + owner)
            if leases not in places:
                places.append(leases)
            holds = place(b"holds:" + owner)
            counter = place(b"quota:" + owner)
            told_quota = [counter, holds, leases, quota.total, quota.period, quota.used_before]
        self.names = tuple(names)
        told = {"ttl": ttl_us, "scopes": told_scopes, "quota": told_quota or False}
        self.text = json.dumps(told, separators=(",", ":"))
        self.leased = bool(places)
        self.limits_anything = bool(names)
        self.renewal = f"{json.dumps(places)},{holds}"

    def __repr__(self) -> str:
        return f"<Plan of {len(self.scopes)} scopes, quota={self.quota}>"

    def readings(self, reply: Sequence[bytes], tokens: int) -> list[Reading]:
        """Read why a request was refused: the reply of `redis_scripts.ACQUIRE`.

        Raises:
            ValueError: It is not such a reply.
        """
        readings: list[Reading] = []
        numbers = iter(reply[1:])
        for scope in self.scopes:
            running = int(next(numbers, b""))
            for bucket in scope.buckets:
                missing_units = float(next(numbers, b""))
                readings.append(
                    Reading(
                        scope.scope,
                        bucket.kind,
                        bucket.wait_s(missing_units, tokens),
                        bucket.standing(missing_units),
                    )
                )
            if scope.max_concurrent and running >= scope.max_concurrent:
                readings.append(Reading(scope.scope, "concurrent", LEASE_WAIT_S))
        if reply[0] == b"reserved":
            readings.append(Reading("key", "quota", LEASE_WAIT_S))
        return readings


def has_limits(limits: Limits) -> bool:
    """Say whether anything is limited."""
    return bool(limits.max_concurrent) or any(_buckets(limits))


def _buckets(limits: Limits) -> Iterator[PlannedBucket]:
    burst = limits.burst_size
    if rate := limits.requests_per_second:
        yield PlannedBucket(
            "requests_per_second", "s", "requests", burst or rate, rate, _SECOND_UNIT
        )
    if rate := limits.requests_per_minute:
        yield PlannedBucket(
            "requests_per_minute", "m", "requests", burst or rate, rate, _MINUTE_UNIT
        )
    if rate := limits.tokens_per_minute:
        yield PlannedBucket("tokens_per_minute", "t", "tokens", rate, rate, _MINUTE_UNIT)
