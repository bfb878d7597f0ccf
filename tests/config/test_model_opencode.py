"""Tests of `llmproxy.config.model_opencode`."""

from __future__ import annotations

from llmproxy.config.model_opencode import OpenCode


def test_nothing_is_served_unless_told() -> None:
    """For it makes clients run a command."""
    assert OpenCode() == OpenCode(enabled=False, url="", default_model="", small_model="")
