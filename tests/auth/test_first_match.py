"""Tests of `llmproxy.auth.first_match`."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from llmproxy.auth.first_match import FirstMatch
from llmproxy.auth.verdicts import UNSAID
from llmproxy.errors import AuthUnavailable
from tests.auth.fakes import SaidVerdicts, outcome, prepared

KNOWN, LATER = prepared("known"), prepared("later")


def test_first_that_knows_the_key_decides_at_once() -> None:
    """Those before it did not know it, those after it play no role."""
    assert FirstMatch([SaidVerdicts(None), SaidVerdicts(KNOWN), SaidVerdicts(LATER)]).recall(
        b""
    ) is (KNOWN)
    assert FirstMatch([SaidVerdicts(KNOWN), SaidVerdicts(UNSAID)]).recall(b"") is KNOWN


def test_earlier_source_comes_first() -> None:
    """A key that a later one knows must wait for the earlier one: it may be disabled there."""
    earlier = SaidVerdicts(UNSAID, answer=succeed(None))
    both = FirstMatch([earlier, SaidVerdicts(LATER)])
    assert both.recall(b"") is UNSAID
    assert outcome(both.ask("sk", b"")) is LATER
    assert earlier.asked == ["sk"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nobody_knows_the_key(count: int) -> None:
    """After the last source the key is unknown, at once or after asking."""
    assert FirstMatch([SaidVerdicts(None)] * count).recall(b"") is None
    asked = FirstMatch([SaidVerdicts(answer=succeed(None)) for _ in range(count)])
    found: list[Any] = []
    asked.ask("sk", b"").addCallback(found.append)
    assert found == [None]


def test_asks_in_order_until_one_knows() -> None:
    """Later ones are not asked."""
    first, second = SaidVerdicts(answer=succeed(None)), SaidVerdicts(answer=succeed(KNOWN))
    third = SaidVerdicts(answer=succeed(LATER))
    assert outcome(FirstMatch([first, second, third]).ask("sk", b"")) is KNOWN
    assert (first.asked, second.asked, third.asked) == (["sk"], ["sk"], [])


def test_source_that_cannot_say_ends_it() -> None:
    """No pass by a later source while an earlier one is down."""
    down, later = SaidVerdicts(answer=fail(AuthUnavailable())), SaidVerdicts(LATER)
    assert outcome(FirstMatch([down, later]).ask("sk", b"")) is AuthUnavailable
    assert later.asked == []


def test_cancelling() -> None:
    """Cancelling reaches the source that is being asked, and nobody is asked after it."""
    slow, later = SaidVerdicts(answer=Deferred()), SaidVerdicts(answer=succeed(LATER))
    asked = FirstMatch([slow, later]).ask("sk", b"")
    asked.addErrback(lambda _: None)
    asked.cancel()
    assert slow.answer is not None
    assert slow.answer.called
    assert later.asked == []


def test_records_and_forgetting() -> None:
    """A record in any source is one; all sources forget."""
    first, second = SaidVerdicts(), SaidVerdicts(recorded=True)
    both = FirstMatch([first, second])
    assert both.has_record(b"")
    assert not FirstMatch([first]).has_record(b"")
    both.forget({"k"})
    assert first.forgotten == second.forgotten == [{"k"}]
    assert (both.ids_behind("k"), both.principal_id(b"", "k")) == (("k",), "k")
