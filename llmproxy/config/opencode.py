"""The gateway as OpenCode is to see it, as far as its configuration tells."""

from __future__ import annotations

from typing import Final

from llmproxy.config.model import Config
from llmproxy.wire.opencode import OpenCodeProvider

SLACK_S: Final = 30.0
"""How much longer a client waits than the gateway: for the way there and back."""


def provider_of(config: Config, url: str) -> OpenCodeProvider:
    """Describe the gateway to OpenCode.

    Args:
        config: The gateway's configuration.
        url: Where clients find it.
    """
    return OpenCodeProvider(
        url=url.rstrip("/"),
        key_header=config.auth.header_names[0],
        head_wait_s=_with_slack(longest_head_wait_s(config)),
        silence_s=_with_slack(longest_silence_s(config)),
        default_model=config.opencode.default_model,
        small_model=config.opencode.small_model,
    )


def longest_head_wait_s(config: Config) -> float | None:
    """Say how long the gateway may take until it answers, be it with an error; None: no bound."""
    retry = config.routing.retry
    retries = retry.max_retries if retry.enabled else 0
    connects = [backend.connect_timeout for backend in config.backends]
    first_bytes = _first_byte_timeouts(config)
    may_queue = any(backend.max_concurrent for backend in config.backends)
    queue_s = config.routing.queue.max_wait if may_queue else 0.0
    if not all(connects) or not all(first_bytes) or (may_queue and not queue_s):
        return None
    return queue_s + (retries + 1) * max(connects) + retries * retry.max_wait + max(first_bytes)


def longest_silence_s(config: Config) -> float | None:
    """Say how long a stream may be silent before the gateway ends it; None: no bound.

    Many servers send the head first, and the prefill comes behind it.
    """
    silences = [
        *(backend.stall_timeout for backend in config.backends),
        *_first_byte_timeouts(config),
    ]
    return max(silences) if all(silences) else None


def _first_byte_timeouts(config: Config) -> list[float]:
    return [
        *(backend.first_byte_timeout for backend in config.backends),
        *(one.first_byte_timeout for one in config.models if one.first_byte_timeout is not None),
    ]


def _with_slack(seconds: float | None) -> float | None:
    return None if seconds is None else seconds + SLACK_S
