"""What a configuration says of its backends, all of them together."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from llmproxy.config.model import Model
from llmproxy.interfaces import IStrategy, IUpstreamClient
from llmproxy.values import Backend
from llmproxy.vitals.breaker import BreakerSettings


@attrs.frozen(eq=False, kw_only=True)
class Membership:
    """Who the backends are, what they serve, and by what rules one of them is chosen.

    Attributes:
        backends: Each with its client, in the configuration's order; names are unique.
        strategy: Chooses among those that could take a request.
        breaker: When breakers open, and for how long.
        max_ejected_percent: Most of those that could take a request that breakers may leave out.
        slow_start_s: How long a backend that is back starts slowly; 0: it does not.
        models: The section ``models``; empty: clients see what the backends serve.
        fallback: Ids of models to try for every model, after its own.
    """

    backends: Sequence[tuple[Backend, IUpstreamClient]]
    strategy: IStrategy
    breaker: BreakerSettings
    max_ejected_percent: float
    slow_start_s: float
    models: Sequence[Model] = ()
    fallback: Sequence[str] = ()
