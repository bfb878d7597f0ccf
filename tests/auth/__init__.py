"""Tests of ``llmproxy.auth``."""
