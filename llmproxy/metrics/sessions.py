"""Sessions, added up while they last: how many there are, and what one costs in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime

from llmproxy.values import UsageRecord

IDLE_S: Final = 1800.0
"""A session without a request for so long has ended."""

MOST_SESSIONS: Final = 10_000
"""So many are known at once; of more, the one that is quiet for longest ends early."""


class SessionSums:
    """Adds up the tokens of each session. There is no timer: ends are seen when somebody looks.

    Args:
        ended: Called with the tokens of each session that has ended.
        clock: Tells which have.
    """

    def __init__(self, ended: Callable[[float], None], clock: IReactorTime) -> None:
        self._ended = ended
        self._clock = clock
        # When each was last seen, and its tokens; the one that is quiet for longest is first.
        self._sessions: dict[tuple[str, str], tuple[float, int]] = {}

    def __repr__(self) -> str:
        return f"<SessionSums {len(self._sessions)}>"

    def add(self, record: UsageRecord) -> None:
        """Add a request of a session; clients choose the ids, so each key has its own."""
        place = (record.key_id, record.session_id)
        now_s = self._clock.seconds()
        last_s, tokens = self._sessions.pop(place, (now_s, 0))
        if now_s - last_s > IDLE_S:
            self._ended(tokens)
            tokens = 0
        self._sessions[place] = (now_s, tokens + record.usage.total_tokens)
        if len(self._sessions) > MOST_SESSIONS:
            self._end_first()

    def active(self) -> int:
        """Say how many there are, having ended those that are over."""
        limit_s = self._clock.seconds() - IDLE_S
        while self._sessions and next(iter(self._sessions.values()))[0] < limit_s:
            self._end_first()
        return len(self._sessions)

    def _end_first(self) -> None:
        first = next(iter(self._sessions))
        _, tokens = self._sessions.pop(first)
        self._ended(tokens)
