"""Tests of `llmproxy.workers.parent`; that it runs workers is tested with the whole daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmproxy.config.load import parse_config
from llmproxy.config.model import Config
from llmproxy.workers.parent import warnings_of


def config(more: str = "") -> Config:
    """Give a configuration."""
    text = f"backends: [{{name: a, url: 'demo:'}}]\nauth: {{enabled: false}}\n{more}"
    return parse_config(text, {}, read_file=lambda path: Path(path).read_text())


REDIS = "storage: {caches: [{name: r}]}\nrate_limit: {storage: redis, redis: r, "


@pytest.mark.parametrize(
    ("more", "is_told"),
    [
        ("", False),
        ("rate_limit: {per_key: {burst_size: 3}}", True),
        ("rate_limit: {global: {max_concurrent: 3}}", True),
        ("rate_limit: {per_model: {m: {tokens_per_minute: 3}}}", True),
        ("rate_limit: {enabled: false, per_key: {burst_size: 3}}", False),
        (f"{REDIS}per_key: {{burst_size: 3}}}}", False),
    ],
)
def test_limits_that_each_worker_counts_by_itself(more: str, is_told: bool) -> None:
    """They are told of, once, in one line."""
    lines = warnings_of(config(more), 3)
    assert len(lines) == is_told
    assert all("3 times" in line and "redis" in line for line in lines)
