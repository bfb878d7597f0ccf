"""Tests of ``llmproxy.tls``."""
