"""Tests of ``llmproxy.limits.refusal``."""

from __future__ import annotations

import re
from itertools import product
from typing import get_args

import pytest

from llmproxy.entitlements import LimitStanding
from llmproxy.errors import QuotaReserved, RateLimited
from llmproxy.limits.refusal import Kind, Reading, Scope, go_duration, refuse


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0000001, "1ms"),
        (0.0000000001, "0s"),
        (0.0004, "1ms"),
        (0.02, "20ms"),
        (0.999, "999ms"),
        (0.9999, "1s"),
        (1.2, "1.2s"),
        (1.0349, "1.035s"),
        (59.9999, "1m0s"),
        (360, "6m0s"),
        (90.5, "1m30.5s"),
        (3600, "1h0m0s"),
        (3661.25, "1h1m1.25s"),
        (100_000, "27h46m40s"),
        (-1, "0s"),
    ],
)
def test_go_duration(seconds: float, text: str) -> None:
    """As Go prints them, in whole milliseconds; never less than it takes."""
    assert go_duration(seconds) == text


def test_longest_wait() -> None:
    """It is told, with the words of who makes one wait."""
    error = refuse(
        [
            Reading("key", "requests", 2.5),
            Reading("model", "tokens", 7.25),
            Reading("global", "tokens"),
        ]
    )
    assert type(error) is RateLimited
    assert error.retry_after_s == 7.25
    assert str(error) == (
        "The tokens of this model are used up for the moment. Please try again later."
    )
    assert error.headers == ()


def test_least_wait() -> None:
    """A wait of microseconds is told as a millisecond."""
    assert refuse([Reading("key", "requests", 0.000_000_1)]).retry_after_s == 0.001


def test_first_of_equal_waits() -> None:
    """The message is of one of them, always the same."""
    error = refuse([Reading("key", "requests", 1), Reading("global", "requests", 1)])
    assert str(error) == (
        "Too many requests with this API key in a short time. Please try again later."
    )


def test_quota_is_held() -> None:
    """Its own class and words, if nothing else makes one wait as long."""
    quota = Reading("key", "quota", 1.0)
    assert type(refuse([Reading("key", "requests", 0.5), quota])) is QuotaReserved
    assert type(refuse([Reading("key", "requests", 1.5), quota])) is RateLimited


def test_fields_of_what_refused() -> None:
    """Of several buckets of a kind it is the one that refused, if others have less left, too."""
    error = refuse(
        [
            Reading("key", "requests", 0, LimitStanding(5, 1, 0.4)),
            Reading("global", "requests", 0.02, LimitStanding(100, 7, 0.02)),
            Reading("key", "tokens", 0, LimitStanding(1_000, 900, 6.0)),
            Reading("model", "tokens", 0, LimitStanding(600, 300, 30.0)),
            Reading("model", "concurrent", 0.01),
        ]
    )
    assert error.headers == (
        (b"x-ratelimit-limit-requests", b"100"),
        (b"x-ratelimit-remaining-requests", b"7"),
        (b"x-ratelimit-reset-requests", b"20ms"),
        (b"x-ratelimit-limit-tokens", b"600"),
        (b"x-ratelimit-remaining-tokens", b"300"),
        (b"x-ratelimit-reset-tokens", b"30s"),
    )


@pytest.mark.parametrize(
    ("scope", "kind"), list(product(get_args(Scope), ("requests", "tokens", "concurrent", "quota")))
)
def test_words(scope: Scope, kind: Kind) -> None:
    """No message has a number, or what clients take for a prompt that is too long."""
    message = str(refuse([Reading(scope, kind, 1.0)]))
    assert message.endswith("Please try again later.")
    assert not re.search(
        r"\d|rate limit|overloaded|token limit|too many tokens|exceed|[{}]", message, re.IGNORECASE
    )
