"""Tests of ``llmproxy.vitals``."""
