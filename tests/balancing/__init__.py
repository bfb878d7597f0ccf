"""Tests of ``llmproxy.balancing``."""
