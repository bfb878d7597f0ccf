"""Tests of ``llmproxy.health``."""
