"""Sessions, added up."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from llmproxy.metrics import sessions
from llmproxy.metrics.sessions import IDLE_S, SessionSums
from llmproxy.values import Usage, UsageRecord


class Sums(SessionSums):
    """On a clock of the test's.

    Attributes:
        ends: The tokens of sessions that have ended.
        clock: Tells which have.
    """

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.clock = Clock()
        super().__init__(self.ends.append, self.clock)

    def request(self, session: str, tokens: int, key: str = "k") -> None:
        """Add a request."""
        self.add(
            UsageRecord(
                id="i",
                time=0.0,
                request_id="r",
                endpoint="/v1/completions",
                key_id=key,
                session_id=session,
                usage=Usage(total_tokens=tokens),
                outcome="ok",
                status=200,
            )
        )


def test_a_session_is_told_of_when_it_is_over() -> None:
    """All of its requests together, half an hour after the last."""
    sums = Sums()
    sums.request("a", 10)
    sums.clock.advance(IDLE_S - 1)
    sums.request("a", 5)
    sums.clock.advance(IDLE_S)
    assert sums.active() == 1
    assert sums.ends == []
    sums.clock.advance(1)
    assert sums.active() == 0
    assert sums.ends == [15]


def test_one_that_comes_back_is_a_new_one() -> None:
    """Also when nobody has looked meanwhile."""
    sums = Sums()
    sums.request("a", 10)
    sums.clock.advance(IDLE_S + 1)
    sums.request("a", 1)
    assert sums.ends == [10]
    assert sums.active() == 1


def test_the_quiet_ones_end_and_the_others_stay() -> None:
    """The order is that of their last requests, not of their first."""
    sums = Sums()
    sums.request("a", 1)
    sums.request("b", 2)
    sums.clock.advance(IDLE_S / 2)
    sums.request("a", 10)
    sums.clock.advance(IDLE_S / 2 + 1)
    assert sums.active() == 1
    assert sums.ends == [2]


def test_keys_do_not_share_sessions() -> None:
    """Clients choose the ids."""
    sums = Sums()
    sums.request("a", 1, key="k1")
    sums.request("a", 2, key="k2")
    assert sums.active() == 2
    assert repr(sums) == "<SessionSums 2>"


def test_there_are_never_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is quiet for longest ends early."""
    monkeypatch.setattr(sessions, "MOST_SESSIONS", 2)
    sums = Sums()
    for number, session in enumerate(("a", "b", "a", "c")):
        sums.request(session, number + 1)
    assert sums.ends == [2]
    assert sums.active() == 2
