"""Which limits the configuration sets in which scope.

Pure values. It knows nothing of how they are counted.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from llmproxy.config import model_stores
from llmproxy.entitlements import NO_LIMITS, Limits, OwnLimits


@attrs.frozen
class LimitRules:
    """The limits of each scope; `NO_LIMITS` where there are none.

    Attributes:
        overall: Of all requests together.
        per_key: Of each key that has none of its own.
        per_model: By the model's id.
        enabled: Whether keys' own limits count.
    """

    overall: Limits = NO_LIMITS
    per_key: Limits = NO_LIMITS
    per_model: Mapping[str, Limits] = attrs.field(factory=dict)
    enabled: bool = True

    @classmethod
    def from_config(cls, settings: model_stores.RateLimit) -> LimitRules:
        """Read the section ``rate_limit``; none of it counts when it is not enabled."""
        if not settings.enabled:
            return cls(enabled=False)
        return cls(
            overall=_limits(settings.global_),
            per_key=_limits(settings.per_key),
            per_model={
                model: limits
                for model, configured in settings.per_model.items()
                if (limits := _limits(configured)) != NO_LIMITS
            },
        )

    def of_key(self, own: OwnLimits | None) -> Limits:
        """Give the limits of a key that has these of its own."""
        if own is None or not self.enabled:
            return self.per_key
        return own.over(self.per_key)


def _limits(configured: model_stores.Limits) -> Limits:
    return Limits(
        requests_per_second=configured.requests_per_second,
        requests_per_minute=configured.requests_per_minute,
        tokens_per_minute=configured.tokens_per_minute,
        max_concurrent=configured.max_concurrent,
        burst_size=configured.burst_size,
    )
