"""Tests of ``llmproxy.limits.rules``."""

from __future__ import annotations

import attrs

from llmproxy.config import model_stores
from llmproxy.config.model_stores import RateLimit
from llmproxy.entitlements import NO_LIMITS, Limits, OwnLimits
from llmproxy.limits.rules import LimitRules

_CONFIGURED = model_stores.Limits(
    requests_per_second=1,
    requests_per_minute=2,
    tokens_per_minute=3,
    max_concurrent=4,
    burst_size=5,
)
_LIMITS = Limits(1, 2, 3, 4, 5)


def test_nothing_configured() -> None:
    """No section, no limits."""
    assert LimitRules.from_config(RateLimit()) == LimitRules()


def test_every_figure_is_read() -> None:
    """Each from its key; a model without any figure has no limits."""
    rules = LimitRules.from_config(
        RateLimit(
            global_=_CONFIGURED,
            per_key=attrs.evolve(_CONFIGURED, burst_size=6),
            per_model={"big": _CONFIGURED, "small": model_stores.Limits()},
        )
    )
    assert rules.overall == _LIMITS
    assert rules.per_key == attrs.evolve(_LIMITS, burst_size=6)
    assert rules.per_model == {"big": _LIMITS}


def test_own_limits() -> None:
    """What a key has of its own stands before what every key has; 0 is no limit, too."""
    rules = LimitRules(per_key=_LIMITS)
    assert rules.of_key(None) == _LIMITS
    assert rules.of_key(OwnLimits(burst_size=0, max_concurrent=9)) == Limits(1, 2, 3, 9, 0)


def test_not_enabled() -> None:
    """Nothing counts, not even a key's own limits."""
    rules = LimitRules.from_config(
        RateLimit(
            enabled=False, global_=_CONFIGURED, per_key=_CONFIGURED, per_model={"m": _CONFIGURED}
        )
    )
    assert (rules.overall, rules.per_key, rules.per_model) == (NO_LIMITS, NO_LIMITS, {})
    assert rules.of_key(OwnLimits(max_concurrent=1)) == NO_LIMITS
