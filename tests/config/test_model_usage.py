"""Tests of `llmproxy.config.model_usage`."""

from __future__ import annotations

from itertools import pairwise

from llmproxy.config.model_usage import Metrics, Usage, WebhookReporter


def test_nothing_is_reported_to_anybody_unless_it_is_said() -> None:
    """So nothing is written either."""
    assert Usage().enabled
    assert Usage().reporters == ()


def test_receivers_have_days() -> None:
    """Before a delivery becomes a dead letter, and an hour at most between two tries."""
    assert WebhookReporter().give_up_after >= 3 * 24 * 3600
    assert WebhookReporter().max_backoff <= 3600


def test_buckets_go_up() -> None:
    """From milliseconds to minutes."""
    buckets = Metrics().latency_buckets
    assert all(one < other for one, other in pairwise(buckets))
    assert buckets[-1] >= 5 * 60 * 1000
