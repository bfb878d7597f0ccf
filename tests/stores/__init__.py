"""Tests of `llmproxy.stores`."""
