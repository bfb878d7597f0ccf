"""What a limiter should decide, worked out another way: levels as exact fractions.

It keeps each bucket as a level that is topped up whenever it is looked at, and each decision is the
conjunction of all of them. It is slow and plain, and shares no code with what it is to judge.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor

import attrs

from llmproxy.config.model_stores import Limits, RateLimit
from llmproxy.values import Demand, Principal

GRANTED, SPENT, HELD, LIMITED = "granted", "spent", "held", "limited"


@attrs.define
class Level:
    """One bucket.

    Attributes:
        capacity: Units that fit.
        per_s: Units that come back in a second.
        level: Units in it at that time; below 0: debt.
        at_us: That time.
    """

    capacity: int
    per_s: Fraction
    level: Fraction
    at_us: int

    def top_up(self, now_us: int) -> None:
        """Let come back what has come back by then."""
        grown = self.level + self.per_s * Fraction(now_us - self.at_us, 1_000_000)
        self.level = min(Fraction(self.capacity), grown)
        self.at_us = now_us

    def wait_s(self, units: int) -> Fraction:
        """Say how long it takes until so many units are there."""
        lacking = min(units, self.capacity) - self.level
        return max(lacking / self.per_s, Fraction(0))

    def add(self, units: int) -> None:
        """Put units in; what does not fit is lost."""
        self.level = min(self.level + units, Fraction(self.capacity))

    def reset_s(self) -> Fraction:
        """Say how long it takes until it is full."""
        return (self.capacity - self.level) / self.per_s


@attrs.define
class Place:
    """One scope."""

    levels: dict[str, Level]
    max_concurrent: int
    running: int = 0


@attrs.define
class Budget:
    """One key's quota; of the period ``never``, the others are told by cases."""

    total: int
    used: int
    reserved: int = 0


@attrs.define
class Running:
    """A request that was let in: the scopes it is in, and what it holds of each."""

    places: list[tuple[Place, int]]
    budget: Budget | None
    held: int


@attrs.frozen
class Verdict:
    """What was decided; ``wait_s`` of those that may come again."""

    what: str
    wait_s: Fraction = Fraction(0)


class Oracle:
    """Decides as a limiter should.

    Args:
        settings: The section ``rate_limit``.
        now_us: The time.
    """

    def __init__(self, settings: RateLimit, now_us: int) -> None:
        self._settings = settings
        self._now_us = now_us
        self._places: dict[tuple[str, str], Place] = {}
        self._budgets: dict[str, Budget] = {}
        self._running: dict[int, Running] = {}
        self._count = 0

    def advance(self, us: int) -> None:
        """Let time pass."""
        self._now_us += us

    def acquire(self, demand: Demand) -> tuple[Verdict, int]:
        """Decide on a request; with the number of the grant, if it is one."""
        budget = self.budget(demand.principal)
        if budget is not None and budget.used >= budget.total:
            return Verdict(SPENT), 0
        places = self._places_of(demand)
        waits = [Fraction(0)]
        for place in places:
            for name, level in place.levels.items():
                level.top_up(self._now_us)
                waits.append(level.wait_s(demand.tokens if name == "tokens_per_minute" else 1))
            if place.max_concurrent and place.running >= place.max_concurrent:
                waits.append(Fraction(1))
        left = budget.total - budget.used - budget.reserved if budget is not None else 0
        if budget is not None and left <= 0 and max(waits) < 1:
            return Verdict(HELD, Fraction(1)), 0
        if max(waits) > 0:
            return Verdict(LIMITED, max(waits)), 0
        running = Running([], budget, min(demand.tokens, left))
        for place in places:
            place.running += 1
            for name, level in place.levels.items():
                if name != "tokens_per_minute":
                    level.add(-1)
            tokens = place.levels.get("tokens_per_minute")
            reserved = min(demand.tokens, tokens.capacity) if tokens is not None else 0
            if tokens is not None:
                tokens.add(-reserved)
            running.places.append((place, reserved))
        if budget is not None:
            budget.reserved += running.held
        self._count += 1
        self._running[self._count] = running
        return Verdict(GRANTED), self._count

    def settle(self, number: int, used: int) -> None:
        """End a request."""
        running = self._running.pop(number)
        for place, reserved in running.places:
            place.running -= 1
            tokens = place.levels.get("tokens_per_minute")
            if tokens is not None:
                tokens.top_up(self._now_us)
                tokens.add(reserved - used)
        if running.budget is not None:
            running.budget.reserved -= running.held
            running.budget.used += used

    def budget(self, principal: Principal) -> Budget | None:
        """Give a key's budget."""
        quota = principal.quota
        if quota is None:
            return None
        return self._budgets.setdefault(principal.key_id, Budget(quota.total, quota.used_before))

    def standing(self, principal: Principal) -> dict[str, tuple[int, int, Fraction]]:
        """Give each limit's size, what is left of it, and the seconds until it is whole."""
        place = self._place("key", principal)
        stands = {}
        for name, level in place.levels.items():
            level.top_up(self._now_us)
            stands[name] = (level.capacity, max(floor(level.level), 0), level.reset_s())
        if place.max_concurrent:
            left = max(place.max_concurrent - place.running, 0)
            stands["max_concurrent"] = (place.max_concurrent, left, Fraction(0))
        return stands

    def _places_of(self, demand: Demand) -> list[Place]:
        places = [self._place("key", demand.principal), self._place("global", None)]
        if demand.model_id in self._settings.per_model:
            places.append(self._place("model", None, demand.model_id))
        return places

    def _place(self, scope: str, principal: Principal | None, model_id: str = "") -> Place:
        where = (scope, principal.key_id if principal is not None else model_id)
        if where not in self._places:
            limits = self._limits(scope, principal, model_id)
            self._places[where] = self._make(limits)
        return self._places[where]

    def _limits(self, scope: str, principal: Principal | None, model_id: str) -> dict[str, int]:
        settings = self._settings
        if not settings.enabled:
            return attrs.asdict(Limits())
        if scope == "global":
            return attrs.asdict(settings.global_)
        if scope == "model":
            return attrs.asdict(settings.per_model[model_id])
        limits: dict[str, int] = attrs.asdict(settings.per_key)
        if principal is not None and principal.own_limits is not None:
            own = attrs.asdict(principal.own_limits)
            limits.update({name: value for name, value in own.items() if value is not None})
        return limits

    def _make(self, limits: dict[str, int]) -> Place:
        levels = {}
        for name, per_s in (
            ("requests_per_second", Fraction(1)),
            ("requests_per_minute", Fraction(1, 60)),
            ("tokens_per_minute", Fraction(1, 60)),
        ):
            rate = limits[name]
            if rate:
                burst = 0 if name == "tokens_per_minute" else limits["burst_size"]
                size = burst or rate
                levels[name] = Level(size, rate * per_s, Fraction(size), self._now_us)
        return Place(levels, limits["max_concurrent"])
