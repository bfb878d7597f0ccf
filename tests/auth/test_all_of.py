"""Tests of `llmproxy.auth.all_of`."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from llmproxy.auth import all_of
from llmproxy.auth.all_of import AllOf, combine
from llmproxy.auth.verdicts import UNSAID, Verdict
from llmproxy.entitlements import NO_LIMITS, Limits, OwnLimits, Quota
from llmproxy.errors import AuthUnavailable, IpNotAllowed, KeyDisabled
from llmproxy.values import Principal
from tests.auth.fakes import SaidVerdicts, outcome, prepared


def verdict(*sources: SaidVerdicts) -> Any:
    """Give what sources say together, at once."""
    return AllOf(sources, NO_LIMITS).recall(b"")


def test_all_must_know_the_key() -> None:
    """One that does not is enough to make it unknown, whatever the others may say."""
    known, unknown, unsaid = SaidVerdicts(prepared()), SaidVerdicts(None), SaidVerdicts(UNSAID)
    assert verdict(known, unknown) is None
    assert verdict(unsaid, unknown) is None
    assert verdict(known, unsaid) is UNSAID
    assert verdict(known, known).principal == Principal("k")
    assert verdict() is None


def test_all_are_asked() -> None:
    """Those that must be; not after one that does not know the key, or cannot say."""
    known = SaidVerdicts(answer=succeed(prepared("a")))
    both = AllOf([known, SaidVerdicts(prepared("b"))], NO_LIMITS)
    assert outcome(both.ask("sk", b"")).principal.key_id == "a"
    answers: list[Deferred[Verdict | None]] = [succeed(None), fail(AuthUnavailable())]
    for answer in answers:
        last = SaidVerdicts(answer=succeed(prepared()))
        found: list[Any] = []
        AllOf([SaidVerdicts(answer=answer), last], NO_LIMITS).ask("sk", b"").addBoth(found.append)
        assert last.asked == []
        assert found[0] is None or found[0].type is AuthUnavailable


def test_change_while_one_is_waited_for() -> None:
    """A key that is disabled meanwhile does not pass by what was said of it before."""
    slow: Deferred[Verdict | None] = Deferred()
    first, second = SaidVerdicts(prepared("a")), SaidVerdicts(answer=slow)
    both = AllOf([first, second], NO_LIMITS)
    found: list[Any] = []
    both.ask("sk", b"").addCallback(found.append)
    first.said = prepared("a", status="disabled")
    both.forget({"a"})
    second.said = prepared("b")
    slow.callback(second.said)
    assert type(found[0].refusal(0.0, "192.0.2.1")) is KeyDisabled


def test_each_may_refuse() -> None:
    """Everybody's rules hold, those of addresses too; the first refusal is told."""
    inside = SaidVerdicts(prepared(allowed_ips=("10.0.0.0/8",)))
    without = SaidVerdicts(prepared(denied_ips=("10.1.0.0/16",)))
    both = verdict(inside, without)
    assert both.refusal(0.0, "10.2.0.1") is None
    assert type(both.refusal(0.0, "10.1.0.1")) is IpNotAllowed
    assert type(both.refusal(0.0, "11.0.0.1")) is IpNotAllowed
    disabled = SaidVerdicts(prepared(status="disabled"))
    assert type(verdict(inside, disabled).refusal(0.0, "10.0.0.1")) is KeyDisabled
    assert type(verdict(disabled, inside).refusal(0.0, "11.0.0.1")) is KeyDisabled


def test_is_put_together_once() -> None:
    """The same verdicts give the same object; a new one of them a new one."""
    first, second = SaidVerdicts(prepared("a")), SaidVerdicts(prepared("b"))
    both = AllOf([first, second], NO_LIMITS)
    made = both.recall(b"x")
    assert both.recall(b"x") is made
    second.said = prepared("b", status="disabled")
    assert both.recall(b"x") is not made


def test_ids() -> None:
    """A principal's id is the first source's; those behind it are everybody's."""
    both = AllOf([SaidVerdicts(prepared("a")), SaidVerdicts(prepared("b"))], NO_LIMITS)
    assert both.principal_id(b"x", "b") == "b"
    both.recall(b"x")
    assert both.ids_behind("a") == ("a", "b")
    assert both.principal_id(b"x", "b") == "a"
    assert both.ids_behind("other") == ("other",)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys used last are kept."""
    monkeypatch.setattr(all_of, "MAX_KEYS", 2)
    source = SaidVerdicts()
    both = AllOf([source], NO_LIMITS)
    for name in "abc":
        source.said = prepared(name)
        both.recall(name.encode())
    assert [both.principal_id(name.encode(), "?") for name in "abc"] == ["?", "b", "c"]


def test_records_and_forgetting() -> None:
    """A record in any source is one; all sources forget."""
    first, second = SaidVerdicts(), SaidVerdicts(recorded=True)
    both = AllOf([first, second], NO_LIMITS)
    assert both.has_record(b"")
    both.forget(None)
    assert first.forgotten == second.forgotten == [None]


def test_who_it_is() -> None:
    """Called as the first calls it; the earliest end, the first budget, all groups of models."""
    quota = Quota(10)
    one = Principal("a", "A", "ua", (("x*",),), expires_at_s=20.0)
    two = Principal("b", "B", "ub", (("*y",),), quota=quota, expires_at_s=10.0)
    three = Principal("c", quota=Quota(5))
    assert combine([one, two, three], NO_LIMITS) == Principal(
        "a", "A", "ua", (("x*",), ("*y",)), None, quota, 10.0
    )
    assert combine([three], NO_LIMITS) == three


@pytest.mark.parametrize(
    ("given", "per_key", "strictest"),
    [
        ((5, 7), 0, 5),
        ((5, 0), 0, 5),
        ((0, 0), 3, 0),
        ((5, None), 0, 5),
        ((5, None), 3, 3),
        ((0, None), 3, 3),
        ((0, None), 0, 0),
        ((None, None), 3, None),
    ],
)
def test_stricter_limit(
    given: tuple[int | None, int | None], per_key: int, strictest: int | None
) -> None:
    """0 is no limit, and none of its own is the limit of every key."""
    principals = [Principal("k", own_limits=OwnLimits(max_concurrent=one)) for one in given]
    found = combine(principals, Limits(max_concurrent=per_key)).own_limits
    assert found == (None if strictest is None else OwnLimits(max_concurrent=strictest))
