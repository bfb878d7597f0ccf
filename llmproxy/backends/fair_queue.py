"""Who waits, and who is next: a queue that is fair between keys, whatever each of them asks for.

Theory: start-time fair queueing (Goyal, Vin and Cheng, 1996). Time is virtual: it advances by what
is served. A key that begins to wait starts at the present; each of its requests is due when the one
before it, at its cost, would be over. Whoever is due first is served first. So a key with a hundred
requests and a key with one take turns, and a key with long prompts has fewer turns.

Pure arithmetic: no clock, no Deferred. What waits is anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

import attrs

T = TypeVar("T")


@attrs.define(eq=False)
class Waiting(Generic[T]):
    """One that waits.

    Attributes:
        key: Whose it is.
        cost: What serving it takes, in any unit, above 0.
        item: What waits.
        arrived_at: The virtual time when it came.
        is_waiting: Whether it still does.
    """

    key: str
    cost: float
    item: T
    arrived_at: float
    is_waiting: bool = True


@attrs.define(eq=False)
class _Line(Generic[T]):
    """What waits of one key, in the order in which it came.

    Attributes:
        entries: Some may have left since; the first has not.
        length: How many still wait.
        due: When the first is due.
        due_next: When what was served last of this key is over: the next is not due before.
    """

    entries: deque[Waiting[T]] = attrs.field(factory=deque)
    length: int = 0
    due: float = 0.0
    due_next: float = 0.0


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
        self._now = 0.0
        self._length = 0

    def __repr__(self) -> str:
        return f"<FairQueue {self._length} of {self.limit} waiting, {len(self._lines)} keys>"

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Waiting[T]]:
        """Give all that wait, by key, and in the order of each key."""
        for line in self._lines.values():
            yield from (entry for entry in line.entries if entry.is_waiting)

    def push(self, key: str, cost: float, item: T) -> tuple[Waiting[T] | None, Waiting[T] | None]:
        """Have something wait.

        Args:
            key: Whose it is.
            cost: What serving it takes, above 0.
            item: What waits.

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
            line = self._lines[key] = _Line()
        entry = Waiting(key, cost, item, self._now)
        line.entries.append(entry)
        line.length += 1
        self._length += 1
        if line.length == 1:
            self._stand_first(line, entry)
        return entry, turned_out

    def pop(self, accepts: Callable[[T], bool] = lambda _: True) -> Waiting[T] | None:
        """Take out who is next of those whose first is accepted; None when there is none.

        Args:
            accepts: Says whether something can be served now.
        """
        passed_over = []
        found = None
        while self._order:
            due, number, key = heappop(self._order)
            line = self._lines.get(key)
            if line is None or not line.length or line.due != due:
                continue
            first = line.entries[0]
            if accepts(first.item):
                found = first
                break
            passed_over.append((due, number, key))
        for place in passed_over:
            heappush(self._order, place)
        if found is not None:
            line = self._lines[found.key]
            self._now = max(self._now, line.due)
            line.due_next = line.due + found.cost
            self.remove(found)
        return found

    def remove(self, entry: Waiting[T]) -> None:
        """Take one out that waits no more; what it would have cost is not held against its key."""
        if not entry.is_waiting:
            return
        entry.is_waiting = False
        self._length -= 1
        line = self._lines[entry.key]
        line.length -= 1
        if line.entries[0] is not entry:
            return
        while line.entries and not line.entries[0].is_waiting:
            line.entries.popleft()
        if line.entries:
            self._stand_first(line, line.entries[0])
        elif line.due_next <= self._now:
            del self._lines[entry.key]
        else:
            self._forget_old()

    def _stand_first(self, line: _Line[T], entry: Waiting[T]) -> None:
        line.due = max(line.due_next, entry.arrived_at)
        heappush(self._order, (line.due, next(self._numbers), entry.key))

    def _make_room(self, key: str) -> Waiting[T] | None:
        """Turn out the newest of the key that has most, if that is more than this one will have."""
        greedy = max(self._lines.values(), key=lambda line: line.length, default=None)
        own = self._lines[key].length if key in self._lines else 0
        if greedy is None or greedy.length <= own + 1:
            return None
        newest = next(entry for entry in reversed(greedy.entries) if entry.is_waiting)
        self.remove(newest)
        return newest

    def _forget_old(self) -> None:
        """Forget keys of which nothing waits, once time has come to where they were served to."""
        if len(self._lines) <= 2 * self._length + 16:
            return
        for key, line in list(self._lines.items()):
            if not line.length and (line.due_next <= self._now or not self._length):
                del self._lines[key]
