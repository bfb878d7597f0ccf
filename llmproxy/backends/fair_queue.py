"""Who waits, and who is next: a queue that is fair between keys, whatever each of them asks for.

Theory: start-time fair queueing (Goyal, Vin and Cheng, 1996). Time is virtual: it advances by what
is served. A key that begins to wait starts at the present; each of its requests is due when the one
before it, at its cost, would be over. Whoever is due first is served first. So a key with a hundred
requests and a key with one take turns, and a key with long prompts has fewer turns.

What serving takes is only guessed at first, and put right when it is over. Nobody is held to a
guess, or to what it took, without bound.

What waits is of some *kind*: what can serve one of a kind can serve each of it. Who cannot be
served now stands in nobody's way, and of each kind only one is asked, however many wait.

Pure arithmetic: no clock, no Deferred. What waits is anything.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Final, Generic, TypeVar

import attrs

MOST_GUESSED: Final = 16_384.0
"""A guess counts for no more: who asks for the longest of answers seldom has one."""

MOST_BEHIND: Final = 131_072.0
"""Whatever a key was served, it has its turn again before others have had more than this."""

LEAST_TURN: Final = 100.0
"""What a turn costs that was guessed to cost more, and took less: it took a place and its time."""

T = TypeVar("T")


@attrs.define(eq=False)
class Waiting(Generic[T]):
    """One that waits.

    Attributes:
        key: Whose it is.
        cost: What serving it takes, in any unit, above 0.
        item: What waits.
        kind: Of which kind.
        number: How many came before it.
        busy_since: The virtual time from which on its key has had some of its kind waiting.
        arrived_at: The virtual time from which on it may be due. What comes to others of its key
            follows on them: the present may still hold what was guessed too high of these.
        is_waiting: Whether it still does.
        began: The virtual time when it was served.
        charged: What it was held to cost then.
    """

    key: str
    cost: float
    item: T
    kind: Hashable
    number: int
    busy_since: float
    arrived_at: float
    is_waiting: bool = True
    began: float = 0.0
    charged: float = 0.0


@attrs.define(eq=False)
class _Line(Generic[T]):
    """What waits of one key.

    Attributes:
        kinds: By kind, in the order in which it came. Some may have left since; the first has not.
        length: How many still wait.
        due: When the first is due.
        due_next: When what was served last of this key is over: the next is not due before.
        since: When the key began to wait: what was served before is not in ``due_next``.
    """

    kinds: dict[Hashable, deque[Waiting[T]]] = attrs.field(factory=dict)
    length: int = 0
    due: float = 0.0
    due_next: float = 0.0
    since: float = 0.0

    def firsts(self) -> list[Waiting[T]]:
        """Give the first of each kind, in the order in which they came."""
        firsts = [entries[0] for entries in self.kinds.values()]
        if len(firsts) > 1:
            firsts.sort(key=_number)
        return firsts

    def newest(self) -> Waiting[T]:
        """Give the one that came last of all that still wait."""
        return max(
            (next(filter(_waits, reversed(entries))) for entries in self.kinds.values()),
            key=_number,
        )

    def drop_left(self, kind: Hashable) -> None:
        """Forget those at the head of a kind that wait there no more."""
        entries = self.kinds[kind]
        while entries and not entries[0].is_waiting:
            entries.popleft()
        if not entries:
            del self.kinds[kind]


def _number(entry: Waiting[T]) -> int:
    return entry.number


def _waits(entry: Waiting[T]) -> bool:
    return entry.is_waiting


class FairQueue(Generic[T]):
    """A bounded queue, fair between keys.

    When it is full, whoever has most in it makes room for one who has less: the newest of that key
    is turned out.

    Args:
        limit: How many may wait.

    Attributes:
        limit: As the argument; it may change, and nobody is turned out by that alone.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lines: dict[str, _Line[T]] = {}
        self._order: list[tuple[float, int, str]] = []  # of lines; those out of date are skipped
        self._numbers = count()
        self._kinds: Counter[Hashable] = Counter()
        self._now = 0.0
        self._length = 0

    def __repr__(self) -> str:
        return f"<FairQueue {self._length} of {self.limit} waiting, {len(self._lines)} keys>"

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Waiting[T]]:
        """Give all that wait, by key and kind, and in the order of each."""
        for line in self._lines.values():
            for entries in line.kinds.values():
                yield from filter(_waits, entries)

    def push(
        self, key: str, cost: float, item: T, kind: Hashable = None
    ) -> tuple[Waiting[T] | None, Waiting[T] | None]:
        """Have something wait.

        Args:
            key: Whose it is.
            cost: What serving it takes, above 0.
            item: What waits.
            kind: Of which kind.

        Returns:
            Its place, None when there is no room for it; and who was turned out for it, if anybody.
        """
        turned_out = None
        if self._length >= self.limit:
            turned_out = self._make_room(key)
            if turned_out is None:
                return None, None
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(since=self._now)
        since = self._busy_since(line, kind)
        entry = Waiting(key, cost, item, kind, next(self._numbers), since, since)
        line.kinds.setdefault(kind, deque()).append(entry)
        line.length += 1
        self._length += 1
        self._kinds[kind] += 1
        if line.length == 1:
            self._stand_in_order(line, entry)
        return entry, turned_out

    def pop(self, accepts: Callable[[T], bool] = lambda _: True) -> Waiting[T] | None:
        """Take out who is next of those that are accepted; None when there is none.

        Args:
            accepts: Says whether something can be served now: and if not, that none of its kind
                can be.
        """
        passed_over = []
        refused: set[Hashable] = set()
        found = None
        while found is None and self._order and len(refused) < len(self._kinds):
            place = due, _, key = heappop(self._order)
            line = self._lines.get(key)
            if line is None or not line.length or line.due != due:
                continue
            found = self._first_accepted(line, accepts, refused)
            if found is None:
                passed_over.append(place)
        for place in passed_over:
            heappush(self._order, place)
        if found is not None:
            line = self._lines[found.key]
            if found.arrived_at > line.due_next:
                line.since = line.due_next = found.arrived_at
            found.began = line.due_next
            # Who was passed over until now is due long since; that is no time for who comes now.
            self._now = max(self._now, found.began)
            found.charged = min(found.cost, MOST_GUESSED)
            line.due_next += found.charged
            self.remove(found)
        return found

    def settle(self, entry: Waiting[T], cost: float) -> None:
        """Put right what one cost that was served.

        Args:
            entry: What was served.
            cost: What it really took.
        """
        line = self._lines.get(entry.key)
        if line is None or entry.began < line.since:
            return
        cost = max(cost, min(entry.charged, LEAST_TURN))
        line.due_next = min(line.due_next + cost - entry.charged, self._now + MOST_BEHIND)
        if line.length:
            was_due = line.due
            self._stand_in_order(line, line.firsts()[0])
            # Who comes now must not come after those whose turns are counted from there.
            if was_due >= self._now:
                self._now = min(self._now, line.due)
        elif line.due_next <= self._now:
            del self._lines[entry.key]

    @staticmethod
    def _first_accepted(
        line: _Line[T], accepts: Callable[[T], bool], refused: set[Hashable]
    ) -> Waiting[T] | None:
        for entry in line.firsts():
            if entry.kind not in refused:
                if accepts(entry.item):
                    return entry
                refused.add(entry.kind)
        return None

    def move(self, entry: Waiting[T], kind: Hashable) -> None:
        """Have one that waits be of another kind; it keeps its place."""
        line = self._lines[entry.key]
        line.kinds[entry.kind].remove(entry)
        line.drop_left(entry.kind)
        self._uncount(entry.kind)
        entry.kind = kind
        entry.busy_since = self._busy_since(line, kind)
        insort(line.kinds.setdefault(kind, deque()), entry, key=_number)
        self._kinds[kind] += 1

    def remove(self, entry: Waiting[T]) -> None:
        """Take one out that waits no more; what it would have cost is not held against its key."""
        if not entry.is_waiting:
            return
        entry.is_waiting = False
        self._length -= 1
        line = self._lines[entry.key]
        line.length -= 1
        self._uncount(entry.kind)
        if line.kinds[entry.kind][0] is not entry:
            return
        line.drop_left(entry.kind)
        if line.length:
            self._stand_in_order(line, line.firsts()[0])
        elif line.due_next <= self._now:
            del self._lines[entry.key]
        else:
            self._forget_old()

    def _busy_since(self, line: _Line[T], kind: Hashable) -> float:
        entries = line.kinds.get(kind)
        return entries[-1].busy_since if entries else self._now

    def _uncount(self, kind: Hashable) -> None:
        self._kinds[kind] -= 1
        if not self._kinds[kind]:
            del self._kinds[kind]

    def _stand_in_order(self, line: _Line[T], first: Waiting[T]) -> None:
        line.due = max(line.due_next, first.arrived_at)
        heappush(self._order, (line.due, next(self._numbers), first.key))

    def _make_room(self, key: str) -> Waiting[T] | None:
        """Turn out the newest of the key that has most, if that is more than this one will have."""
        greedy = max(self._lines.values(), key=lambda line: line.length, default=None)
        own = self._lines[key].length if key in self._lines else 0
        if greedy is None or greedy.length <= own + 1:
            return None
        newest = greedy.newest()
        self.remove(newest)
        return newest

    def _forget_old(self) -> None:
        """Forget keys of which nothing waits, once time has come to where they were served to."""
        if len(self._lines) <= 2 * self._length + 16:
            return
        for key, line in list(self._lines.items()):
            if not line.length and (line.due_next <= self._now or not self._length):
                del self._lines[key]
