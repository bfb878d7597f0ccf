"""Tests of `llmproxy.auth.keyed`."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from llmproxy.auth.credentials import UNREADABLE
from llmproxy.auth.keyed import KeyAuthenticator
from llmproxy.auth.throttle import MAX_UNDER_WAY, FailureThrottle
from llmproxy.auth.verdicts import Verdict
from llmproxy.errors import AuthUnavailable, InvalidApiKey, KeyDisabled, TooManyFailures
from llmproxy.interfaces import IAuthenticator
from tests.auth.fakes import DIGESTS, SaidVerdicts, outcome, prepared

IP = "192.0.2.7"


def made(
    verdicts: SaidVerdicts, throttle: FailureThrottle | None = None, **options: Any
) -> KeyAuthenticator:
    """Make an authenticator over verdicts."""
    options.setdefault("is_stored", lambda _: False)
    return KeyAuthenticator(
        verdicts, digests=DIGESTS, throttle=throttle, now=lambda: 1000.0, **options
    )


def strict(failed: int = 1) -> FailureThrottle:
    """Make a throttle that blocks after one failure, and so many have been."""
    throttle = FailureThrottle(60, 1, clock=Clock())
    for _ in range(failed):
        throttle.note_failure(IP)
    return throttle


def test_interface() -> None:
    """It is what the data path expects."""
    assert verifyObject(IAuthenticator, made(SaidVerdicts()))


def test_known_at_once() -> None:
    """What is in memory is answered in the same turn, and nobody is asked."""
    known = prepared("k", denied_ips=("10.0.0.0/8",))
    verdicts = SaidVerdicts(known)
    assert outcome(made(verdicts).authenticate("sk", IP)) is known.principal
    assert outcome(made(verdicts).authenticate("sk", "10.0.0.1")).__name__ == "IpNotAllowed"
    assert verdicts.asked == []


def test_asked_for() -> None:
    """What is not in memory is asked for, and judged when the answer comes."""
    answer: Deferred[Verdict | None] = Deferred()
    verdicts = SaidVerdicts(answer=answer)
    results: list[Any] = []
    made(verdicts).authenticate("sk", IP).addErrback(results.append)
    assert (verdicts.asked, results) == (["sk"], [])
    answer.callback(prepared("k", status="disabled"))
    assert results[0].type is KeyDisabled


def test_cancelling_reaches_the_source() -> None:
    """Cancelling the question cancels the look-up."""
    answer: Deferred[Verdict | None] = Deferred()
    asked = made(SaidVerdicts(answer=answer)).authenticate("sk", IP)
    asked.addErrback(lambda _: None)
    asked.cancel()
    assert answer.called


@pytest.mark.parametrize(
    "credential", ["", UNREADABLE, "sk\x00one", "sk\r\n", "ключ", "\ud800", "a" * 4097, "sk\x7f"]
)
def test_what_can_be_no_key_is_asked_for_nowhere(credential: str) -> None:
    """Not even a source that would know it is asked."""
    verdicts = SaidVerdicts(prepared())
    assert outcome(made(verdicts).authenticate(credential, IP)) is InvalidApiKey
    assert verdicts.asked == []


def test_unknown_keys_are_counted() -> None:
    """By address, whether at once or after a look-up; then they are not looked up any more."""
    for verdicts in (SaidVerdicts(None), SaidVerdicts(answer=succeed(None))):
        pipeline = made(verdicts, strict(failed=0))
        assert outcome(pipeline.authenticate("sk", IP)) is InvalidApiKey
        before = len(verdicts.asked)
        results: list[Failure] = []
        pipeline.authenticate("sk", IP).addErrback(results.append)
        error = results[0].value
        assert isinstance(error, TooManyFailures)
        assert error.retry_after_s == pytest.approx(1.0)
        assert len(verdicts.asked) == before


def test_unreadable_is_counted_and_none_is_not() -> None:
    """A guess is a guess; a request without a key is none."""
    pipeline = made(SaidVerdicts(None), strict(failed=0))
    for _ in range(5):
        assert outcome(pipeline.authenticate("", IP)) is InvalidApiKey
    assert outcome(pipeline.authenticate(UNREADABLE, IP)) is InvalidApiKey
    assert outcome(pipeline.authenticate(UNREADABLE, IP)) is TooManyFailures


def test_known_keys_pass_from_a_blocked_address() -> None:
    """Those in memory at once, and those whose verdict must be renewed after that."""
    known = prepared()
    assert outcome(made(SaidVerdicts(known), strict()).authenticate("sk", IP)) is known.principal
    renewed = SaidVerdicts(answer=succeed(known), recorded=True)
    assert outcome(made(renewed, strict()).authenticate("sk", IP)) is known.principal


def test_guesses_that_are_not_answered_yet_are_bounded() -> None:
    """Of one address, so that a slow source is not held by it; who asks for the same key waits."""
    verdicts = SaidVerdicts()
    pipeline = made(verdicts, FailureThrottle(30, 30, clock=Clock()))
    answers: list[Deferred[Verdict | None]] = []

    def ask(key: str, ip: str = IP) -> Deferred[Any]:
        verdicts.answer = Deferred()
        answers.append(verdicts.answer)
        return pipeline.authenticate(key, ip)

    asked = [ask(f"guess-{number}") for number in range(MAX_UNDER_WAY)]
    assert outcome(ask("another")) is TooManyFailures
    assert len(verdicts.asked) == MAX_UNDER_WAY
    same, elsewhere = ask("guess-1"), ask("another", "198.51.100.1")
    assert len(verdicts.asked) == MAX_UNDER_WAY + 2
    for answer in answers:
        answer.callback(None)
    assert {outcome(one) for one in (*asked, same, elsewhere)} == {InvalidApiKey}
    assert outcome(ask("another")) is TooManyFailures
    assert outcome(ask("another", "198.51.100.2")) is None


def test_places_of_those_who_leave_come_back() -> None:
    """Whatever became of a look-up, it is not counted as under way any more."""
    verdicts = SaidVerdicts()
    throttle = FailureThrottle(30, 30, clock=Clock())
    pipeline = made(verdicts, throttle)
    for number in range(3 * MAX_UNDER_WAY):
        verdicts.answer = Deferred()
        asked = pipeline.authenticate("sk", IP)
        asked.addErrback(lambda _: None)
        if number % 3 == 0:
            asked.cancel()
        elif number % 3 == 1:
            verdicts.answer.errback(AuthUnavailable())
        else:
            verdicts.answer.callback(prepared())
    assert throttle.blocked_s(IP) == 0.0


def test_refusals_and_outages_are_not_counted() -> None:
    """A disabled key is no guess, and a source that is down says nothing of one."""
    throttle = strict(failed=0)
    disabled = made(SaidVerdicts(prepared(status="disabled")), throttle)
    assert outcome(disabled.authenticate("sk", IP)) is KeyDisabled
    down = made(SaidVerdicts(answer=fail(AuthUnavailable())), throttle)
    assert outcome(down.authenticate("sk", IP)) is AuthUnavailable
    assert throttle.blocked_s(IP) == 0.0


def test_forget_and_ids() -> None:
    """Changes go to the sources; an id is the store's when the store says so."""
    verdicts = SaidVerdicts(None)
    pipeline = made(verdicts, is_stored=lambda key_id: key_id == "stored")
    pipeline.forget({"a"})
    pipeline.forget(None)
    assert verdicts.forgotten == [{"a"}, None]
    assert (pipeline.stored_id("stored"), pipeline.stored_id("other")) == ("stored", None)
    assert pipeline.principal_id(b"", "k") == "k"
    assert "KeyAuthenticator" in repr(pipeline)
