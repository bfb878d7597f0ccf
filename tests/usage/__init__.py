"""Tests of `llmproxy.usage`."""
