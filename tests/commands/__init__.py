"""Tests of ``llmproxy.commands``."""
