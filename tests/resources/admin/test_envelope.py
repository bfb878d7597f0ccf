"""Why an operation is not done: from errors to answers."""

from __future__ import annotations

from typing import get_args

import pytest

from llmproxy.errors import (
    BodyTooLarge,
    ClientGone,
    InvalidBody,
    InvalidJson,
    KeyExists,
    MemoryBudgetSpent,
    RequestTimeout,
    StoreUnavailable,
    UpstreamError,
)
from llmproxy.resources.admin.envelope import CODES, Refusal, refusal_of, refused_for_now
from llmproxy.wire.admin import FailureCode
from tests.resources.admin import tree


@pytest.mark.parametrize(
    ("error", "status", "close"),
    [
        (Refusal(404, "no"), 404, False),
        (InvalidBody("no", param="name"), 400, False),
        (InvalidJson(), 400, False),
        (RequestTimeout(), 408, True),
        (BodyTooLarge(), 413, True),
        (MemoryBudgetSpent(), 503, True),
        (KeyExists(), 409, False),
        (StoreUnavailable("the database at 10.0.0.1 is down"), 503, False),
    ],
)
def test_what_is_answered(error: Exception, status: int, close: bool) -> None:
    """Each error that an operation may fail with has its status."""
    refusal = refusal_of(error)
    assert refusal is not None
    assert (refusal.status, refusal.close) == (status, close)
    assert str(refusal)
    assert "10.0.0.1" not in str(refusal)
    if status == 503:
        assert dict(refusal.headers)[b"Retry-After"] in (b"1", b"2")


def test_the_field_is_passed_on() -> None:
    """Where an error names one."""
    refusal = refusal_of(InvalidBody("no", param="name"))
    assert refusal is not None
    assert refusal.param == "name"


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), ClientGone(), UpstreamError()])
def test_faults(error: Exception) -> None:
    """All else is a fault of ours, whose words are not for the answer."""
    assert refusal_of(error) is None


@pytest.mark.parametrize(("seconds", "field"), [(0.01, b"1"), (1.0, b"1"), (7.5, b"8")])
def test_waiting(seconds: float, field: bytes) -> None:
    """Whole seconds, never too early."""
    refusal = refused_for_now(seconds)
    assert refusal.status == 429
    assert dict(refusal.headers)[b"Retry-After"] == field


def test_codes() -> None:
    """Every status has a code of the contract's, and every code its status."""
    assert sorted(CODES.values()) == sorted(get_args(FailureCode))
    assert {status: CODES[status] for status in tree.CODES} == tree.CODES
