"""Tests of ``llmproxy.backends``."""
